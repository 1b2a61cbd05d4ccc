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
from common import ON_GPU, A, Case, compare, compiled, main, mixed_batch

from veilkern import ops, reference

NAMES = ("veilkern", "eager", "eager_float", "compile", "copy")


def eager_float(images, veils, rows, a):
    """The best plain float formulation: one fused multiply-add, rounded; exact, since p / 255 is never a tie."""
    return torch.add(images * (a / 255), veils[rows] * ((255 - a) / 255)).round_().to(torch.uint8)


def rivals(photos: int) -> dict:
    arguments = (*mixed_batch(photos), A)
    images = arguments[0]
    out = torch.empty_like(images)
    by_compiler = compiled(reference.blend)
    return {
        "veilkern": functools.partial(ops.blend, *arguments, out=out),
        "eager": functools.partial(reference.blend, *arguments),
        "eager_float": functools.partial(eager_float, *arguments),
        "compile": functools.partial(by_compiler, *arguments),
        "copy": functools.partial(out.copy_, images),
    }


CASES = [
    Case(f"{photos} photos u8, mixed rows", 2 * photos * 3 * 112 * 112, functools.partial(rivals, photos), NAMES)
    for photos in ((4096, 32768) if ON_GPU else (64, 512))
]
test_blend = compare("blend", CASES)

if __name__ == "__main__":
    main("blend", CASES)
