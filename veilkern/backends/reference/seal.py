"""seal in plain PyTorch."""

from __future__ import annotations

from veilkern import reference


def seal(images, veils, rows, keys, nonces, levels, rounds, lossless, out):
    """Launcher of `seal`: writes `out`."""
    out.copy_(reference.seal(images, veils, rows, keys, nonces, levels=levels, rounds=rounds, lossless=lossless))
