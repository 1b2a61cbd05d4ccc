"""block_variance: loss and gradient by ours, eager PyTorch, torch.compile and a copy of the image.

`python bench/bench_block_variance.py` prints ratios from one interleaved run;
`pytest --benchmark-enable bench/bench_block_variance.py` gives pytest-benchmark's table.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import Case, compare, main

from veilkern import ops, reference

NAMES = ("veilkern", "eager", "eager_closed", "compile", "compile_closed", "copy")


def closed(images):
    """Loss and gradient without autograd: the gradient is the box sum of the centred box sums."""
    sums = 9 * torch.nn.functional.avg_pool2d(images, 3, 1)
    centred = sums - sums.mean((2, 3), keepdim=True)
    factor = 1 + 1 / 81
    padded = torch.nn.functional.pad(centred, (2, 2, 2, 2))
    gradient = (2 * factor / (110 * 110) * 9) * torch.nn.functional.avg_pool2d(padded, 3, 1)
    return factor * centred.square().mean((2, 3)).sum(1), gradient


def with_autograd(loss_of, images):
    images.grad = None
    loss = loss_of(images)
    loss.sum().backward()
    return loss, images.grad


def rivals(count: int) -> dict:
    images = torch.rand((count, 3, 112, 112), generator=torch.Generator().manual_seed(0))
    leaf, out = images.clone().requires_grad_(), torch.empty_like(images)
    compiled = torch.compile(reference.block_variance, dynamic=False)
    return {
        "veilkern": functools.partial(ops.block_variance_gradient, images, out=out),
        "eager": functools.partial(with_autograd, reference.block_variance, leaf),
        "eager_closed": functools.partial(closed, images),
        "compile": functools.partial(with_autograd, compiled, leaf),
        "compile_closed": functools.partial(torch.compile(closed, dynamic=False), images),
        "copy": functools.partial(out.copy_, images),
    }


CASES = [
    Case(
        f"{count} x 3 x 112 x 112 f32, loss and gradient",
        2 * 4 * count * 3 * 112 * 112,
        functools.partial(rivals, count),
        NAMES,
    )
    for count in (20, 100, 400)  # in the nearer caches, about as large as the last one, and out of it
]
test_block_variance = compare("block_variance", CASES)

if __name__ == "__main__":
    main("block_variance", CASES)
