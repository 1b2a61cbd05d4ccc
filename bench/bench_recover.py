"""recover: ours, eager PyTorch, torch.compile and a copy of the same image bytes.

`python bench/bench_recover.py` prints ratios from one interleaved run;
`pytest --benchmark-enable bench/bench_recover.py` gives pytest-benchmark's table.
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


def eager_float(protected, veils, rows, a):
    """The best plain float formulation; within rounding of the integer contract."""
    return torch.sub(protected * (255 / a), veils[rows] * ((255 - a) / a)).round_().clamp_(0, 255).to(torch.uint8)


def rivals(photos: int) -> dict:
    """Calls by name on the same data."""
    images, veils, rows = mixed_batch(photos)
    protected = ops.blend(images, veils, rows, A)
    out = torch.empty_like(protected)
    compiled = torch.compile(reference.recover, dynamic=False)
    arguments = (protected, veils, rows, A)
    return {
        "veilkern": functools.partial(ops.recover, *arguments, out=out),
        "eager": functools.partial(reference.recover, *arguments),
        "eager_float": functools.partial(eager_float, *arguments),
        "compile": functools.partial(compiled, *arguments),
        "copy": functools.partial(out.copy_, protected),
    }


@pytest.mark.parametrize("photos", SIZES)
@pytest.mark.parametrize("rival", ["veilkern", "eager", "eager_float", "compile", "copy"])
def test_recover(benchmark, rival, photos):
    benchmark.group = f"recover u8, {photos} photos, mixed rows"
    benchmark(rivals(photos)[rival])


if __name__ == "__main__":
    main("recover", rivals)
