"""rectify_ in plain PyTorch."""

from __future__ import annotations

from veilkern import reference


def rectify_(x, bits, add, slope, top, back):
    """Launcher of `rectify_`: changes x and writes `bits`; of its gradient (`back`) changes x by them."""
    if back:
        reference.rectify_gradient_(x, bits, slope)
    else:
        bits.copy_(reference.rectify_(x, add, slope, top))
