"""unseal by the C++ kernels: its launcher."""

from __future__ import annotations

from veilkern.backends.cpu._tensors import by_value, kernel_of


def unseal(sealed, veils, rows, keys, levels, rounds, out):
    """Launcher of `unseal`: writes `out`."""
    by_value(kernel_of("unseal", sealed), sealed, veils, rows, levels, rounds, out=out, own=(keys,))
