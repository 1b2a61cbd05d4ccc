"""A bank's veils on a device, put there once, for every call that reads them there."""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

import torch

from veilkern.veils.bank import VeilBank
from veilkern.veils.task import Task


class Resident:
    """The veils of one bank on one device, uint8 [P, 3, H, W], ready for any stream; the bank's own memory where it is
    there already, so that a bank that is mapped from a file stays mapped."""

    def __init__(self, bank: VeilBank, device: torch.device):
        self.veils = bank.veils.to(device)
        self.version = None if self.veils is bank.veils else _version(bank.veils)
        self.people, self.shape, self.strides = len(self.veils), self.veils.shape, self.veils.stride()
        height, width = bank.size
        self.shapes = {"NCHW": (3, height, width), "NHWC": (height, width, 3)}
        # Bytes from the first value to beyond the last.
        self.span = 1 + sum(step * (side - 1) for step, side in zip(self.strides, self.veils.shape, strict=True))
        self.plain = type(self.veils) is torch.Tensor and self.veils.is_cpu and not self.veils.is_neg()
        if self.veils.is_cuda:  # they may come from work of this stream, and the next call may be on another
            torch.cuda.current_stream(self.veils.device).synchronize()

    def holds(self, bank: VeilBank) -> bool:
        """Whether these are the bank's veils as they are now: a copy is not once somebody has written to the bank."""
        return self.version is None or self.version == _version(bank.veils)

    def lies_there(self) -> bool:
        """Whether kernels may read the veils by their address, shape and strides of the beginning: nobody has given the
        tensor other memory meanwhile, turned it (transpose_, set_) or cut its storage short."""
        veils = self.veils
        return (
            self.plain
            and veils.stride() == self.strides
            and veils.shape == self.shape
            and veils.untyped_storage().nbytes() >= veils.storage_offset() + self.span
        )

    def run(
        self, task: Task, photos: torch.Tensor, rows: torch.Tensor, how: Any, option: Any, out: torch.Tensor | None
    ) -> torch.Tensor:
        """The op with these veils; photos, rows, out and the keys of `how` are on their device."""
        if self.veils.is_cuda and not torch.cuda.is_current_stream_capturing():
            # Who lets go of the veils, by a hot swap say, may be ahead of this stream. (A graph that captures their
            # address needs them for as long as it is replayed: that is its owner's to see to.)
            self.veils.record_stream(torch.cuda.current_stream(self.veils.device))
        return task.call(photos, self.veils, rows, how, option, out)


def _version(veils: torch.Tensor) -> int:
    """Changes when torch writes to the veils in place; inference tensors do not count."""
    return 0 if veils.is_inference() else veils._version


_residents: WeakKeyDictionary[VeilBank, dict[torch.device, Resident]] = WeakKeyDictionary()
_lock = threading.Lock()


def resident_of(bank: VeilBank, device: torch.device) -> Resident:
    """The bank's veils on a device, copied there at the first call and kept for as long as the bank is."""
    by_device = _residents.get(bank)
    found = None if by_device is None else by_device.get(device)
    if found is not None and found.holds(bank):
        return found
    with _lock:  # of two threads that come first, one copies
        by_device = _residents.setdefault(bank, {})
        found = by_device.get(device)
        if found is None or not found.holds(bank):
            found = by_device[device] = Resident(bank, device)
        return found
