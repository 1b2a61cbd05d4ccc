"""rectify_ by the Triton kernels: its launcher."""

from __future__ import annotations

import torch
import triton

from veilkern.backends.launch_tables import launch_of
from veilkern.backends.triton._launch import compiled, run
from veilkern.kernels.rectify import rectify_gradient_kernel, rectify_kernel

WIDE = 2**30  # channels from which a channel and a block of them may exceed 32 bits


def _table(values: torch.Tensor) -> torch.Tensor:
    """In one piece that begins at 16 bytes, as new memory does, so that a thread's numbers are read at once."""
    whole = values.contiguous()
    return whole.clone() if whole.data_ptr() % 16 else whole


def rectify_(x, bits, add, slope, top, back):
    """Launcher of `rectify_`: changes x and writes `bits`; of its gradient (`back`) changes x by them."""
    launch = launch_of("rectify_", "f64" if x.itemsize == 8 else "f32" if x.itemsize == 4 else "f16", x.device)
    count, channels = x.shape[:2]
    size = x[:1].numel()
    chunks = triton.cdiv(size, launch["block"])
    own_bits, own_slope = bits.contiguous(), None if slope is None else _table(slope.expand(channels))
    sizes = (size, channels, bits.shape[1], chunks)
    options = {"WIDE": channels >= WIDE, "BLOCK": launch["block"]} | compiled(launch)
    if back:
        run(rectify_gradient_kernel, count * chunks, x, x, own_bits, own_slope, *sizes, **options)
        return
    is_map = add is not None and add.ndim == 3
    # The order of a photo's values in memory: channels last.
    own_add = None if add is None else _table(add.permute(1, 2, 0) if is_map else add)
    run(
        rectify_kernel, count * chunks, x, x, bits, own_add, own_slope, *sizes, 0.0 if top is None else top,
        TOP=top is not None, MAP=is_map, **options,
    )  # fmt: skip
