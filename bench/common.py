"""What the benchmarks share: cases, interleaved timing, the machine's description, JSON lines.

Ratios, never times alone.

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
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

import veilkern

A = 51
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


def interleaved(rivals: Calls, *, rounds: int = 15, seconds: float = 0.05) -> dict[str, float]:
    """Median seconds a call of each rival. Every round times every rival in turn, so that a slow moment of the machine
    hits all alike; each sample repeats a call for about `seconds`. Calls of over a second take part in three rounds."""
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
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next(
            (line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")), cpu
        )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    cpu_backend = next(b for b in veilkern.list_backends() if b.name == "cpu")
    return {
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "backend": cpu_backend.detail or cpu_backend.reason,
        "torch": torch.__version__,
        "veilkern": veilkern.__version__,
        "python": platform.python_version(),
        "commit": commit,
    }


def described(about: dict) -> str:
    """machine() as a line of text."""
    return (
        f"{about['cpu']}, {about['threads']} threads, {about['backend']}, torch {about['torch']}, Python "
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
    source = torch.zeros(read, dtype=torch.uint8)
    return functools.partial(torch.zeros_like(source).copy_, source)


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


def mixed_batch(photos: int, people: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """images, veils, rows: photos of many people mixed, as a serving backend sees them."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (photos, 3, 112, 112), dtype=torch.uint8, generator=generator)
    veils = torch.randint(0, 256, (people, 3, 112, 112), dtype=torch.uint8, generator=generator)
    return images, veils, torch.randint(0, people, (photos,), generator=generator)


def main(op: str, cases: list[Case]) -> None:
    """The command line of a benchmark: prints ratios from one interleaved run, appends JSON lines to --out."""
    parser = argparse.ArgumentParser(description=f"{op}: ratios from one interleaved run")
    parser.add_argument("--out", type=Path, help="append JSON lines here")
    out = parser.parse_args().out
    for case in cases:
        row = measure(op, case)
        print("  ".join(f"{k} {v}" for k, v in row.items()), flush=True)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            with out.open("a") as file:
                file.write(json.dumps(row | machine()) + "\n")
