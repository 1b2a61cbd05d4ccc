"""blend_normalize in plain PyTorch."""

from __future__ import annotations

from veilkern import reference


def blend_normalize(images, veils, rows, a, mean, std, bgr, out):
    """Launcher of `blend_normalize`: writes `out`."""
    out.copy_(reference.blend_normalize(images, veils, rows, a, mean=mean, std=std, bgr=bgr, dtype=out.dtype))
