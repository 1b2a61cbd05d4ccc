"""seal by the C++ kernels: its launcher."""

from __future__ import annotations

from veilkern.backends.cpu._tensors import by_value, kernel_of


def seal(images, veils, rows, keys, nonces, levels, rounds, lossless, out):
    """Launcher of `seal`: writes `out`."""
    by_value(kernel_of("seal", out), images, veils, rows, levels, rounds, out=out, own=(keys, nonces))
