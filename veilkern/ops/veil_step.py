"""veil_step_ (eq. 13, MI-FGSM): one optimiser step of every person's veil, in place."""

from __future__ import annotations

import torch

from veilkern.backends import select
from veilkern.ops._checks import check_blend, check_block, check_choice, check_offsets, check_same_photo, check_tensor


def veil_step_(
    veils: torch.Tensor,
    momentum: torch.Tensor,
    gradients: torch.Tensor,
    images: torch.Tensor,
    offsets: torch.Tensor,
    *,
    blend: int,
    lam: float | torch.Tensor,
    mu: float | torch.Tensor,
    step: float | torch.Tensor,
    decay: float | torch.Tensor,
    active: torch.Tensor | None = None,
    gradient_offsets: torch.Tensor | None = None,
    mean_images: torch.Tensor | None = None,
    visual: str = "norm",
    block: tuple[int, int] = (3, 3),
    stride: int = 1,
    form: str = "consistent",
) -> torch.Tensor:
    """g = dL/dv; g /= mean|g|; m = decay m + g; v = clamp(v - step sign(m), 0, 1). Changes veils and momentum.

    L = mean over the person's photos of L_fea - lam L_vis + mu L_var. veils, momentum float32 or float64 [P, 3, H, W];
    gradients [M, 3, H, W] of that dtype, dL_fea_i / dx'_i of the photos that went through the network, grouped by
    gradient_offsets (int64 [P + 1]; default: offsets); images uint8 [N, 3, H, W] by offsets, all that L_vis counts;
    mean_images [P, 3, H, W] in [0, 1] (default: computed). blend: a, integer 0..254. lam, mu, step, decay: numbers or
    [P]. active: bool [P], the others stay as they are. visual: `norm` ||x - x'||_2 or `mse`. block, stride, form: of
    block_variance. Returns [P, 3]: mean|g| (NaN where the gradient was not finite: that veil was left alone), L_vis,
    and L_var at the mean photo. Raises TypeError or ValueError naming the argument.
    """
    op, floats = "veil_step_", [torch.float32, torch.float64]
    veils = check_tensor(op, "veils", veils, floats, "[P, 3, H, W]")
    people = len(veils)
    images = check_tensor(op, "images", images, [torch.uint8], "[N, 3, H, W]")
    check_same_photo(op, "images", images, "veils", veils)
    for name, value in (("momentum", momentum), ("mean_images", mean_images)):
        if value is not None:
            check_tensor(op, name, value, [veils.dtype], f"[{people}, 3, H, W]")
            check_same_photo(op, name, value, "veils", veils)
    gradients = check_tensor(op, "gradients", gradients, floats, "[M, 3, H, W]")
    check_same_photo(op, "gradients", gradients, "veils", veils)
    offsets = check_offsets(op, "offsets", offsets, len(images))
    gradient_offsets = check_offsets(
        op, "gradient_offsets", offsets if gradient_offsets is None else gradient_offsets, len(gradients)
    )
    for name, value in (("offsets", offsets), ("gradient_offsets", gradient_offsets)):
        if len(value) != people + 1:
            raise ValueError(f"{op}: {name} must have {people + 1} entries, one more than veils, got {len(value)}")
    scalars = {"lam": lam, "mu": mu, "step": step, "decay": decay}
    for name, scalar in scalars.items():
        if isinstance(scalar, torch.Tensor) and scalar.shape not in ((), (people,)):
            raise ValueError(f"{op}: {name} must be a number or [{people}], got {list(scalar.shape)}")
    if active is not None:
        check_tensor(op, "active", active, [torch.bool], f"[{people}]")
    check_choice(op, "visual", visual, ("norm", "mse"))
    check_choice(op, "form", form, ("consistent", "literal"))
    check_block(op, block, stride, *veils.shape[2:])
    check_blend(op, blend, 0)
    serve = select(op, veils, images)
    return serve(
        veils,
        momentum,
        gradients,
        images,
        offsets,
        blend=blend,
        **scalars,
        active=active,
        gradient_offsets=gradient_offsets,
        mean_images=mean_images,
        visual=visual,
        block=tuple(block),
        stride=stride,
        form=form,
    )
