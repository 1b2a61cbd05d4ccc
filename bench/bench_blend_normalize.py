"""blend_normalize: ours, eager PyTorch, torch.compile and a copy that moves as many bytes.

`python bench/bench_blend_normalize.py` prints ratios from one interleaved run;
`pytest --benchmark-enable bench/bench_blend_normalize.py` gives pytest-benchmark's table.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import ON_GPU, A, Case, compare, compiled, copy_of, main, mixed_batch

from veilkern import ops, reference

NAMES = ("veilkern", "eager", "compile", "copy")
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
PHOTOS = 32768 if ON_GPU else 512
BYTES = {torch.float32: 4, torch.bfloat16: 2}


def rivals(photos: int, dtype: torch.dtype) -> dict:
    images, veils, rows = mixed_batch(photos)
    arguments, options = (images, veils / 255.0, rows, A), {"mean": MEAN, "std": STD, "dtype": dtype}
    out = ops.blend_normalize(*arguments, **options)
    by_compiler = compiled(reference.blend_normalize)
    return {
        "veilkern": functools.partial(ops.blend_normalize, *arguments, **options, out=out),
        "eager": functools.partial(reference.blend_normalize, *arguments, **options),
        "compile": functools.partial(by_compiler, *arguments, **options),
        "copy": copy_of(moved(photos, dtype) // 2),
    }


def moved(photos: int, dtype: torch.dtype) -> int:
    return photos * 3 * 112 * 112 * (1 + BYTES[dtype])


CASES = [
    Case(
        f"{PHOTOS} photos to {str(dtype).removeprefix('torch.')}",
        moved(PHOTOS, dtype),
        functools.partial(rivals, PHOTOS, dtype),
        NAMES,
    )
    for dtype in BYTES
]
test_blend_normalize = compare("blend_normalize", CASES)

if __name__ == "__main__":
    main("blend_normalize", CASES)
