"""rectify: ReLU, ReLU6 or PReLU of x + add, with a bit a value of which side it was on, and the slope by those bits."""

from __future__ import annotations

import torch


def rectify_(
    x: torch.Tensor, add: torch.Tensor | None = None, slope: torch.Tensor | None = None, top: float | None = None
) -> torch.Tensor:
    """y = z where 0 < z < top, top above, slope z else; z = x + add. Written into x; returns the bits of 0 < z < top.

    x float [N, C, H, W] (in channels_last) or [N, C]; add [C] or [C, H, W], slope [1] or [C] (None: 0), top (None:
    none). bits uint8 [N, (C H W + 7) // 8]: bit j % 8 of byte j // 8 is that of a photo's value j in the order of
    channels_last. 16-bit x are computed in float32.
    """
    kind = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    z = x.to(kind)
    if add is not None:
        z = z + (add if add.ndim == 3 else _of_channels(add, x)).to(kind)
    low = torch.where(z < 0, 0.0, z + 0.0) if slope is None else z * _of_channels(slope, x).to(kind)
    y, inside = torch.where(z > 0, z, low), z > 0
    if top is not None:
        y, inside = torch.where(y > top, top, y), inside & (z < top)
    bits = _packed(inside)
    x.copy_(y)  # last: z may be x itself
    return bits


def rectify_gradient_(gradient: torch.Tensor, bits: torch.Tensor, slope: torch.Tensor | None = None) -> torch.Tensor:
    """gradient times 1 where a bit is set, else times slope (None: 0, whatever the gradient), in place."""
    inside = _unpacked(bits, gradient)
    kind = torch.float32 if gradient.dtype in (torch.float16, torch.bfloat16) else gradient.dtype
    g = gradient.to(kind)
    gradient.copy_(torch.where(inside, g, 0.0 if slope is None else g * _of_channels(slope, gradient).to(kind)))
    return gradient


def _of_channels(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return values.view(-1, 1, 1) if x.ndim == 4 else values


def _packed(inside: torch.Tensor) -> torch.Tensor:
    ordered = (inside.permute(0, 2, 3, 1) if inside.ndim == 4 else inside).flatten(1)
    size = ordered.shape[1]
    flat = torch.nn.functional.pad(ordered, (0, -size % 8))
    weights = torch.tensor([1 << j for j in range(8)], dtype=torch.uint8, device=inside.device)
    return (flat.view(len(flat), (size + 7) // 8, 8).to(torch.uint8) * weights).sum(2, dtype=torch.uint8)


def _unpacked(bits: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The bits as bool, shaped like `like`."""
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    size = like.shape[1:].numel()
    flat = ((bits[:, :, None] >> places) & 1).flatten(1)[:, :size].bool()
    if like.ndim == 2:
        return flat
    n, channels, height, width = like.shape
    return flat.view(n, height, width, channels).permute(0, 3, 1, 2)
