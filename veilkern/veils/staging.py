"""Photos on the host through a GPU and back: pinned buffers and streams that are kept between calls.

A batch goes in pieces. Each piece has a slot: pinned buffers and device buffers for the photos, the rows and the
result, a stream and an event. A call of several pieces takes two slots in turn, so that the host fills one while the
GPU works on the other. Slots are kept; as many are made as calls at once have needed.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from veilkern.veils.resident import Resident
from veilkern.veils.task import Task


class Staging:
    """The way of host photos [N, 3, H, W] through `device`, at most max_batch of them at a time; for any threads."""

    def __init__(self, device: torch.device, max_batch: int):
        self.device, self.max_batch = device, max_batch
        self.slots: collections.deque[_Slot] = collections.deque()  # its append and pop are atomic

    def run(
        self,
        task: Task,
        resident: Resident,
        photos: torch.Tensor,
        rows: torch.Tensor,
        how: Any,
        option: Any,
        out: torch.Tensor | None,
    ) -> torch.Tensor:
        """The op over photos and int64 rows on the host, veils and keys being on the device: a result on the host (out
        where it is given), complete when this returns. The op's checks are made here, before anything moves."""
        # One veil in the place of all, on the host: the checks look at how many there are and of what size.
        veils = torch.empty((1, *resident.veils.shape[1:]), dtype=torch.uint8).expand(resident.people, -1, -1, -1)
        task.check(photos, veils, rows, how, option, out)
        if out is None:
            out = torch.empty_like(photos, dtype=task.plain.get(option, torch.uint8))
        pieces = range(0, len(photos), self.max_batch)
        with self._taking(min(len(pieces), 2)) as slots:
            for number, begin in enumerate(pieces):
                slot, piece = slots[number % len(slots)], slice(begin, begin + self.max_batch)
                slot.finish()
                slot.start(task, resident, photos[piece], rows[piece], how, option, out[piece])
            for number in range(len(pieces), len(pieces) + len(slots)):
                slots[number % len(slots)].finish()
        return out

    @contextlib.contextmanager
    def _taking(self, count: int) -> Iterator[list[_Slot]]:
        slots = []
        for _ in range(count):
            try:
                slots.append(self.slots.pop())
            except IndexError:
                slots.append(_Slot(self.device, self.max_batch))
        try:
            yield slots
        finally:
            for slot in slots:
                slot.drop()
            self.slots.extend(slots)


class _Slot:
    """What one piece needs on its way. Without a GPU, for the tests, plain memory and no stream."""

    def __init__(self, device: torch.device, capacity: int):
        self.device, self.capacity, self.on_gpu = device, capacity, device.type == "cuda"
        self.buffers: dict[tuple[Any, ...], torch.Tensor] = {}
        self.waiting: tuple[torch.Tensor, torch.Tensor] | None = None  # a result in its buffer, and where it belongs
        self.stream = torch.cuda.Stream(device) if self.on_gpu else None
        self.event = torch.cuda.Event() if self.on_gpu else None

    def start(
        self,
        task: Task,
        resident: Resident,
        photos: torch.Tensor,
        rows: torch.Tensor,
        how: Any,
        option: Any,
        out: torch.Tensor,
    ) -> None:
        """Send a piece on its way; `finish` brings its result to `out`."""
        with torch.cuda.stream(self.stream) if self.on_gpu else contextlib.nullcontext():
            there, index, result = self._sent(photos), self._sent(rows), self._buffer("out", False, out)
            resident.run(task, there, index, how, option, result)
            back = self._buffer("out", True, out).copy_(result, non_blocking=True)
            if self.event is not None:
                self.event.record()
        self.waiting = back, out

    def finish(self) -> None:
        """Wait for the piece that is on its way, if one is, and put its result in its place."""
        if self.waiting is None:
            return
        (back, out), self.waiting = self.waiting, None
        if self.event is not None:
            self.event.synchronize()
        out.copy_(back)

    def drop(self) -> None:
        """Ready for another call, also after an error half way: nothing moves in the buffers any more."""
        self.waiting = None
        if self.stream is not None:
            self.stream.synchronize()

    def _sent(self, here: torch.Tensor) -> torch.Tensor:
        """The values on the device, once the stream is there."""
        pinned = self._buffer("in", True, here).copy_(here)
        return self._buffer("in", False, here).copy_(pinned, non_blocking=True)

    def _buffer(self, name: str, near: bool, like: torch.Tensor) -> torch.Tensor:
        """Memory of the slot for as many values as `like` has, in its dtype and in the order in which it lies; near: on
        the host, pinned."""
        key = (name, near, like.dtype, like.ndim)
        if key not in self.buffers:
            shape = (self.capacity, *like.shape[1:])
            self.buffers[key] = (
                torch.empty(shape, dtype=like.dtype, pin_memory=self.on_gpu)
                if near
                else torch.empty(shape, dtype=like.dtype, device=self.device)
            )
        flat = self.buffers[key].view(-1)[: like.numel()]
        if like.ndim == 4 and like.stride(1) == 1 and like.shape[1] > 1:  # channels side by side
            count, channels, height, width = like.shape
            return flat.view(count, height, width, channels).permute(0, 3, 1, 2)
        return flat.view(like.shape)
