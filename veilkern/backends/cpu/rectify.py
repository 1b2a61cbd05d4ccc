"""rectify_ by the C++ kernels: its launcher."""

from __future__ import annotations

import torch

from veilkern.backends import thread_count
from veilkern.backends.cpu._tensors import address, kernel_of


def rectify_(x, bits, add, slope, top, back):
    """Launcher of `rectify_`: changes x and writes `bits`; of its gradient (`back`) changes x by them."""
    if x.dtype in (torch.float16, torch.bfloat16):  # computed in float32, and rounded once
        wide = x.float()
        rectify_(wide, bits, add, slope, top, back)
        x.copy_(wide)
        return
    count, channels = x.shape[:2]
    pixels = x.shape[2:].numel()
    is_map = add is not None and add.ndim == 3
    # The order of a photo's values in memory: channels last.
    own_add = add.permute(1, 2, 0).contiguous() if is_map else None if add is None else add.contiguous()
    own_slope = None if slope is None else slope.expand(channels).contiguous()
    own_bits = bits.contiguous()  # those that are written are
    kernel_of("rectify", x)(
        x.data_ptr(), own_bits.data_ptr(), (count, pixels, channels), address(own_add), is_map, address(own_slope),
        float("inf") if top is None else top, back, thread_count(),
    )  # fmt: skip
