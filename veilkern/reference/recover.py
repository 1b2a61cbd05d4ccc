"""recover (eq. 14, corrected): x = (x' - (1 - alpha) v) / alpha; the paper's division by 1 - alpha is a misprint."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


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


def gaussian_radius(sigma: float) -> int:
    """How far the filter reaches, in pixels: max(1, round(2 sigma)), 5 x 5 at sigma 1."""
    return max(1, round(2 * sigma))


def gaussian_weights(sigma: float) -> list[int]:
    """Filter weights in 4096ths, from -r to r, r the radius; symmetric, they sum to 4096.

    Integers, so that the filtered photo is the same bit for bit on every machine, and each within one of the true
    weight: the centre is the nearest even number (the sum is even, and all others come in pairs), the rest is rounded
    down but for the largest remainders, which make up the sum.
    """
    radius = gaussian_radius(sigma)
    raw = [math.exp(-(i * i) / (2 * sigma * sigma)) for i in range(radius + 1)]
    true = [4096 * w / (2 * math.fsum(raw) - raw[0]) for w in raw]
    centre, arm = 2 * round(true[0] / 2), [math.floor(w) for w in true[1:]]
    by_remainder = sorted(range(radius), key=lambda i: arm[i] - true[i + 1])
    for i in by_remainder[: (4096 - centre) // 2 - sum(arm)]:
        arm[i] += 1
    return [*reversed(arm), centre, *arm]


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
