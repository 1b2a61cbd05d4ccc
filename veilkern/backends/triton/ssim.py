"""ssim by the Triton kernels: its launcher."""

from __future__ import annotations

import functools

import torch
import triton

from veilkern.backends.launch_tables import launch_of
from veilkern.backends.triton._launch import KIND, compiled, constant, power, run
from veilkern.filters import gaussian_taps
from veilkern.kernels.ssim import ssim_gradient_kernel, ssim_kernel


@functools.cache
def _processors(device: torch.device) -> int:
    return 2 if device.type == "cpu" else torch.cuda.get_device_properties(device).multi_processor_count


def _ssim_tiles(launch, width, before, after) -> tuple[int, int, dict[str, int]]:
    """Columns to the left of a tile's own, columns of its own (both in sixteens), and its rows and columns."""
    lead = triton.cdiv(before, 16) * 16
    columns = min(power(width + lead + after), max(128, power(2 * (lead + after + 16))))
    free = columns - lead - after
    room = triton.cdiv(width, 16) * 16 if width <= free else free // 16 * 16
    return lead, room, {"ROWS": max(launch["tile"] // columns, 1), "COLS": columns}


def ssim(x, y, window, sigma, borders, data_range, scale, gradient_x, gradient_y):
    """Launcher of `ssim`: returns the score and writes each gradient (dense) that is not None."""
    if gradient_x is None and gradient_y is not None:  # the score is the same the other way round
        x, y, gradient_x, gradient_y = y, x, gradient_y, None
    launch = launch_of("ssim", KIND[x.dtype], x.device)
    count, channels, height, width = x.shape
    pad = window // 2 if borders == "same" else 0
    out_h, out_w = (side + 2 * pad - window + 1 for side in (height, width))
    pitch = triton.cdiv(out_w, 16) * 16
    planes, taps = count * channels, constant(gaussian_taps, (window, sigma, torch.float64), x.device)

    def tiles_of(high, wide, before, after):
        lead, room, shape = _ssim_tiles(launch, wide, before, after)
        pieces = triton.cdiv(wide, room)
        tiles = triton.cdiv(high, shape["ROWS"]) * pieces
        programs = min(planes * tiles, launch["slots_per_processor"] * _processors(x.device))
        slots = x.new_empty((programs, 5, shape["ROWS"] * shape["COLS"]))
        return programs, tiles, pieces, lead, room, slots, shape | compiled(launch)

    programs, tiles, pieces, lead, room, slots, shape = tiles_of(out_h, out_w, pad, window - 1 - pad)
    partial = x.new_empty((planes, tiles))
    both = gradient_y is not None
    maps = None if gradient_x is None else x.new_empty((planes, 4 if both else 3, out_h, pitch))
    sizes = (channels, height, width, out_h, out_w, out_h * pitch, pitch, window, pad)
    run(
        ssim_kernel, programs, x, x, y, taps, None if scale is None else scale.contiguous(), partial, maps, slots,
        planes * tiles, tiles, pieces, *sizes, lead, room, (0.01 * data_range) ** 2, (0.03 * data_range) ** 2,
        *x.stride(), *y.stride(), BOTH=both, **shape,
    )  # fmt: skip
    if maps is not None:
        programs, tiles, pieces, lead, room, slots, shape = tiles_of(height, width, window - 1 - pad, pad)
        run(
            ssim_gradient_kernel, programs, x, x, y, taps, maps, gradient_x, gradient_y, slots, planes * tiles, tiles,
            pieces, *sizes, lead, room, *x.stride(), *y.stride(), **shape,
        )  # fmt: skip
    return partial.view(count, -1).sum(1) / (channels * out_h * out_w)
