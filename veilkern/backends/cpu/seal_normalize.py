"""seal_normalize by the C++ kernels: its launcher."""

from __future__ import annotations

from veilkern.backends import thread_count
from veilkern.backends.cpu._tensors import NUMBERS, bank, batch, kernel_of, table, whole


def seal_normalize(images, veils, rows, keys, nonces, levels, rounds, mean, std, bgr, out):
    """Launcher of `seal_normalize`: writes `out`, which is channels_last."""
    source, index, own_keys, own_nonces = whole(images, False), *(t.contiguous() for t in (rows, keys, nonces))
    kernel_of("seal_normalize", veils)(
        batch(source), bank(veils), index.data_ptr(), table(own_keys), table(own_nonces), out.data_ptr(),
        NUMBERS[out.dtype], tuple(source.shape), levels, rounds, [2, 1, 0] if bgr else [0, 1, 2],
        [1 / 255 / s for s in std], [(256 - levels) / 255 / s for s in std],
        [-m / s for m, s in zip(mean, std, strict=True)], thread_count(),
    )  # fmt: skip
