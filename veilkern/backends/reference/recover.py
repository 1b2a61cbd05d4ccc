"""recover in plain PyTorch."""

from __future__ import annotations

from veilkern import reference


def recover(protected, veils, rows, a, gaussian_sigma, out):
    """Launcher of `recover`: writes `out`."""
    out.copy_(reference.recover(protected, veils, rows, a, gaussian_sigma=gaussian_sigma))
