"""Tensors for samples: the same numbers every time, values in any layout, photos of people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

LAYOUTS = ("dense", "channels_last", "crop", "every_other", "transposed", "reversed_order")
SIDE = 112  # of a face photo, for benchmarks


def generator(seed: int) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def bytes8(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random uint8, 0..255."""
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(seed))


def uniform(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Random numbers in [0, 1), the same in every dtype but for rounding."""
    return torch.rand(shape, dtype=torch.float64, generator=generator(seed)).to(dtype)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Normally distributed numbers, the same in every dtype but for rounding."""
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed)).to(dtype)


def offsets_of(counts: Sequence[int]) -> torch.Tensor:
    """Prefix sums int64 [P + 1] of how many each person has."""
    return torch.tensor([0, *counts], dtype=torch.int64).cumsum(0)


def laid_out(values: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values [N, C, H, W] in another place in memory: one of LAYOUTS."""
    n, c, h, w = values.shape
    if layout == "channels_last":
        return values.contiguous(memory_format=torch.channels_last)
    if layout == "crop":
        room = values.new_zeros((n, c, h + 3, w + 5))
        view = room[:, :, 2 : h + 2, 1 : w + 1]
    elif layout == "every_other":
        view = values.new_zeros((2 * n, c, h, w))[::2]
    elif layout == "transposed":
        view = values.new_zeros((n, c, w, h)).transpose(2, 3)
    elif layout == "reversed_order":
        view = values.new_zeros((c, n, h, w)).transpose(0, 1)
    else:
        return values.contiguous()
    return view.copy_(values)


def mixed_photos(
    n: int, people: int, h: int, w: int, *, seed: int = 0, name: str = "images", a: int = 51
) -> dict[str, Any]:
    """Photos and veils uint8, every photo of a random person: the arguments of blend (recover: name `protected`)."""
    return {
        name: bytes8(n, 3, h, w, seed=seed),
        "veils": bytes8(people, 3, h, w, seed=seed + 1),
        "rows": torch.randint(0, people, (n,), generator=generator(seed + 2)),
        "a": a,
    }


def sealable_photos(
    n: int, people: int, h: int, w: int, *, seed: int = 0, levels: int = 64, name: str = "images"
) -> dict[str, Any]:
    """Photos, sealed veils, keys and nonces uint8, every photo of a random person: the arguments of seal (unseal: name
    `sealed`, and no nonces)."""
    made = mixed_photos(n, people, h, w, seed=seed, name=name)
    del made["a"]
    made["veils"] = (made["veils"].int() * (256 - levels) // 255).to(torch.uint8)
    made["keys"] = bytes8(people, 32, seed=seed + 3)
    return made if name == "sealed" else made | {"nonces": bytes8(n, 12, seed=seed + 4)}


def on(device: torch.device | str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments with their tensors on a device."""
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
