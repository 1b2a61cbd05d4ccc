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
from common import case_of, compare, compiled, main, sizes

from veilkern import ops, reference

THROUGH = ("veilkern", "eager", "compile", "copy")
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


def rivals(made: dict) -> dict:
    images = made["images"]
    leaf, out = images.clone().requires_grad_(), torch.empty_like(images)
    by_compiler = compiled(reference.block_variance)
    return {
        "veilkern": functools.partial(ops.block_variance_gradient, images, out=out),
        "eager": functools.partial(with_autograd, reference.block_variance, leaf),
        "eager_closed": functools.partial(closed, images),
        "compile": functools.partial(with_autograd, by_compiler, leaf),
        "compile_closed": functools.partial(compiled(closed), images),
        "copy": functools.partial(out.copy_, images),
    }


def through_autograd(made: dict) -> dict:
    """Forward and backward: a fresh gradient for each, as training loops have it. The copy is that of `rivals`."""
    calls = rivals(made)
    leaf = made["images"].clone().requires_grad_()
    ours = functools.partial(with_autograd, ops.block_variance, leaf)
    return {"veilkern": ours, **{name: calls[name] for name in THROUGH[1:]}}


CASES = [
    *(case_of(size, rivals, NAMES) for size in sizes("block_variance_gradient")),
    *(case_of(size, through_autograd, THROUGH) for size in sizes("block_variance")),
]
test_block_variance = compare("block_variance", CASES)

if __name__ == "__main__":
    main("block_variance", CASES)
