"""seal_normalize: sealed photos under float veils, straight to what a network's first layer reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from veilkern.reference.seal import sealed_parts


def seal_normalize(
    images: torch.Tensor,
    veils: torch.Tensor,
    rows: torch.Tensor,
    keys: torch.Tensor,
    nonces: torch.Tensor,
    *,
    levels: int = 64,
    rounds: int = 20,
    mean: Sequence[float],
    std: Sequence[float],
    bgr: bool = False,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """((w (256 - levels) + u) / 255 - mean) / std, channels_last [N, 3, H, W]: w veils float in [0, 1], u what `seal`
    adds to a veil. mean and std are per channel in the order the network sees; bgr: that is blue, green, red."""
    high, _ = sealed_parts(images, rows, keys, nonces, levels, rounds)
    mixed = (veils[rows] * (256 - levels) + high.to(veils.dtype)) / 255
    if bgr:
        mixed = mixed.flip(1)
    mixed = torch.stack([(mixed[:, c] - m) / s for c, (m, s) in enumerate(zip(mean, std, strict=True))], 1)
    return mixed.to(dtype).contiguous(memory_format=torch.channels_last)
