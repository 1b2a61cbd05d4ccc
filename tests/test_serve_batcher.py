"""The batcher: who shares a call, in which order, how many wait, and whose error is whose."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

pytest.importorskip("fastapi")

from veilkern.serving.batcher import Batcher, Work
from veilkern.serving.problems import Problem


class Stub:
    """In the place of a Served with its Protector: adds the row to each photo. gate: calls wait for it."""

    def __init__(self):
        self.protector = self
        self.bank = self
        self.size = (2, 3)
        self.calls: list[tuple[str, int]] = []
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.gate.set()

    def protect(self, photos, rows, *, out, lossless, layout):
        return self._called("protect", photos, rows, out, np.uint16 if lossless else np.uint8, layout)

    def recover(self, photos, rows, *, out, gaussian_sigma, layout):
        return self._called("recover", photos, rows, out, np.uint8, layout)

    def _called(self, task, photos, rows, out, dtype, layout):
        assert layout == "NHWC" and len(photos) == len(rows)
        self.begun.set()
        assert self.gate.wait(20)
        self.calls.append((task, len(photos)))
        if (rows == 13).any():
            raise ValueError("row 13")
        found = (photos + rows[:, None, None, None]).astype(dtype)
        if out is None:
            return found
        assert out.dtype == dtype
        out[:] = found
        return out


def photos(count: int, value: int = 0, dtype="uint8") -> np.ndarray:
    return np.full((count, 2, 3, 3), value, dtype)


@pytest.fixture
def stub():
    return Stub()


@pytest.fixture
def batcher_of():
    made = []

    def batcher(window=0.0, most=8, queue=100):
        made.append(Batcher(window, most, queue))
        return made[-1]

    yield batcher
    for one in made:
        one.close()


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 30))


def test_everybody_gets_their_own(stub, batcher_of):
    async def all_of_them():
        batcher, work = batcher_of(), Work("protect", stub, False, "uint8")
        sizes = [1, 3, 2, 8, 9, 1, 1, 20]
        futures = [batcher.submit(work, photos(n, i), np.full(n, 100 + i)) for i, n in enumerate(sizes)]
        for i, (n, found) in enumerate(zip(sizes, await asyncio.gather(*futures), strict=True)):
            assert found.shape == (n, 2, 3, 3) and (found == 100 + 2 * i).all()

    run(all_of_them())


def test_what_comes_while_a_batch_is_at_work_is_the_next(stub, batcher_of):
    async def go():
        batcher, work = batcher_of(), Work("protect", stub, False, "uint8")
        stub.gate.clear()
        first = batcher.submit(work, photos(1), np.zeros(1, int))
        await asyncio.to_thread(stub.begun.wait, 20)
        rest = [batcher.submit(work, photos(1), np.zeros(1, int)) for _ in range(11)]
        stub.gate.set()
        await asyncio.gather(first, *rest)
        assert stub.calls == [("protect", 1), ("protect", 8), ("protect", 3)]

    run(go())


def test_a_window_makes_the_first_wait_for_others(stub, batcher_of):
    async def go():
        batcher, work = batcher_of(window=30.0, most=3), Work("protect", stub, False, "uint8")
        futures = [batcher.submit(work, photos(1), np.zeros(1, int)) for _ in range(3)]
        await asyncio.gather(*futures)  # full: long before the window's end
        assert stub.calls == [("protect", 3)]

    run(go())


def test_only_what_is_alike_shares_a_call(stub, batcher_of):
    async def go():
        other = Stub()
        batcher = batcher_of(window=0.05, most=100)
        works = [
            Work("protect", stub, False, "uint8"),
            Work("protect", stub, True, "uint8"),
            Work("recover", stub, None, "uint8"),
            Work("recover", stub, 1.5, "uint8"),
            Work("recover", stub, None, "uint16"),
            Work("protect", other, False, "uint8"),
        ]
        futures = [batcher.submit(work, photos(1, dtype=work.dtype), np.zeros(1, int)) for work in works * 3]
        found = await asyncio.gather(*futures)
        assert len(stub.calls) == 5 and len(other.calls) == 1
        assert all(count == 3 for _, count in stub.calls + other.calls)
        assert [one.dtype.name for one in found[:2]] == ["uint8", "uint16"]

    run(go())


def test_one_who_asks_without_end_holds_nobody_up(stub, batcher_of):
    async def go():
        batcher = batcher_of(most=2)
        loud, quiet = Work("protect", stub, False, "uint8"), Work("recover", stub, None, "uint8")
        stub.gate.clear()
        futures = [batcher.submit(loud, photos(1), np.zeros(1, int)) for _ in range(9)]
        await asyncio.to_thread(stub.begun.wait, 20)
        futures.append(batcher.submit(quiet, photos(1), np.zeros(1, int)))
        stub.gate.set()
        await asyncio.gather(*futures)
        assert [task for task, _ in stub.calls].index("recover") <= 2

    run(go())


def test_an_error_is_that_of_whose_photo_it_is(stub, batcher_of):
    async def go():
        batcher, work = batcher_of(window=0.05), Work("protect", stub, False, "uint8")
        rows = [1, 13, 2]
        futures = [batcher.submit(work, photos(1), np.full(1, row)) for row in rows]
        found = await asyncio.gather(*futures, return_exceptions=True)
        assert found[0].max() == 1 and found[2].max() == 2
        assert isinstance(found[1], ValueError) and "13" in str(found[1])

    run(go())


def test_too_many_that_wait_are_refused_and_later_ones_taken(stub, batcher_of):
    async def go():
        batcher, work = batcher_of(queue=5), Work("protect", stub, False, "uint8")
        stub.gate.clear()
        futures = [batcher.submit(work, photos(1), np.zeros(1, int))]
        await asyncio.to_thread(stub.begun.wait, 20)
        futures.append(batcher.submit(work, photos(7), np.zeros(7, int)))  # none waits: whatever its size
        with pytest.raises(Problem, match="busy"):
            batcher.submit(work, photos(1), np.zeros(1, int))
        stub.gate.set()
        await asyncio.gather(*futures)
        assert (await batcher.submit(work, photos(5), np.zeros(5, int))).shape[0] == 5

    run(go())


def test_who_has_gone_is_passed_over(stub, batcher_of):
    async def go():
        batcher, work = batcher_of(), Work("protect", stub, False, "uint8")
        stub.gate.clear()
        first = batcher.submit(work, photos(1), np.zeros(1, int))
        await asyncio.to_thread(stub.begun.wait, 20)
        gone, there = (batcher.submit(work, photos(1), np.full(1, row)) for row in (13, 4))
        gone.cancel()
        stub.gate.set()
        await first
        assert (await there).max() == 4
        assert stub.calls == [("protect", 1), ("protect", 1)]

    run(go())


def test_closing_finishes_what_waits_and_takes_no_more(stub):
    async def go():
        batcher, work = Batcher(0.0, 2, 100), Work("protect", stub, False, "uint8")
        stub.gate.clear()
        futures = [batcher.submit(work, photos(1), np.zeros(1, int)) for _ in range(5)]
        closing = asyncio.get_running_loop().run_in_executor(None, batcher.close)
        while batcher.alive:
            await asyncio.sleep(0.01)
        with pytest.raises(Problem, match="stopping"):
            batcher.submit(work, photos(1), np.zeros(1, int))
        stub.gate.set()
        await asyncio.gather(*futures)
        await closing
        assert sum(count for _, count in stub.calls) == 5

    run(go())


def test_an_event_loop_that_has_ended_stops_nothing(stub, batcher_of):
    batcher, work = batcher_of(), Work("protect", stub, False, "uint8")

    async def leave():
        stub.gate.clear()
        batcher.submit(work, photos(1), np.zeros(1, int))
        await asyncio.to_thread(stub.begun.wait, 20)

    run(leave())
    stub.gate.set()

    async def again():
        return await batcher.submit(work, photos(1), np.full(1, 3))

    assert run(again()).max() == 3
