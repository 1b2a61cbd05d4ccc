"""blend_normalize: photos and float veils straight to what a network's first layer reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from veilkern.reference.blend import blend_float


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
    """((alpha x / 255 + (1 - alpha) v) - mean) / std, channels_last [N, 3, H, W]; images uint8, veils float in [0, 1].

    mean and std are per channel in the order the network sees; bgr: that order is blue, green, red.
    """
    mixed = blend_float(images.to(veils.dtype) / 255, veils, rows, a / 255)
    if bgr:
        mixed = mixed.flip(1)
    mixed = torch.stack([(mixed[:, c] - m) / s for c, (m, s) in enumerate(zip(mean, std, strict=True))], 1)
    return mixed.to(dtype).contiguous(memory_format=torch.channels_last)
