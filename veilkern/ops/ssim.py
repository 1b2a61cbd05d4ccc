"""ssim: structural similarity of pairs of photos."""

from __future__ import annotations

import torch

from veilkern.backends import select
from veilkern.ops._checks import check_choice, check_device, check_tensor


def ssim(
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    window: int = 11,
    sigma: float = 1.5,
    borders: str = "valid",
    data_range: float = 1.0,
) -> torch.Tensor:
    """Mean SSIM [N] of float32 or float64 pairs [N, C, H, W] over channels and places; differentiable.

    window: odd side of the Gaussian window of standard deviation sigma (pixels); borders `valid` (only where the
    window lies inside: Wang et al. 2004) or `same` (zeros around); data_range: the span of the values, 1 or 255.
    Raises TypeError or ValueError naming the argument.
    """
    x = check_tensor("ssim", "x", x, [torch.float32, torch.float64], "[N, C, H, W]")
    y = check_tensor("ssim", "y", y, [x.dtype], "[N, C, H, W]")
    if x.shape != y.shape:
        raise ValueError(f"ssim: y must have the shape of x, {list(x.shape)}, got {list(y.shape)}")
    check_device("ssim", "y", y, "x", x)
    check_choice("ssim", "borders", borders, ("valid", "same"))
    if isinstance(window, bool) or not isinstance(window, int) or window < 1 or window % 2 == 0:
        raise ValueError(f"ssim: window must be an odd positive integer, got {window!r}")
    if borders == "valid" and window > min(x.shape[2:]):
        raise ValueError(f"ssim: window must fit the image, {x.shape[2]} x {x.shape[3]}, got {window}")
    if sigma <= 0 or data_range <= 0:
        raise ValueError(f"ssim: sigma and data_range must be positive, got {sigma} and {data_range}")
    return select("ssim", x, y)(x, y, window=window, sigma=sigma, borders=borders, data_range=data_range)
