"""protect and recover: a bank's veils on photos and off again, at memory speed."""

from __future__ import annotations

import torch

from veilkern.veils.apply import apply
from veilkern.veils.arrays import Photos
from veilkern.veils.bank import VeilBank
from veilkern.veils.resident import Resident, resident_of
from veilkern.veils.rows import Rows
from veilkern.veils.task import PROTECT, RECOVER, Task

_CPU = torch.device("cpu")


def protect(
    images: Photos,
    bank: VeilBank,
    rows: Rows,
    *,
    out: Photos | None = None,
    lossless: bool = False,
    layout: str = "NCHW",
) -> Photos:
    """Protected photos x' = (a x + (255 - a) v + 127) div 255 of uint8 photos [N, 3, H, W].

    images: a tensor, or a NumPy array, and then so is the result, or anything with __dlpack__, and then it is a tensor.
    layout: NHWC for photos [N, H, W, 3], as decoders give them; the result lies like them and nothing is copied. rows:
    the veil of each photo, as integer bank rows [N] (on any device) or as N names; one name alone is the person of
    every photo. Returns uint8, or with lossless uint16 (recovered exactly), in the shape of images; out: where to write
    (that dtype, shape and layout). The first call with photos on another device than the bank's copies its veils there,
    where they stay as long as the bank does. Raises TypeError, ValueError, or KeyError for a name without a veil.
    """
    return apply(PROTECT, images, _checked("protect", bank), _EACH, rows, out, bool(lossless), layout)


def recover(
    protected: Photos,
    bank: VeilBank,
    rows: Rows,
    *,
    out: Photos | None = None,
    gaussian_sigma: float | None = None,
    layout: str = "NCHW",
) -> Photos:
    """Originals, uint8 [N, 3, H, W], of protected uint8 or uint16 photos; exact from uint16, within (a + 254) div (2 a)
    levels (2 at a = 51) from uint8. gaussian_sigma: smooth the result, in pixels. rows, layout, out, kind of array and
    errors as of `protect`."""
    return apply(RECOVER, protected, _checked("recover", bank), _EACH, rows, out, gaussian_sigma, layout)


def _checked(op: str, bank: object) -> VeilBank:
    if not isinstance(bank, VeilBank):
        raise TypeError(f"{op}: bank must be a VeilBank, got {type(bank).__name__}")
    return bank


class _EachDevice:
    """Any bank's veils on whatever device the photos are."""

    def on_cpu(self, bank: VeilBank) -> Resident:
        return resident_of(bank, _CPU)

    def run(self, task: Task, bank: VeilBank, photos, rows, option, out) -> torch.Tensor:
        return resident_of(bank, photos.device).run(task, photos, rows, bank.blend, option, out)


_EACH = _EachDevice()
