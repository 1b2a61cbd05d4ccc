"""recover (eq. 14, corrected): x = (x' - (1 - alpha) v) / alpha; the paper's division by 1 - alpha is a misprint."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from veilkern.filters import gaussian_weights


def recover_float(protected: torch.Tensor, veils: torch.Tensor, rows: torch.Tensor, alpha: float) -> torch.Tensor:
    """float [N, 3, H, W], not clamped, from float protected photos [N, 3, H, W], veils [P, 3, H, W], rows i64 [N]."""
    return (protected - (1 - alpha) * veils[rows]) / alpha


def recover(
    protected: torch.Tensor, veils: torch.Tensor, rows: torch.Tensor, a: int, *, gaussian_sigma: float | None = None
) -> torch.Tensor:
    """uint8 clamp(floor((2 t + a) / (2 a)), 0, 255); t = 255 x' - (255 - a) v, from uint16 p - (255 - a) v."""
    scale = 255 if protected.dtype == torch.uint8 else 1
    t = scale * protected.to(torch.int32) - (255 - a) * veils[rows].to(torch.int32)
    x = torch.div(2 * t + a, 2 * a, rounding_mode="floor").clamp(0, 255).to(torch.uint8)
    return x if gaussian_sigma is None else gaussian_filter(x, gaussian_sigma)


def gaussian_filter(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian filter of uint8 [N, C, H, W], borders reflected (without the edge), rounded once: uint8 [N, C, H, W].

    x = (sum_ij w_i w_j x_ij + 2^23) div 2^24 with the integer weights of `gaussian_weights`.
    """
    weights = gaussian_weights(sigma)
    radius, (height, width) = len(weights) // 2, images.shape[2:]
    # float64 holds these integers (below 2^32) exactly, and reflect padding is not there for integer types.
    padded = F.pad(images.to(torch.float64), (radius,) * 4, mode="reflect")
    lines, total = padded.new_zeros(()), padded.new_zeros(())
    for i, w in enumerate(weights):
        lines = lines + w * padded[:, :, i : i + height]
    for i, w in enumerate(weights):
        total = total + w * lines[..., i : i + width]
    return torch.floor((total + 2.0**23) / 2.0**24).to(torch.uint8)
