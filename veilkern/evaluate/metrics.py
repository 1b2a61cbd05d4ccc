"""What is left to see: SSIM, PSNR and the residual contour of pairs of 8-bit photos."""

from __future__ import annotations

from collections.abc import Callable

import torch

from veilkern import ops
from veilkern.crafting import contour as _contour

CHUNK = 64  # photos in float at a time


def ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """SSIM [N] of uint8 [N, 3, H, W]: 11 x 11 Gaussian window of sigma 1.5 (smaller photos: the largest odd window that
    fits), places where it lies inside, mean over channels."""
    window = min(11, *((side - 1) // 2 * 2 + 1 for side in x.shape[2:]))
    return _chunked(lambda a, b: ops.ssim(a / 255, b / 255, window=window), x, y)


def psnr(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio [N] in dB of uint8 [N, 3, H, W]; infinite for equal photos."""
    return _chunked(lambda a, b: 10 * torch.log10(255**2 / (a - b).square().flatten(1).mean(1)), x, y)


def contour(x: torch.Tensor, y: torch.Tensor, sigma: float) -> torch.Tensor:
    """Residual contour [N]: Pearson correlation of the luma of x and y after a Gaussian blur of `sigma` pixels.

    What a human can still make out, which SSIM misses; negative means a photographic negative. 0 where a photo is flat.
    """
    return _chunked(lambda a, b: _contour.contour(a / 255, b / 255, sigma), x, y)


def blurred_luma(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Luma [N, H, W] in float64, 0 to 255, of uint8 [N, 3, H, W] after a Gaussian blur of `sigma` pixels: what
    `contour` compares."""
    pixels = images.double()
    rows, columns = (_contour.blur_matrix(side, sigma, like=pixels) for side in images.shape[2:])
    return _contour.blurred_luma(pixels, rows, columns)


def _chunked(measure: Callable[..., torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    parts = zip(x.split(CHUNK), y.split(CHUNK), strict=True)
    return torch.cat([measure(a.double(), b.double()) for a, b in parts] or [torch.zeros(0, dtype=torch.float64)])
