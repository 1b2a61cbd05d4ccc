"""blend_normalize by the C++ kernels: its launcher."""

from __future__ import annotations

from veilkern.backends import thread_count
from veilkern.backends.cpu._tensors import NUMBERS, bank, batch, kernel_of, whole


def blend_normalize(images, veils, rows, a, mean, std, bgr, out):
    """Launcher of `blend_normalize`: writes `out`, which is channels_last."""
    source, index = whole(images, False), rows.contiguous()
    kernel_of("blend_normalize", veils)(
        batch(source), bank(veils), index.data_ptr(), out.data_ptr(), NUMBERS[out.dtype], tuple(source.shape),
        [2, 1, 0] if bgr else [0, 1, 2], [a / 255 / 255 / s for s in std], [(255 - a) / 255 / s for s in std],
        [-m / s for m, s in zip(mean, std, strict=True)], thread_count(),
    )  # fmt: skip
