"""veil_step_ by the Triton kernels: its launcher."""

from __future__ import annotations

import torch
import triton

from veilkern.backends.launch_tables import launch_of
from veilkern.backends.triton._launch import KIND, boxes, compiled, power, run, tiled
from veilkern.kernels.veil_step import veil_distances_kernel, veil_losses_kernel, veil_move_kernel


def veil_step_(
    veils, momentum, gradients, images, offsets, gradient_offsets, a, lam, mu, step, decay, active, mean_images,
    visual, block, stride, form,
):  # fmt: skip
    """Launcher of `veil_step_`: changes veils and momentum, returns the statistics. Three launches."""
    launch = launch_of("veil_step_", KIND[veils.dtype], veils.device)
    people, channels, height, width = veils.shape
    tiling = tiled(launch["tile"], width)
    pieces = triton.cdiv(width, tiling["COLS"])
    tiles = triton.cdiv(height, tiling["ROWS"]) * pieces
    parts = channels * tiles
    norm, options = visual == "norm", compiled(launch)
    mixed, slopes = (torch.empty_like(veils, memory_format=torch.contiguous_format) for _ in range(2))
    means = None if norm else torch.empty_like(mixed)
    squares = veils.new_empty((len(images), parts))
    shares, losses = veils.new_empty(len(images)), veils.new_empty(people)
    sums, variances, absolutes = (veils.new_empty((people, parts)) for _ in range(3))  # each aligned
    counters = torch.empty(people, dtype=torch.int32, device=veils.device)
    statistics = veils.new_empty((people, 3))
    marks = offsets.contiguous()
    moving = None if active is None else active.contiguous()
    sizes = (channels, height, width, tiles, pieces, a, *boxes(veils, block, stride))
    rates = (lam, mu, step, decay)
    tables = [value if isinstance(value, torch.Tensor) else None for value in rates]
    numbers = [0.0 if isinstance(value, torch.Tensor) else value for value in rates]
    run(
        veil_losses_kernel, people * parts, veils, veils, images, marks, moving, mean_images, mixed, means,
        squares, sums, counters, len(images), *sizes, *veils.stride(), *images.stride(),
        *(veils if mean_images is None else mean_images).stride(), **tiling, **options,
    )  # fmt: skip
    run(
        veil_distances_kernel, people, veils, squares, marks, moving, shares, losses, len(images), parts,
        float(channels * height * width), NORM=norm, PARTS=power(parts), PHOTOS=max(1024 // power(parts), 1),
        num_warps=4,
    )  # fmt: skip
    run(
        veil_move_kernel, people * parts, veils, veils, momentum, gradients, images, marks,
        gradient_offsets.contiguous(), moving, *tables, mixed, means, shares, losses, sums, variances, absolutes,
        slopes, counters, statistics, *numbers, len(images), len(gradients), *sizes, *veils.stride(),
        *momentum.stride(), *gradients.stride(), *images.stride(), NORM=norm, LITERAL=form == "literal",
        PLAIN=block == (3, 3) and stride == 1, **tiling, PARTS=power(parts), TILES=power(tiles), **options,
    )  # fmt: skip
    return statistics
