"""Tasks in processes of their own that begin as copies of this one: what it has imported, it has imported for all.

This process must not have looked at the GPU before (torch.cuda.is_available() counts): a copy could not use it then.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
import traceback
from collections.abc import Callable

PR_SET_PDEATHSIG = 1  # of linux/prctl.h
Task = tuple[Callable[..., None], tuple]


def end_with_parent() -> None:
    """End this process when the one that made it ends, however that is."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _begin(function: Callable[..., None], arguments: tuple) -> int:
    if child := os.fork():
        return child
    status = 1
    try:
        end_with_parent()
        function(*arguments)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)  # no handlers, no buffers: they are the first process's


def _end(status: int) -> str | None:
    if os.WIFSIGNALED(status):
        return f"died of {signal.Signals(os.WTERMSIG(status)).name}"
    return None if os.WEXITSTATUS(status) == 0 else f"ended with status {os.WEXITSTATUS(status)}"


def every(tasks: list[Task], *, until: float, jobs: int | None = None) -> list[str | None]:
    """Run all, `jobs` at a time (default: one a core but two, 10 at most); for each None, or how its process failed.
    What is not done at `until` (Unix time) is ended, or not begun."""
    jobs = jobs or max(1, min((os.cpu_count() or 1) - 2, 10))
    ended: dict[int, str | None] = {}
    running: dict[int, int] = {}
    waiting = list(range(len(tasks)))
    while waiting or running:
        if time.time() >= until:
            for child, index in running.items():
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                ended[index] = "did not end in time"
            return [ended.get(index, "was not begun in time") for index in range(len(tasks))]
        while waiting and len(running) < jobs:
            index = waiting.pop(0)
            running[_begin(*tasks[index])] = index
        for child in list(running):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                ended[running.pop(child)] = _end(status)
        time.sleep(0.02)
    return [ended[index] for index in range(len(tasks))]
