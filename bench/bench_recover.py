"""recover: ours, eager PyTorch, torch.compile and a copy of the same image bytes.

`python bench/bench_recover.py` prints ratios from one interleaved run; `pytest bench/bench_recover.py` gives
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


def eager_float(protected, veils, rows, a):
    """The best plain float formulation; within rounding of the integer contract."""
    return torch.sub(protected * (255 / a), veils[rows] * ((255 - a) / a)).round_().clamp_(0, 255).to(torch.uint8)


def rivals(photos: int, people: int = 64) -> dict:
    """Calls by name on the same data: mixed rows, as a serving backend sees them."""
    generator = torch.Generator().manual_seed(0)
    originals = torch.randint(0, 256, (photos, 3, 112, 112), dtype=torch.uint8, generator=generator)
    veils = torch.randint(0, 256, (people, 3, 112, 112), dtype=torch.uint8, generator=generator)
    rows = torch.randint(0, people, (photos,), generator=generator)
    images = ops.blend(originals, veils, rows, A)
    out = torch.empty_like(images)
    compiled = torch.compile(reference.recover, dynamic=False)
    return {
        "veilkern": functools.partial(ops.recover, images, veils, rows, A, out=out),
        "eager": functools.partial(reference.recover, images, veils, rows, A),
        "eager_float": functools.partial(eager_float, images, veils, rows, A),
        "compile": functools.partial(compiled, images, veils, rows, A),
        "copy": functools.partial(out.copy_, images),
    }


@pytest.mark.parametrize("photos", SIZES)
@pytest.mark.parametrize("rival", ["veilkern", "eager", "eager_float", "compile", "copy"])
def test_recover(benchmark, rival, photos):
    benchmark.group = f"recover u8, {photos} photos, mixed rows"
    benchmark(rivals(photos)[rival])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    for photos in SIZES:
        report(
            "recover", f"{photos} photos u8, mixed rows", 2 * photos * 3 * 112 * 112, interleaved(rivals(photos)), out
        )
