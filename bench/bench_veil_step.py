"""veil_step_: ours, eager PyTorch, torch.compile, and a copy of all that a step must read.

`python bench/bench_veil_step.py` prints ratios from one interleaved run;
`pytest --benchmark-enable bench/bench_veil_step.py` gives pytest-benchmark's table.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import case_of, compare, compiled, copy_of, main, sizes

from veilkern import ops, reference

NAMES = ("veilkern", "eager", "eager_closed", "compile_closed", "copy")


def closed(veils, momentum, gradients, images, offsets, mean_images, a, lam, mu, step, decay):
    """The best plain formulation for equal counts and decay 1: reshaped means, and L_var's gradient as a box sum of box
    sums."""
    alpha, rest = a / 255, 1 - a / 255
    pixels = images.view(len(veils), -1, *veils.shape[1:]) / 255
    gap = veils[:, None] - pixels
    r = gap.flatten(2).norm(dim=2)
    visual = rest * (gap / r[:, :, None, None, None]).mean(1)
    sums = 9 * torch.nn.functional.avg_pool2d(alpha * mean_images + rest * veils, 3, 1)
    centred = sums - sums.mean((2, 3), keepdim=True)
    factor = 1 + 1 / 81
    variance = (
        2
        * factor
        / (110 * 110)
        * 9
        * torch.nn.functional.avg_pool2d(torch.nn.functional.pad(centred, (2, 2, 2, 2)), 3, 1)
    )
    g = rest * gradients.view_as(pixels).mean(1) - lam * visual + mu * rest * variance
    size = g.abs().mean((1, 2, 3))
    momentum.add_(g / size[:, None, None, None])
    veils.sub_(step * momentum.sign()).clamp_(0, 1)
    return torch.stack([size, rest * r.mean(1), factor * centred.square().mean((2, 3)).sum(1)], 1)


def rivals(made: dict) -> dict:
    read = sum(made[name].nbytes for name in ("veils", "momentum", "gradients", "images", "mean_images"))
    return {
        "veilkern": functools.partial(ops.veil_step_, **made),
        "eager": functools.partial(reference.veil_step_, **made),
        "eager_closed": functools.partial(closed, **made),
        "compile_closed": functools.partial(compiled(closed), **made),
        "copy": copy_of(read),
    }


CASES = [case_of(size, rivals, NAMES) for size in sizes("veil_step_")]
test_veil_step = compare("veil_step_", CASES)

if __name__ == "__main__":
    main("veil_step_", CASES)
