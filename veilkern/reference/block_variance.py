"""block_variance (eq. 9-11): the variance of sliding box sums; smaller means flatter to the eye."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def block_sums(images: torch.Tensor, block: tuple[int, int], stride: int) -> torch.Tensor:
    """Valid sums over h x w boxes: [N, C, (H - h) // stride + 1, (W - w) // stride + 1]."""
    return F.avg_pool2d(images, block, stride) * (block[0] * block[1])


def block_variance(
    images: torch.Tensor, *, block: tuple[int, int] = (3, 3), stride: int = 1, form: str = "consistent"
) -> torch.Tensor:
    """Loss [N] of float images [N, C, H, W]; population variance over the boxes S of a channel, summed over channels.

    consistent: (1 + 1 / (hw)^2) Var(S). literal: Var(S) + mean_i (S_i / (hw) - mean S)^2, as the paper prints it.
    """
    sums = block_sums(images, block, stride).flatten(2)
    mean = sums.mean(2, keepdim=True)
    variance = (sums - mean).square().mean(2)
    area = block[0] * block[1]
    if form == "consistent":
        return ((1 + 1 / area**2) * variance).sum(1)
    return (variance + (sums / area - mean).square().mean(2)).sum(1)


def block_variance_gradient(
    images: torch.Tensor,
    *,
    block: tuple[int, int] = (3, 3),
    stride: int = 1,
    form: str = "consistent",
    scale: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss [N] and its gradient [N, C, H, W] with respect to images, each image's times scale [N], by autograd."""
    with torch.inference_mode(False), torch.enable_grad():
        images = images.detach().clone().requires_grad_()  # a copy: one made in inference_mode records nothing
        loss = block_variance(images, block=block, stride=stride, form=form)
        (gradient,) = torch.autograd.grad(loss, images, torch.ones_like(loss) if scale is None else scale)
    return loss.detach(), gradient
