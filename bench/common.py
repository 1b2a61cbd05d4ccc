"""What the benchmarks share: cases, interleaved timing, the machine's description, JSON lines.

Ratios, never times alone. On the CPU, or on the GPU with VEILKERN_BENCH_DEVICE=cuda: larger batches, CUDA events, a
cold L2 cache, torch.compile in its max-autotune mode.

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
import functools
import json
import os
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

import veilkern
from veilkern.testing.entry import Size
from veilkern.testing.table import TABLE
from veilkern.threads import processor

DEVICE = os.environ.get("VEILKERN_BENCH_DEVICE", "cpu")
ON_GPU = DEVICE != "cpu"
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
    return TABLE[op].sizes(ON_GPU)


def case_of(size: Size, rivals: Callable[[dict], Calls], names: tuple[str, ...], **more) -> Case:
    """A case of a size of the table: rivals(arguments) -> calls by name, on the arguments that the table makes."""
    make = functools.partial(_rivals, rivals, size)
    return Case(size.words, size.moved, make, names, copied=size.copied, **more)


def _rivals(rivals: Callable[[dict], Calls], size: Size) -> Calls:
    return rivals(size.make(DEVICE))


def compiled(function: Callable) -> Callable:
    """torch.compile at its best: with the search for the fastest kernels on a GPU. Without CUDA graphs there: they
    would copy every input into memory of their own, which the others need not. VEILKERN_BENCH_COMPILE names another
    mode, as `default` where minutes count."""
    return torch.compile(function, dynamic=False, mode=COMPILE_MODE)


def on_device(*tensors: torch.Tensor):
    """The tensors on the device of the benchmark; one alone as itself."""
    moved = tuple(t.to(DEVICE) for t in tensors)
    return moved[0] if len(moved) == 1 else moved


ROUNDS = int(os.environ.get("VEILKERN_BENCH_ROUNDS", 21))


def interleaved_on_gpu(rivals: Calls, *, rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds a call of each rival by CUDA events; every round takes them in another order.

    A write over twice the L2 cache goes before each call: it empties the cache, and while it runs the host is ahead, so
    that launches do not count as long as they are faster than that.
    """
    flush = torch.empty(2**29, dtype=torch.int8, device=DEVICE)
    names, order = list(rivals), random.Random(0)
    for call in rivals.values():
        for _ in range(3):
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


def machine() -> dict:
    """CPU, versions and commit."""
    commit = (
        os.environ.get("VEILKERN_COMMIT")
        or subprocess.run(  # a copy of the tree may have no history
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip()
    )
    backend = next(b for b in veilkern.list_backends() if b.name == ("triton" if ON_GPU else "cpu"))
    about = {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda, "compile": COMPILE_MODE} if ON_GPU else {}
    return about | {
        "cpu": processor(),
        "threads": torch.get_num_threads(),
        "backend": backend.detail or backend.reason,
        "torch": torch.__version__,
        "veilkern": veilkern.__version__,
        "python": platform.python_version(),
        "commit": commit,
    }


def described(about: dict) -> str:
    """machine() as a line of text."""
    gpu = f"{about['gpu']}, CUDA {about['cuda']}, torch.compile {about['compile']}; " if "gpu" in about else ""
    return (
        f"{gpu}{about['cpu']}, {about['threads']} threads, {about['backend']}, torch {about['torch']}, Python "
        f"{about['python']}, commit {about['commit']}."
    )


def measure(op: str, case: Case) -> dict:
    """One row of one interleaved run: times as ratios to ours, bytes moved, and the share of the copy's speed."""
    times = {name: t * case.part.get(name, 1.0) for name, t in interleaved(case.rivals()).items()}
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
        if ON_GPU:
            torch.cuda.empty_cache()
        row = measure(op, case)
        print("  ".join(f"{k} {v}" for k, v in row.items()), flush=True)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            with out.open("a") as file:
                file.write(json.dumps(row | machine()) + "\n")
