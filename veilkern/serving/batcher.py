"""Batcher: photos of many requests, of any persons, in one call of the Protector.

While a batch is at work, what comes meanwhile is the next batch: alone, a photo never waits, and under load batches
grow by themselves. A window makes the first photo of a batch wait for others even so.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from veilkern.serving.metrics import METRICS
from veilkern.serving.problems import Problem
from veilkern.serving.served import Served


@dataclass(eq=False, slots=True)
class _Item:
    """Photos uint8 or uint16 [n, H, W, 3] with their rows int64 [n], and who waits for them where."""

    photos: np.ndarray
    rows: np.ndarray
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    born: float


@dataclass(frozen=True, slots=True)
class Work:
    """What may be done in one call: task (protect, recover) with one bank, one option, photos of one dtype."""

    task: str
    served: Served
    option: Any  # lossless of protect, gaussian_sigma of recover
    dtype: str


class Batcher:
    """From an event loop to one thread that calls the Protector, and back.

    window: seconds that the first photo of a batch waits for others. most: photos of a batch, at most (a request of
    more goes alone). queue: photos that may wait; then `busy`. One thread calls; `submit` is for event loops."""

    def __init__(self, window: float, most: int, queue: int):
        self._window, self._most, self._queue = window, most, queue
        self._works: OrderedDict[Work, deque[_Item]] = OrderedDict()  # whoever has waited longest first
        self._waiting, self._closed = 0, False
        self._changed = threading.Condition()
        self._rooms: dict[tuple[Any, ...], np.ndarray] = {}
        self._thread = threading.Thread(target=self._run, name="veilkern-batcher", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether photos are still taken."""
        return self._thread.is_alive() and not self._closed

    def submit(self, work: Work, photos: np.ndarray, rows: np.ndarray) -> asyncio.Future[Any]:
        """The result, uint8 or uint16 [n, H, W, 3], of photos [n, H, W, 3], which nobody may write to until then.
        Problem `busy` where too many wait."""
        loop = asyncio.get_running_loop()
        item = _Item(photos, rows, loop.create_future(), loop, time.monotonic())
        with self._changed:
            if self._closed:
                raise Problem("busy", "the service is stopping", retry_after="1")
            if self._waiting and self._waiting + len(photos) > self._queue:
                raise Problem("busy", f"{self._waiting} photos are waiting already", retry_after="1")
            self._works.setdefault(work, deque()).append(item)
            self._waiting += len(photos)
            METRICS.waiting.set(self._waiting)
            self._changed.notify()
        return item.future

    def close(self) -> None:
        """Take no more; what waits is done first."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while (found := self._next()) is not None:
            work, items = found
            outcomes = self._outcomes(work, items)
            for loop in {item.loop for item in items}:
                own = [(i.future, o) for i, o in zip(items, outcomes, strict=True) if i.loop is loop]
                if not loop.is_closed():
                    loop.call_soon_threadsafe(_tell, own)

    def _next(self) -> tuple[Work, list[_Item]] | None:
        """The next batch, as soon as there is one; None once closed and all is done."""
        with self._changed:
            while not self._works and not self._closed:
                self._changed.wait()
            if not self._works:
                return None
            work, queue = next(iter(self._works.items()))
            ready = queue[0].born + self._window
            while (left := ready - time.monotonic()) > 0 and not self._closed:
                if sum(len(item.photos) for item in queue) >= self._most:
                    break
                self._changed.wait(left)
            items = [queue.popleft()]
            count = len(items[0].photos)
            while queue and count + len(queue[0].photos) <= self._most:
                items.append(queue.popleft())
                count += len(items[-1].photos)
            del self._works[work]
            if queue:  # behind the others, so that nobody waits for one who asks without end
                self._works[work] = queue
            self._waiting -= count
            METRICS.waiting.set(self._waiting)
            return work, items

    def _outcomes(self, work: Work, items: list[_Item]) -> list[Any]:
        """Of each item its photos, or the exception that is its own; None for whoever has gone."""
        there = [item for item in items if not item.future.cancelled()]
        found: dict[int, Any] = {}
        try:
            if len(there) == 1:
                found[id(there[0])] = _call(work, there[0].photos, there[0].rows, None)
            elif there:
                found = self._together(work, there)
        except Exception:  # whosever fault it is: each alone
            found = {id(item): _alone(work, item) for item in there}
        METRICS.batch.labels(work.task).observe(sum(len(item.photos) for item in there))
        return [found.get(id(item)) for item in items]

    def _together(self, work: Work, items: list[_Item]) -> dict[int, Any]:
        """One call, in memory that is kept: new pages for each batch would cost more than the call."""
        count, size = sum(len(item.photos) for item in items), work.served.bank.size
        wide = work.task == "protect" and work.option
        photos, out = (
            self._room("in", size, work.dtype)[:count],
            self._room("out", size, "uint16" if wide else "uint8")[:count],
        )
        np.concatenate([item.photos for item in items], out=photos)
        _call(work, photos, np.concatenate([item.rows for item in items]), out)
        found, start = {}, 0
        for item in items:
            found[id(item)] = out[start : start + len(item.photos)].copy()
            start += len(item.photos)
        return found

    def _room(self, name: str, size: tuple[int, int], dtype: str) -> np.ndarray:
        key = name, dtype
        if key not in self._rooms or self._rooms[key].shape[1:3] != size:
            self._rooms[key] = np.empty((self._most, *size, 3), dtype)
        return self._rooms[key]


def _call(work: Work, photos: np.ndarray, rows: np.ndarray, out: np.ndarray | None) -> Any:
    protector = work.served.protector
    if work.task == "protect":
        return protector.protect(photos, rows, out=out, lossless=work.option, layout="NHWC")
    return protector.recover(photos, rows, out=out, gaussian_sigma=work.option, layout="NHWC")


def _alone(work: Work, item: _Item) -> Any:
    try:
        return _call(work, item.photos, item.rows, None)
    except Exception as error:
        return error


def _tell(outcomes: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, outcome in outcomes:
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
