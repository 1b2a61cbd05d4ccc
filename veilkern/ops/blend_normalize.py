"""blend_normalize: protected photos as the network's input, in one go."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from veilkern.backends import select
from veilkern.ops._checks import check_blend, check_row_range, check_rows, check_same_photo, check_tensor


def blend_normalize(
    images: torch.Tensor,
    veils: torch.Tensor,
    rows: torch.Tensor,
    a: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    bgr: bool = False,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """((alpha x / 255 + (1 - alpha) v[rows]) - mean) / std as channels_last [N, 3, H, W] of `dtype`.

    images uint8 [N, 3, H, W], veils float32 or float64 [P, 3, H, W] in [0, 1], rows int64 [N], a integer 0..255; mean
    and std: three numbers in the order the network sees (bgr: blue first). dtype float32, float64, bfloat16, float16.
    Raises TypeError or ValueError naming the argument.
    """
    op = "blend_normalize"
    images = check_tensor(op, "images", images, [torch.uint8], "[N, 3, H, W]")
    veils = check_tensor(op, "veils", veils, [torch.float32, torch.float64], "[P, 3, H, W]")
    check_same_photo(op, "veils", veils, "images", images)
    rows = check_rows(op, rows, len(images), images)
    check_row_range(op, rows, len(veils))
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != 3:
            raise ValueError(f"{op}: {name} must be three numbers, one a channel, got {list(values)}")
    if min(abs(s) for s in std) == 0:
        raise ValueError(f"{op}: std must not be zero, got {list(std)}")
    if dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        raise TypeError(f"{op}: dtype must be float32, float64, bfloat16 or float16, got {dtype}")
    serve = select(op, images, veils, rows)
    return serve(images, veils, rows, check_blend(op, a, 0), mean=mean, std=std, bgr=bgr, dtype=dtype)
