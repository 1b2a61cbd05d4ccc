"""The Gaussian filters of recover and ssim: the numbers that reference and kernels share."""

from __future__ import annotations

import math

import torch


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


def gaussian_taps(window: int, sigma: float, dtype: torch.dtype) -> torch.Tensor:
    """The window along one side, float [window], which sums to 1."""
    place = torch.arange(window, dtype=dtype) - (window - 1) / 2
    taps = torch.exp(-place.square() / (2 * sigma**2))
    return taps / taps.sum()
