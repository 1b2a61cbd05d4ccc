"""unseal in plain PyTorch."""

from __future__ import annotations

from veilkern import reference


def unseal(sealed, veils, rows, keys, levels, rounds, out):
    """Launcher of `unseal`: writes `out`."""
    out.copy_(reference.unseal(sealed, veils, rows, keys, levels=levels, rounds=rounds))
