"""What the benchmarks share: interleaved timing, the machine's description, JSON lines. Ratios, never times alone."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch

import veilkern


def interleaved(
    rivals: dict[str, Callable[[], object]], *, rounds: int = 15, seconds: float = 0.05
) -> dict[str, float]:
    """Median seconds a call of each rival. Every round times every rival in turn, so that a slow moment of the machine
    hits all alike; each sample repeats a call for about `seconds`."""
    repeats = {}
    for name, call in rivals.items():
        call()
        started = time.perf_counter()
        call()
        repeats[name] = max(1, int(seconds / max(time.perf_counter() - started, 1e-7)))
    samples: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, call in rivals.items():
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
    return {
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "veilkern": veilkern.__version__,
        "python": platform.python_version(),
        "commit": commit,
    }


def described(about: dict) -> str:
    """machine() as a line of text."""
    return (
        f"{about['cpu']}, {about['threads']} threads, torch {about['torch']}, Python {about['python']}, "
        f"commit {about['commit']}."
    )


def report(op: str, size: str, moved: int, times: dict[str, float], out: Path | None = None) -> dict:
    """Print and return one row: times and ratios to ours, bytes moved, share of the copy's speed."""
    ours = times["veilkern"]
    row = {
        "op": op,
        "size": size,
        "bytes": moved,
        "ours_ms": round(ours * 1e3, 3),
        "gb_s": round(moved / ours / 1e9, 2),
        **{f"x_{name}": round(t / ours, 2) for name, t in times.items() if name not in ("veilkern", "copy")},
        "x_copy_time": round(ours / times["copy"], 2),
    }
    print("  ".join(f"{k} {v}" for k, v in row.items()), flush=True)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a") as file:
            file.write(json.dumps(row | machine()) + "\n")
    return row


SIZES = (64, 512)
A = 51


def mixed_batch(photos: int, people: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """images, veils, rows: photos of many people mixed, as a serving backend sees them."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (photos, 3, 112, 112), dtype=torch.uint8, generator=generator)
    veils = torch.randint(0, 256, (people, 3, 112, 112), dtype=torch.uint8, generator=generator)
    return images, veils, torch.randint(0, people, (photos,), generator=generator)


def main(op: str, rivals: Callable[[int], dict[str, Callable[[], object]]]) -> None:
    """The command line of a benchmark of photo batches."""
    parser = argparse.ArgumentParser(description=f"{op}: ratios from one interleaved run")
    parser.add_argument("--out", type=Path, help="append JSON lines here")
    out = parser.parse_args().out
    for photos in SIZES:
        moved = 2 * photos * 3 * 112 * 112
        report(op, f"{photos} photos u8, mixed rows", moved, interleaved(rivals(photos)), out)
