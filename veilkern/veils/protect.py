"""protect and recover: a bank's veils on photos and off again, at memory speed."""

from __future__ import annotations

from typing import Any

import torch

from veilkern.veils.apply import apply
from veilkern.veils.arrays import Photos
from veilkern.veils.bank import VeilBank
from veilkern.veils.resident import Resident, resident_of
from veilkern.veils.rows import Rows
from veilkern.veils.sealing import Keyring, MasterKeys, keyring_of
from veilkern.veils.task import PROTECT, RECOVER, Task

_CPU = torch.device("cpu")


def protect(
    images: Photos,
    bank: VeilBank,
    rows: Rows,
    *,
    key: MasterKeys | None = None,
    out: Photos | None = None,
    lossless: bool = False,
    layout: str = "NCHW",
) -> Photos:
    """Protected photos of uint8 photos [N, 3, H, W]: sealed under their persons' keys (`ops.seal`), or blended with
    their veils (`ops.blend`), as the bank's scheme is.

    images: a tensor, or a NumPy array, and then so is the result, or anything with __dlpack__, and then it is a tensor.
    layout: NHWC for photos [N, H, W, 3], as decoders give them; the result lies like them and nothing is copied. rows:
    the veil of each photo, as integer bank rows [N] (on any device) or as N names; one name alone is the person of
    every photo. key: the master key of a sealed bank (or several, where they are of several), and None for any other;
    every call draws fresh nonces, so the same photo is never sealed alike twice. Returns uint8, or with lossless uint16
    (recovered exactly), in the shape of images; out: where to write (that dtype, shape and layout). The first call with
    photos on another device than the bank's copies its veils there, where they stay as long as the bank does. Raises
    TypeError, ValueError, or KeyError for a name without a veil.
    """
    veils = _EachDevice(_checked("protect", bank), keyring_of("protect", bank, key))
    return apply(PROTECT[bank.scheme], images, bank, veils, rows, out, bool(lossless), layout)


def recover(
    protected: Photos,
    bank: VeilBank,
    rows: Rows,
    *,
    key: MasterKeys | None = None,
    out: Photos | None = None,
    gaussian_sigma: float | None = None,
    layout: str = "NCHW",
) -> Photos:
    """Originals, uint8 [N, 3, H, W], of protected uint8 or uint16 photos; exact from uint16; from uint8 within
    (a + 254) div (2 a) levels where they are blended (2 at a = 51), and 128 / levels where they are sealed (2 at 64;
    twice that at the first 96 values). gaussian_sigma: smooth the result, in pixels. rows, key, layout, out, kind of
    array and errors as of `protect`."""
    veils = _EachDevice(_checked("recover", bank), keyring_of("recover", bank, key))
    return apply(RECOVER[bank.scheme], protected, bank, veils, rows, out, gaussian_sigma, layout)


def _checked(op: str, bank: object) -> VeilBank:
    if not isinstance(bank, VeilBank):
        raise TypeError(f"{op}: bank must be a VeilBank, got {type(bank).__name__}")
    return bank


class _EachDevice:
    """A bank's veils on whatever device the photos are, and its keys where it is sealed."""

    __slots__ = ("bank", "keyring")

    def __init__(self, bank: VeilBank, keyring: Keyring | None):
        self.bank, self.keyring = bank, keyring

    def on_cpu(self) -> Resident | None:
        return resident_of(self.bank, _CPU)

    def run(
        self, task: Task, photos: torch.Tensor, rows: torch.Tensor, option: Any, out: torch.Tensor | None
    ) -> torch.Tensor:
        how: Any = self.bank.blend
        if self.keyring is not None:
            rows = rows.clone()  # somebody may write to the caller's while keys are made
            how = self.keyring.sealing(rows, photos.device)
        return resident_of(self.bank, photos.device).run(task, photos, rows, how, option, out)
