"""blend: ours, eager PyTorch, torch.compile and a copy of the same image bytes.

`python bench/bench_blend.py` prints ratios from one interleaved run;
`pytest --benchmark-enable bench/bench_blend.py` gives pytest-benchmark's table.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import SIZES, A, main, mixed_batch

from veilkern import ops, reference


def eager_float(images, veils, rows, a):
    """The best plain float formulation: one fused multiply-add, rounded; exact, since p / 255 is never a tie."""
    return torch.add(images * (a / 255), veils[rows] * ((255 - a) / 255)).round_().to(torch.uint8)


def rivals(photos: int) -> dict:
    """Calls by name on the same data."""
    images, veils, rows = mixed_batch(photos)
    out = torch.empty_like(images)
    compiled = torch.compile(reference.blend, dynamic=False)
    arguments = (images, veils, rows, A)
    return {
        "veilkern": functools.partial(ops.blend, *arguments, out=out),
        "eager": functools.partial(reference.blend, *arguments),
        "eager_float": functools.partial(eager_float, *arguments),
        "compile": functools.partial(compiled, *arguments),
        "copy": functools.partial(out.copy_, images),
    }


@pytest.mark.parametrize("photos", SIZES)
@pytest.mark.parametrize("rival", ["veilkern", "eager", "eager_float", "compile", "copy"])
def test_blend(benchmark, rival, photos):
    benchmark.group = f"blend u8, {photos} photos, mixed rows"
    benchmark(rivals(photos)[rival])


if __name__ == "__main__":
    main("blend", rivals)
