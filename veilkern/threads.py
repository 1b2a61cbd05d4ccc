"""How many threads the CPU work of this process should use, and how they wait for each other.

Threads of OpenMP, which run the network on a CPU, spin while they wait for the slowest of them: hundreds of times in
each pass of a network, up to some ms each time. That is quickest while every thread has a core to itself. Beside other
load one of them is always without a core, and the others spend their time slices spinning for it; time two crafts at
once, with OMP_WAIT_POLICY=active and passive, to see it. So the command line lets them sleep while they wait, and takes
no more threads than it has cores. The number does not follow the load: another number of threads sums in another order,
and a craft should give the same bits on a busy day.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path


def wait_asleep() -> None:
    """Let OpenMP's threads sleep while they wait. Only before torch is imported: OpenMP reads it when it loads. What
    the user has set stays."""
    if not any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")):
        os.environ["OMP_WAIT_POLICY"] = "passive"  # read by GNU's and LLVM's OpenMP alike


def available_cores(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use: by its affinity, and by the CPU quota of its control group (containers)."""
    # os.sched_getaffinity is Linux's alone
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = (groups / "cpu.max").read_text().split()
        cores = min(cores, math.ceil(int(quota) / int(period)))  # "max", no quota, is no integer
    return max(cores, 1)


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def default_threads() -> int | None:
    """Threads of a command when nobody says: all cores it may use; None where the user told OpenMP how many."""
    return None if "OMP_NUM_THREADS" in os.environ else available_cores()


@contextlib.contextmanager
def using_threads(count: int | None) -> Iterator[int]:
    """Inside the block torch and the C++ kernels use `count` threads (None: as many as before); yields their number.
    Raises ValueError for a count below 1."""
    import torch

    before = torch.get_num_threads()
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise ValueError(f"threads must be a positive integer, got {count!r}")
    torch.set_num_threads(count or before)
    try:
        yield count or before
    finally:
        torch.set_num_threads(before)
