"""ssim by the C++ kernels: its launcher."""

from __future__ import annotations

import functools

import torch

from veilkern.backends import thread_count
from veilkern.backends.cpu._tensors import address, kernel_of, planes
from veilkern.filters import gaussian_taps

_taps = functools.lru_cache(maxsize=16)(gaussian_taps)  # a tensor on the CPU, never written to


def ssim(x, y, window, sigma, borders, data_range, scale, gradient_x, gradient_y):
    """Launcher of `ssim`: returns the score and writes each gradient (dense) that is not None."""
    left, right, score = planes(x), planes(y), x.new_empty(len(x))
    factor, taps = None if scale is None else scale.contiguous(), _taps(window, sigma, torch.float64)
    strides = [(left if g is None else g).stride()[:3] for g in (gradient_x, gradient_y)]
    kernel_of("ssim", left)(
        left.data_ptr(), left.stride()[:3], right.data_ptr(), right.stride()[:3], address(gradient_x), strides[0],
        address(gradient_y), strides[1], address(factor), score.data_ptr(), tuple(left.shape), taps.data_ptr(),
        window, borders == "same", data_range, thread_count(),
    )  # fmt: skip
    return score
