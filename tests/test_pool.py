"""The helper threads of the C++ kernels: nested calls, failing parts, forks, and the caller's floating-point state."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
import torch
from helpers import native

from veilkern import ops

pytestmark = native
SECONDS = 20  # what a thread waits for another at most: a test that waits so long fails


def run_parts(parts: int, threads: int, work) -> None:
    from veilkern import _cpu

    _cpu.run_parts(parts, threads, work)


def together(count: int, work) -> list:
    """work() on `count` threads of the pool at the same time, and what it returned."""
    meet, found = threading.Barrier(count), [None] * count

    def part(i: int) -> None:
        meet.wait(SECONDS)
        found[i] = work()
        meet.wait(SECONDS)

    run_parts(count, count, part)
    return found


def test_parts_are_done_once_each_on_several_threads():
    done: list[int] = []
    run_parts(50, 3, done.append)
    assert sorted(done) == list(range(50))
    assert len(set(together(3, threading.get_ident))) == 3


def test_a_part_that_calls_run_parts_does_that_work_alone():
    """Of the caller's thread, which holds the helpers, and of a helper's, which is one."""

    def nested() -> set[int]:
        threads: list[int] = []
        run_parts(8, 4, lambda part: threads.append(threading.get_ident()))
        assert len(threads) == 8
        return set(threads)

    found = together(2, nested)
    assert all(len(threads) == 1 for threads in found) and found[0] != found[1]
    assert len(set(together(2, threading.get_ident))) == 2  # and the helpers are there again


def test_a_busy_pool_leaves_other_callers_to_themselves():
    entered, leave, caller = threading.Barrier(3), threading.Event(), threading.get_ident()

    def hold(part: int) -> None:
        entered.wait(SECONDS)
        leave.wait(SECONDS)

    holder = threading.Thread(target=run_parts, args=(2, 2, hold))
    holder.start()
    entered.wait(SECONDS)
    threads: list[int] = []
    run_parts(8, 4, lambda part: threads.append(threading.get_ident()))
    leave.set()
    holder.join()
    assert threads == [caller] * 8


def test_the_first_failure_comes_out_once_all_is_done():
    done: list[int] = []

    def work(part: int) -> None:
        done.append(part)
        if part % 2:
            raise KeyError(part)

    with pytest.raises(KeyError):
        run_parts(20, 2, work)
    assert sorted(done) == list(range(20))
    assert len(set(together(2, threading.get_ident))) == 2


@pytest.mark.parametrize("flush", [False, True])
def test_helpers_flush_denormals_as_their_caller_does(flush):
    """torch.set_flush_denormal reaches the calling thread alone; the bits must not depend on who does a part."""
    veils = torch.full((1, 3, 4, 4), 1e-40)
    images, rows = torch.zeros((1, 3, 4, 4), dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)

    def blended() -> torch.Tensor:
        return ops.blend_normalize(images, veils, rows, 51, mean=(0,) * 3, std=(1,) * 3)

    if not torch.set_flush_denormal(flush):
        pytest.skip("this processor flushes no denormals")
    try:
        found = together(2, blended)
    finally:
        torch.set_flush_denormal(False)
    after = together(2, blended)
    assert all(bool((part == 0).all()) == flush for part in found)
    assert not any((part == 0).any() for part in after)


FORK = """
import os, threading, time
import torch
from veilkern import _cpu, ops

def together():  # two threads in two parts at the same time: the caller and a helper
    meet = threading.Barrier(2)
    _cpu.run_parts(2, 2, lambda part: meet.wait(20))

together()  # the parent has helpers
images = torch.arange(64 * 3 * 112 * 112).to(torch.uint8).view(64, 3, 112, 112)
rows, out = torch.zeros(64, dtype=torch.int64), torch.zeros_like(images)
wanted = ops.blend(images, images[:1], rows, 51).numpy().tobytes()
leave, entered = threading.Event(), threading.Barrier(3)
holder = threading.Thread(target=_cpu.run_parts, args=(2, 2, lambda part: (entered.wait(20), leave.wait(20))))
if HELD:
    holder.start()
    entered.wait(20)
child = os.fork()
if child == 0:  # no torch op but ours: torch's own OpenMP threads do not survive a fork
    together()  # fails unless the child has helpers of its own
    ops.blend(images, images[:1], rows, 51, out=out)
    os._exit(0 if out.numpy().tobytes() == wanted else 1)
leave.set()
if HELD:
    holder.join()
for _ in range(600):
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        os._exit(os.waitstatus_to_exitcode(status))
    time.sleep(0.1)
os.kill(child, 9)
os._exit(3)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.parametrize("held", [False, True])
def test_after_a_fork(held):
    """A serving backend forks its workers after the pool has run, perhaps while another thread holds it: the child has
    helpers of its own."""
    code = FORK.replace("HELD", str(held))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
