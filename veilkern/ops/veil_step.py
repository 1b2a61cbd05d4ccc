"""veil_step_ (eq. 13, MI-FGSM): one optimiser step of every person's veil, in place."""

from __future__ import annotations

from collections.abc import Callable

import torch

from veilkern.backends import serve
from veilkern.ops._checks import (
    check_blend,
    check_block,
    check_choice,
    check_device,
    check_memory,
    check_offset_range,
    check_offsets,
    check_output,
    check_same_photo,
    check_tensor,
)
from veilkern.ops._library import register, runs_now


def veil_step_(
    veils: torch.Tensor,
    momentum: torch.Tensor,
    gradients: torch.Tensor,
    images: torch.Tensor,
    offsets: torch.Tensor,
    *,
    a: int,
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
    mean_images [P, 3, H, W] in [0, 1] (default: computed). a: integer 0..255 (alpha = a / 255). lam, mu, step, decay:
    numbers or [P]. active: bool [P], the others stay as they are. visual: `norm` ||x - x'||_2 or `mse`. block, stride,
    form: of block_variance. Returns [P, 3]: mean|g|, L_vis, and L_var at the mean photo; zeros for a person who is not
    active. A person whose gradient is not finite is left alone, mean|g| NaN; so is one without photos or gradients, all
    NaN. veils and momentum must overlap neither each other nor anything else that is given. Raises TypeError or
    ValueError naming the argument.
    """
    op, floats = "veil_step_", [torch.float32, torch.float64]
    veils = check_tensor(op, "veils", veils, floats, "[P, 3, H, W]")
    people = len(veils)
    momentum = check_tensor(op, "momentum", momentum, [veils.dtype], f"[{people}, 3, H, W]")
    check_same_photo(op, "momentum", momentum, "veils", veils)
    images = check_tensor(op, "images", images, [torch.uint8], "[N, 3, H, W]")
    check_same_photo(op, "images", images, "veils", veils)
    if mean_images is not None:
        check_tensor(op, "mean_images", mean_images, [veils.dtype], f"[{people}, 3, H, W]")
        check_same_photo(op, "mean_images", mean_images, "veils", veils)
    gradients = check_tensor(op, "gradients", gradients, floats, "[M, 3, H, W]")
    check_same_photo(op, "gradients", gradients, "veils", veils)
    offsets = check_offsets(op, "offsets", offsets, "veils", veils)
    if gradient_offsets is None and len(gradients) != len(images):
        raise ValueError(
            f"{op}: gradient_offsets must be given when gradients are not one a photo, {len(images)}, got "
            f"{len(gradients)}"
        )
    gradient_offsets = offsets if gradient_offsets is None else gradient_offsets
    gradient_offsets = check_offsets(op, "gradient_offsets", gradient_offsets, "veils", veils)
    for name, value in (("offsets", offsets), ("gradient_offsets", gradient_offsets)):
        if len(value) != people + 1:
            raise ValueError(f"{op}: {name} must have {people + 1} entries, one more than veils, got {len(value)}")
    rates = [
        _per_person(op, name, value, veils)
        for name, value in (("lam", lam), ("mu", mu), ("step", step), ("decay", decay))
    ]
    tensors = [value if isinstance(value, torch.Tensor) else None for value in rates]
    numbers = [0.0 if isinstance(value, torch.Tensor) else value for value in rates]
    if active is not None:
        check_tensor(op, "active", active, [torch.bool], f"[{people}]")
        check_device(op, "active", active, "veils", veils)
    check_choice(op, "visual", visual, ("norm", "mse"))
    check_choice(op, "form", form, ("consistent", "literal"))
    check_block(op, block, stride, *veils.shape[2:])
    check_blend(op, a, 0)
    with torch.no_grad():
        run: Callable = _veil_step if runs_now(veils, gradients) else torch.ops.veilkern.veil_step_
        return run(
            veils,
            momentum,
            gradients.to(veils.dtype),
            images,
            offsets,
            gradient_offsets,
            a,
            *tensors,
            numbers,
            active,
            mean_images,
            visual,
            list(block),
            stride,
            form,
        )


def _per_person(op: str, name: str, value: float | torch.Tensor, veils: torch.Tensor) -> float | torch.Tensor:
    """A number as it is, so that no tensor need be made of it; a tensor as float64 [P]."""
    people = len(veils)
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided:
            raise TypeError(f"{op}: {name} must be a dense tensor, got {value.layout}: use .to_dense()")
        if value.shape not in ((), (people,)):
            raise ValueError(f"{op}: {name} must be a number or [{people}], got {list(value.shape)}")
        check_device(op, name, value, "veils", veils)
        if not torch.compiler.is_compiling() and type(value) is torch.Tensor:
            check_memory(op, name, value)
        return value.detach().to(torch.float64).expand(people).contiguous()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{op}: {name} must be a number or [{people}], got {type(value).__name__}")
    return float(value)


def _veil_step(
    veils, momentum, gradients, images, offsets, gradient_offsets, a, lam, mu, step, decay, numbers, active,
    mean_images, visual, block, stride, form,
):  # fmt: skip
    tensors = {"lam": lam, "mu": mu, "step": step, "decay": decay}
    given = [
        ("gradients", gradients), ("images", images), ("offsets", offsets), ("gradient_offsets", gradient_offsets),
        ("active", active), ("mean_images", mean_images), *tensors.items(),
    ]  # fmt: skip
    check_output("veil_step_", ("veils", veils), [("momentum", momentum), *given])
    check_output("veil_step_", ("momentum", momentum), given)
    check_offset_range("veil_step_", "offsets", offsets, len(images))
    check_offset_range("veil_step_", "gradient_offsets", gradient_offsets, len(gradients))
    if not veils.numel():
        return veils.new_zeros((len(veils), 3))
    rates = [number if t is None else t for t, number in zip(tensors.values(), numbers, strict=True)]
    return serve(
        "veil_step_", veils, momentum, gradients, images, offsets, gradient_offsets, a, *rates, active, mean_images,
        visual, tuple(block), min(stride, max(veils.shape[2:])), form,
    )  # fmt: skip


def _fake(veils, *others):
    return veils.new_empty((veils.shape[0], 3))


register(
    "veil_step_(Tensor(a!) veils, Tensor(b!) momentum, Tensor gradients, Tensor images, Tensor offsets, "
    "Tensor gradient_offsets, int a, Tensor? lam, Tensor? mu, Tensor? step, Tensor? decay, float[] numbers, "
    "Tensor? active, Tensor? mean_images, str visual, int[] block, int stride, str form) -> Tensor",
    _veil_step,
    _fake,
)
