"""blend (eq. 12): x' = alpha x + (1 - alpha) v, one veil per photo by row."""

from __future__ import annotations

import torch


def blend_float(images: torch.Tensor, veils: torch.Tensor, rows: torch.Tensor, alpha: float) -> torch.Tensor:
    """float [N, 3, H, W] in [0, 1] from float images [N, 3, H, W], veils [P, 3, H, W], rows i64 [N]; differentiable."""
    return alpha * images + (1 - alpha) * veils[rows]


def blend(
    images: torch.Tensor, veils: torch.Tensor, rows: torch.Tensor, a: int, *, lossless: bool = False
) -> torch.Tensor:
    """The uint8 contract: p = a x + (255 - a) v; uint8 (p + 127) div 255, or uint16 p itself when lossless."""
    p = a * images.to(torch.int32) + (255 - a) * veils[rows].to(torch.int32)
    if lossless:
        return p.to(torch.uint16)
    return torch.div(p + 127, 255, rounding_mode="floor").to(torch.uint8)
