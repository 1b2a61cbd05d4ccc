"""ssim in plain PyTorch."""

from __future__ import annotations

import torch

from veilkern import reference


def ssim(x, y, window, sigma, borders, data_range, scale, gradient_x, gradient_y):
    """Launcher of `ssim`: returns the score and, where gradients are tensors, writes those."""
    options = {"window": window, "sigma": sigma, "borders": borders, "data_range": data_range}
    if gradient_x is None:
        with torch.no_grad():
            return reference.ssim(x, y, **options)
    score, *found = reference.ssim_gradient(x, y, scale=scale, **options)
    gradient_x.copy_(found[0])
    gradient_y.copy_(found[1])
    return score
