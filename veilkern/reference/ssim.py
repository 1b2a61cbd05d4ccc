"""ssim: structural similarity (Wang et al. 2004) with a Gaussian window."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from veilkern.filters import gaussian_taps

Blur = Callable[[torch.Tensor], torch.Tensor]


def blurs(like: torch.Tensor, window: int, sigma: float, borders: str) -> tuple[Blur, Blur]:
    """The Gaussian window on images such as `like`, and its transpose, which takes slopes back."""
    channels = like.shape[1]
    taps = gaussian_taps(window, sigma, like.dtype).to(like.device)
    down, along = (taps.view(1, 1, *side).expand(channels, 1, -1, -1) for side in ((-1, 1), (1, -1)))
    pad = window // 2 if borders == "same" else 0

    def blur(z: torch.Tensor) -> torch.Tensor:
        z = F.conv2d(z, down, padding=(pad, 0), groups=channels)
        return F.conv2d(z, along, padding=(0, pad), groups=channels)

    def back(z: torch.Tensor) -> torch.Tensor:
        z = F.conv_transpose2d(z, along, padding=(0, pad), groups=channels)
        return F.conv_transpose2d(z, down, padding=(pad, 0), groups=channels)

    return blur, back


def ssim(
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    window: int = 11,
    sigma: float = 1.5,
    borders: str = "valid",
    data_range: float = 1.0,
) -> torch.Tensor:
    """Mean SSIM [N] of float x, y [N, C, H, W], over channels and places; differentiable.

    borders: `valid` counts only places where the window lies inside; `same` pads with zeros.
    """
    blur, _ = blurs(x, window, sigma, borders)
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    score = (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return score.flatten(1).mean(1)


def ssim_gradient(
    x: torch.Tensor, y: torch.Tensor, *, scale: torch.Tensor | None = None, **options
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Score [N] and its gradients with respect to x and y, each pair's times scale [N], by autograd.

    The other options are those of ssim.
    """
    with torch.inference_mode(False), torch.enable_grad():
        # Copies: tensors made in inference_mode record nothing.
        x, y = x.detach().clone().requires_grad_(), y.detach().clone().requires_grad_()
        score = ssim(x, y, **options)
        upstream = torch.ones_like(score) if scale is None else scale
        gradient_x, gradient_y = torch.autograd.grad(score, (x, y), upstream)
    return score.detach(), gradient_x, gradient_y
