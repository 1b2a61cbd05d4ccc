"""veil_step (eq. 13 and MI-FGSM): one step of every veil, in place."""

from __future__ import annotations

import torch

from veilkern.reference.block_variance import block_variance


def veil_step_(
    veils: torch.Tensor,
    momentum: torch.Tensor,
    gradients: torch.Tensor,
    images: torch.Tensor,
    offsets: torch.Tensor,
    *,
    a: int,
    lam,
    mu,
    step,
    decay,
    active: torch.Tensor | None = None,
    gradient_offsets: torch.Tensor | None = None,
    mean_images: torch.Tensor | None = None,
    visual: str = "norm",
    block: tuple[int, int] = (3, 3),
    stride: int = 1,
    form: str = "consistent",
) -> torch.Tensor:
    """g = dL/dv; g /= mean|g|; m = decay m + g; v = clamp(v - step sign(m), 0, 1), for every active person.

    L is the mean over a person's photos of L_fea - lam L_vis + mu L_var. veils, momentum float [P, 3, H, W];
    gradients float [M, 3, H, W]: dD_i/dx'_i of photos grouped by gradient_offsets (default: offsets); images uint8
    [N, 3, H, W] by offsets; mean_images float [P, 3, H, W] in [0, 1] (default: from images); lam, mu, step, decay
    numbers or [P]. Returns [P, 3]: mean|g| (NaN: that person's gradient was not finite and nothing was changed),
    L_vis, and L_var at the mean photo; all NaN for a person without photos or gradients, zeros for one not active.
    """
    people, alpha, dtype = len(veils), a / 255, veils.dtype
    counts = offsets.diff().to(dtype).view(-1, 1, 1, 1)
    person = torch.repeat_interleave(torch.arange(people, device=offsets.device), offsets.diff())
    pixels = images.to(dtype) / 255

    def mean_over(values, rows, size):
        return torch.zeros_like(veils).index_add_(0, rows, values) / size

    if mean_images is None:
        mean_images = mean_over(pixels, person, counts)
    grad_offsets = offsets if gradient_offsets is None else gradient_offsets
    grad_person = torch.repeat_interleave(torch.arange(people, device=offsets.device), grad_offsets.diff())
    g = (1 - alpha) * mean_over(gradients.to(dtype), grad_person, grad_offsets.diff().to(dtype).view(-1, 1, 1, 1))

    gap = veils[person] - pixels
    if visual == "norm":
        r = gap.flatten(1).norm(dim=1)
        loss_vis = (1 - alpha) * torch.zeros_like(counts.flatten()).index_add_(0, person, r) / counts.flatten()
        inverse = torch.where(r > 0, 1 / r, torch.zeros_like(r)).view(-1, 1, 1, 1)
        slope_vis = (1 - alpha) * mean_over(gap * inverse, person, counts)
    else:
        r = gap.square().flatten(1).mean(1)
        loss_vis = (1 - alpha) ** 2 * torch.zeros_like(counts.flatten()).index_add_(0, person, r) / counts.flatten()
        slope_vis = (1 - alpha) ** 2 * 2 / veils[0].numel() * (veils - mean_images)

    # Box sums are linear and their variance is quadratic, so the mean photo gives the exact mean gradient.
    with torch.inference_mode(False), torch.enable_grad():
        mixed = (alpha * mean_images + (1 - alpha) * veils).detach().clone().requires_grad_()
        loss_var = block_variance(mixed, block=block, stride=stride, form=form)
        slope_var = (1 - alpha) * torch.autograd.grad(loss_var.sum(), mixed)[0]

    g = g - _column(lam, veils) * slope_vis + _column(mu, veils) * slope_var
    size = g.abs().flatten(1).mean(1)
    present = (offsets.diff() > 0) & (grad_offsets.diff() > 0)
    finite = size.isfinite() & present
    moving = finite if active is None else finite & active
    scale = torch.where(size > 0, 1 / size, torch.zeros_like(size)).view(-1, 1, 1, 1)
    moved = _column(decay, veils) * momentum + g * scale
    chosen = moving.view(-1, 1, 1, 1)
    momentum.copy_(torch.where(chosen, moved, momentum))
    veils.copy_(torch.where(chosen, (veils - _column(step, veils) * moved.sign()).clamp(0, 1), veils))
    statistics = torch.stack([size, loss_vis, loss_var.detach()], 1)
    statistics[~finite, 0] = float("nan")
    statistics[~present] = float("nan")
    return statistics if active is None else torch.where(active[:, None], statistics, torch.zeros_like(statistics))


def _column(value, like: torch.Tensor) -> torch.Tensor:
    """A number or [P] as something that multiplies [P, 3, H, W]."""
    value = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    return value.view(-1, 1, 1, 1) if value.ndim else value
