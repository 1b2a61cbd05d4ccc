"""blend: ours, eager PyTorch, torch.compile and a copy of the same image bytes.

`python bench/bench_blend.py` prints ratios from one interleaved run;
`pytest --benchmark-enable bench/bench_blend.py` gives pytest-benchmark's table.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import case_of, compare, compiled, main, sizes

from veilkern import ops, reference

NAMES = ("veilkern", "eager", "eager_float", "compile", "copy")


def eager_float(images, veils, rows, a):
    """The best plain float formulation: one fused multiply-add, rounded; exact, since p / 255 is never a tie."""
    return torch.add(images * (a / 255), veils[rows] * ((255 - a) / 255)).round_().to(torch.uint8)


def rivals(made: dict) -> dict:
    out = torch.empty_like(made["images"])
    return {
        "veilkern": functools.partial(ops.blend, **made, out=out),
        "eager": functools.partial(reference.blend, **made),
        "eager_float": functools.partial(eager_float, **made),
        "compile": functools.partial(compiled(reference.blend), **made),
        "copy": functools.partial(out.copy_, made["images"]),
    }


CASES = [case_of(size, rivals, NAMES) for size in sizes("blend")]
test_blend = compare("blend", CASES)

if __name__ == "__main__":
    main("blend", CASES)
