"""What the benchmarks share: cases, interleaved timing, the machine's description, JSON lines.

Ratios, never times alone. On the CPU, or on the GPU with VEILKERN_BENCH_DEVICE=cuda: larger batches, made there, CUDA
events, a cold L2 cache, torch.compile in its max-autotune mode. With VEILKERN_BENCH_DRY=1 the rivals of a GPU on a few
values on the CPU, each once: `bench/gpu.sh --dry` sees that all of it runs, and claims nothing.

A case is one size of one op with its rivals, calls by name on the same data:

veilkern      ours
eager         the reference in plain PyTorch
eager_*       another plain formulation that is faster, or another way to count
compile*      torch.compile of one of those
copy          a copy of as many bytes as the case says (see each benchmark)
others        another library
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from rows import append, commit, described  # noqa: F401 - others take `described` from here

import veilkern
from veilkern.testing.entry import Size
from veilkern.testing.table import TABLE
from veilkern.threads import processor

DEVICE = os.environ.get("VEILKERN_BENCH_DEVICE", "cpu")
DRY = bool(os.environ.get("VEILKERN_BENCH_DRY"))
ON_GPU = DEVICE != "cpu" or DRY  # what is measured is what a GPU measures
COMPILE_MODE = os.environ.get("VEILKERN_BENCH_COMPILE", "max-autotune-no-cudagraphs" if ON_GPU else "default")
Calls = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Case:
    """size: in words. moved: bytes that ours must read and write; copied: those that the copy reads and writes
    (default: as many). rivals() -> calls by name; names: of the rivals. part: a rival too slow for all of the work does
    one such part of it, and its time is multiplied."""

    size: str
    moved: int
    rivals: Callable[[], Calls]
    names: tuple[str, ...]
    copied: int = 0
    part: dict[str, float] = field(default_factory=dict)


def sizes(op: str) -> tuple[Size, ...]:
    """Those that the table gives for this device."""
    return TABLE[op].sizes(ON_GPU and not DRY)


def case_of(size: Size, rivals: Callable[[dict], Calls], names: tuple[str, ...], **more) -> Case:
    """A case of a size of the table: rivals(arguments) -> calls by name, on the arguments that the table makes."""
    make = functools.partial(_rivals, rivals, size)
    return Case(size.words, 1 if DRY else size.moved, make, names, copied=size.copied, **more)


def _rivals(rivals: Callable[[dict], Calls], size: Size) -> Calls:
    with on_the_device():
        made = size.make(DEVICE)
    return rivals(shrunk(made) if DRY else made)


@contextlib.contextmanager
def on_the_device() -> Iterator[None]:
    """Inside, random numbers come from the device's own generator: a processor takes seconds for each gigabyte."""
    if DEVICE == "cpu":
        yield
        return
    plain, torch.Generator = torch.Generator, functools.partial(torch.Generator, device=DEVICE)
    try:
        with torch.device(DEVICE):
            yield
    finally:
        torch.Generator = plain


def shrunk(made: dict, people: int = 2, side: int = 12) -> dict:
    """A few photos of the arguments that the table makes, and a corner of each."""
    photos = int(made["offsets"][people]) if "offsets" in made else 2
    counts = {"offsets": people + 1, "momentum": people, "mean_images": people}
    if "offsets" in made:
        counts["veils"] = people
    few = {}
    for name, value in made.items():
        if isinstance(value, torch.Tensor) and name not in ("slope", "add"):
            whole = name in ("veils", "keys") and name not in counts  # rows may name any of them
            value = value if whole else value[: counts.get(name, photos)]
            if value.dim() == 4:
                last = value.is_contiguous(memory_format=torch.channels_last) and not value.is_contiguous()
                kept = torch.channels_last if last else torch.contiguous_format
                value = value[:, :, :side, :side].contiguous(memory_format=kept)
        few[name] = value
    if "bits" in few:
        few["bits"] = few["bits"][:, : few["gradient"][0].numel() // 8].contiguous()
    return few


def compiled(function: Callable) -> Callable:
    """torch.compile at its best, at the first call: with the search for the fastest kernels on a GPU. Without CUDA
    graphs there: they would copy every input into memory of their own, which the others need not.
    VEILKERN_BENCH_COMPILE names another mode, as `default` where minutes count."""
    made: list[Callable] = []

    def call(*arguments, **options):
        if not made:  # a compiler that nobody asks for is not even loaded
            made.append(torch.compile(function, dynamic=False, **_how()))
        return made[0](*arguments, **options)

    return call


def _how() -> dict:
    return {"backend": "eager"} if DRY else {"mode": COMPILE_MODE}  # traced, which is what may fail, but not compiled


def on_device(*tensors: torch.Tensor):
    """The tensors on the device of the benchmark; one alone as itself."""
    moved = tuple(t.to(DEVICE) for t in tensors)
    return moved[0] if len(moved) == 1 else moved


ROUNDS = int(os.environ.get("VEILKERN_BENCH_ROUNDS", 21))


def interleaved_on_gpu(rivals: Calls, *, rounds: int = ROUNDS, warmups: int = 3) -> dict[str, float]:
    """Median seconds a call of each rival by CUDA events; every round takes them in another order.

    A write over twice the L2 cache goes before each call: it empties the cache, and while it runs the host is ahead, so
    that launches do not count as long as they are faster than that.
    """
    flush = torch.empty(2**29, dtype=torch.int8, device=DEVICE)
    names, order = list(rivals), random.Random(0)
    for call in rivals.values():
        for _ in range(warmups):
            call()
    samples: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        order.shuffle(names)
        marks = {}
        for name in names:
            flush.zero_()
            marks[name] = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            marks[name][0].record()
            rivals[name]()
            marks[name][1].record()
        torch.cuda.synchronize()
        for name, (start, end) in marks.items():
            samples[name].append(start.elapsed_time(end) / 1e3)
    return {name: statistics.median(values) for name, values in samples.items()}


def interleaved(rivals: Calls, *, rounds: int = 15, seconds: float = 0.05) -> dict[str, float]:
    """Median seconds a call of each rival. Every round times every rival in turn, so that a slow moment of the machine
    hits all alike; each sample repeats a call for about `seconds`. Calls of over a second take part in three rounds."""
    if DRY:
        return {name: _once(call) for name, call in rivals.items()}
    if ON_GPU:
        return interleaved_on_gpu(rivals)
    repeats, slow = {}, set()
    for name, call in rivals.items():
        call()
        started = time.perf_counter()
        call()
        took = time.perf_counter() - started
        repeats[name] = max(1, int(seconds / max(took, 1e-7)))
        slow |= {name} if took > 1 else set()
    samples: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(rounds):
        for name, call in rivals.items():
            if name in slow and turn % (rounds // 3) != 0:
                continue
            started = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            samples[name].append((time.perf_counter() - started) / repeats[name])
    return {name: statistics.median(values) for name, values in samples.items()}


def _once(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def machine() -> dict:
    """CPU, versions and commit."""
    wanted = ("cuda", "triton") if ON_GPU else ("cpu",)
    about = {"gpu": "a dry run, no figures", "cuda": "none", "compile": "traced alone"} if DRY else {}
    if DEVICE != "cpu":
        about = {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda, "compile": COMPILE_MODE}
    return about | {
        "cpu": processor(),
        "threads": torch.get_num_threads(),
        "backend": ", ".join(b.detail or b.reason for b in veilkern.list_backends() if b.name in wanted),
        "torch": torch.__version__,
        "veilkern": veilkern.__version__,
        "python": platform.python_version(),
        "commit": commit(),
    }


def measure(op: str, case: Case) -> dict:
    """One row of one interleaved run of all rivals."""
    return row_of(op, case, interleaved(case.rivals()))


def row_of(op: str, case: Case, seconds: dict[str, float]) -> dict:
    """Times as ratios to ours, bytes moved, and the share of the copy's speed."""
    times = {name: t * case.part.get(name, 1.0) for name, t in seconds.items()}
    ours = times["veilkern"]
    row = {"op": op, "size": case.size, "bytes": case.moved, "ours_ms": round(ours * 1e3, 3)}
    row["gb_s"] = round(case.moved / ours / 1e9, 2)
    row |= {f"x_{name}": round(t / ours, 2) for name, t in times.items() if name not in ("veilkern", "copy")}
    row["x_copy_time"] = round(ours / times["copy"], 2)
    row["share_of_copy"] = round(case.moved / ours / ((case.copied or case.moved) / times["copy"]), 2)
    row["copy_ms"] = round(times["copy"] * 1e3, 3)
    return row


def copy_of(read: int) -> Callable[[], object]:
    """A copy of `read` bytes: it reads and writes as many."""
    source = torch.empty(read, dtype=torch.uint8, device=DEVICE).random_()
    return functools.partial(torch.empty_like(source).copy_, source)


def compare(op: str, cases: list[Case]):
    """A pytest-benchmark test of all cases, one group each."""

    def label(case: Case, name: str) -> str:
        return f"{case.size}-{name}" + (f", 1 part of {case.part[name]}" if name in case.part else "")

    pairs = [pytest.param(case, name, id=label(case, name)) for case in cases for name in case.names]

    @pytest.mark.parametrize("case,rival", pairs)
    def test(benchmark, case, rival):
        benchmark.group = f"{op}, {case.size}"
        benchmark(case.rivals()[rival])

    return test


def main(op: str, cases: list[Case]) -> None:
    """The command line of a benchmark: prints ratios from one interleaved run, appends JSON lines to --out."""
    parser = argparse.ArgumentParser(description=f"{op}: ratios from one interleaved run")
    parser.add_argument("--out", type=Path, help="append JSON lines here")
    out = parser.parse_args().out
    for case in cases:
        if DEVICE != "cpu":
            torch.cuda.empty_cache()
        row = measure(op, case)
        print("  ".join(f"{k} {v}" for k, v in row.items()), flush=True)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            append(out, row | machine())
