"""blend: ours, eager PyTorch, torch.compile and a copy of the same image bytes.

`python bench/bench_blend.py` prints ratios from one interleaved run; `pytest bench/bench_blend.py` gives
pytest-benchmark's table.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import interleaved, report

from veilkern import ops, reference

A = 51
SIZES = (64, 512)


def eager_float(images, veils, rows, a):
    """The best plain float formulation: one fused multiply-add, rounded; exact, since p / 255 is never a tie."""
    return torch.add(images * (a / 255), veils[rows] * ((255 - a) / 255)).round_().to(torch.uint8)


def rivals(photos: int, people: int = 64) -> dict:
    """Calls by name on the same data: mixed rows, as a serving backend sees them."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (photos, 3, 112, 112), dtype=torch.uint8, generator=generator)
    veils = torch.randint(0, 256, (people, 3, 112, 112), dtype=torch.uint8, generator=generator)
    rows = torch.randint(0, people, (photos,), generator=generator)
    out = torch.empty_like(images)
    compiled = torch.compile(reference.blend, dynamic=False)
    return {
        "veilkern": functools.partial(ops.blend, images, veils, rows, A, out=out),
        "eager": functools.partial(reference.blend, images, veils, rows, A),
        "eager_float": functools.partial(eager_float, images, veils, rows, A),
        "compile": functools.partial(compiled, images, veils, rows, A),
        "copy": functools.partial(out.copy_, images),
    }


@pytest.mark.parametrize("photos", SIZES)
@pytest.mark.parametrize("rival", ["veilkern", "eager", "eager_float", "compile", "copy"])
def test_blend(benchmark, rival, photos):
    benchmark.group = f"blend u8, {photos} photos, mixed rows"
    benchmark(rivals(photos)[rival])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    for photos in SIZES:
        report("blend", f"{photos} photos u8, mixed rows", 2 * photos * 3 * 112 * 112, interleaved(rivals(photos)), out)
