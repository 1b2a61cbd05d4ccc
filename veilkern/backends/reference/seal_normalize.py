"""seal_normalize in plain PyTorch."""

from __future__ import annotations

from veilkern import reference


def seal_normalize(images, veils, rows, keys, nonces, levels, rounds, mean, std, bgr, out):
    """Launcher of `seal_normalize`: writes `out`."""
    made = reference.seal_normalize(
        images, veils, rows, keys, nonces, levels=levels, rounds=rounds, mean=mean, std=std, bgr=bgr, dtype=out.dtype
    )
    out.copy_(made)
