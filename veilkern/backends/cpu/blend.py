"""blend by the C++ kernels: its launcher."""

from __future__ import annotations

from veilkern.backends.cpu._tensors import _cpu, by_value


def blend(images, veils, rows, a, lossless, out):
    """Launcher of `blend`: writes `out`."""
    by_value(_cpu.blend_u16 if lossless else _cpu.blend_u8, images, veils, rows, a, out=out)
