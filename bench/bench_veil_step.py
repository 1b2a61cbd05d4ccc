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
from common import ON_GPU, A, Case, compare, compiled, copy_of, main, on_device

from veilkern import ops, reference

NAMES = ("veilkern", "eager", "eager_closed", "compile_closed", "copy")
PEOPLE, PHOTOS = 640 if ON_GPU else 64, 10
SIZE = 3 * 112 * 112
READ = PEOPLE * SIZE * (PHOTOS * (4 + 1) + 4 + 4 + 4)  # gradients and photos; veil, momentum and mean photo
OPTIONS = {"blend": A, "lam": 0.04, "mu": 0.01, "step": 8 / 255, "decay": 1.0}


def closed(veils, momentum, gradients, images, means):
    """The best plain formulation for equal counts: reshaped means, and L_var's gradient as a box sum of box sums."""
    alpha, rest = A / 255, 1 - A / 255
    pixels = images.view(PEOPLE, PHOTOS, 3, 112, 112) / 255
    gap = veils[:, None] - pixels
    r = gap.flatten(2).norm(dim=2)
    visual = rest * (gap / r[:, :, None, None, None]).mean(1)
    sums = 9 * torch.nn.functional.avg_pool2d(alpha * means + rest * veils, 3, 1)
    centred = sums - sums.mean((2, 3), keepdim=True)
    factor = 1 + 1 / 81
    variance = (
        2
        * factor
        / (110 * 110)
        * 9
        * torch.nn.functional.avg_pool2d(torch.nn.functional.pad(centred, (2, 2, 2, 2)), 3, 1)
    )
    g = rest * gradients.view_as(pixels).mean(1) - 0.04 * visual + 0.01 * rest * variance
    size = g.abs().mean((1, 2, 3))
    momentum.add_(g / size[:, None, None, None])
    veils.sub_(8 / 255 * momentum.sign()).clamp_(0, 1)
    return torch.stack([size, rest * r.mean(1), factor * centred.square().mean((2, 3)).sum(1)], 1)


def rivals() -> dict:
    g = torch.Generator().manual_seed(0)
    veils, means = (torch.rand(PEOPLE, 3, 112, 112, generator=g) for _ in range(2))
    momentum = torch.zeros_like(veils)
    gradients = 1e-3 * torch.randn(PEOPLE * PHOTOS, 3, 112, 112, generator=g)
    images = torch.randint(0, 256, (PEOPLE * PHOTOS, 3, 112, 112), dtype=torch.uint8, generator=g)
    offsets = torch.arange(PEOPLE + 1) * PHOTOS
    veils, means, offsets, *rest = on_device(veils, means, offsets, momentum, gradients, images)
    state = (veils, *rest)
    by_compiler = compiled(closed)
    return {
        "veilkern": functools.partial(ops.veil_step_, *state, offsets, mean_images=means, **OPTIONS),
        "eager": functools.partial(reference.veil_step_, *state, offsets, mean_images=means, **OPTIONS),
        "eager_closed": functools.partial(closed, *state, means),
        "compile_closed": functools.partial(by_compiler, *state, means),
        "copy": copy_of(READ),
    }


CASES = [Case(f"{PEOPLE} people x 10 photos, f32", READ + PEOPLE * SIZE * 8, rivals, NAMES, copied=2 * READ)]
test_veil_step = compare("veil_step_", CASES)

if __name__ == "__main__":
    main("veil_step_", CASES)
