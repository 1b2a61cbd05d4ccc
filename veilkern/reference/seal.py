"""seal: x' = v + ((x div (256/M)) xor (k mod M)), k being a person's keystream under the photo's nonce."""

from __future__ import annotations

import torch

from veilkern.reference.keystream import keystream

CARRIERS = 96  # values of a photo, the first of it, that carry a bit of its nonce each


def seal(
    images: torch.Tensor,
    veils: torch.Tensor,
    rows: torch.Tensor,
    keys: torch.Tensor,
    nonces: torch.Tensor,
    *,
    levels: int = 64,
    rounds: int = 20,
    lossless: bool = False,
) -> torch.Tensor:
    """uint8 x', or with lossless uint16 with x' in its high byte and what x' drops of x, sealed too, in its low byte.

    images uint8 [N, 3, H, W], veils uint8 [P, 3, H, W] and keys uint8 [P, 32] by rows int64 [N], nonces uint8 [N, 12].
    """
    high, low = sealed_parts(images, rows, keys, nonces, levels, rounds)
    mixed = (veils[rows].to(torch.int64) + high) & 255
    return (mixed << 8 | low).to(torch.int32).to(torch.uint16) if lossless else mixed.to(torch.uint8)


def sealed_parts(images, rows, keys, nonces, levels: int, rounds: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What is added to the veil (0 .. levels - 1), and the low byte of the lossless form: int64 [N, 3, H, W] each."""
    bits = levels.bit_length() - 1
    x, k = images.to(torch.int64), stream_of(images, keys[rows], nonces, rounds)
    # A carrier keeps a bit less of x in the high part, and that bit of the keystream goes with x's to the low part.
    less = carriers(images).to(torch.int64)
    high = ((x >> (8 - bits + less)) ^ ((k & (levels - 1)) >> less)) << less
    high = high | (less & nonce_bits(images, nonces))
    rest = ((k >> bits) << less) | (less & k)
    low = ((x & ((1 << (8 - bits + less)) - 1)) ^ rest) << (bits - less)
    return high, low


def stream_of(photos: torch.Tensor, keys: torch.Tensor, nonces: torch.Tensor, rounds: int) -> torch.Tensor:
    """Keystream bytes, int64 [N, 3, H, W]: the value at (c, h, w) has byte (c H + h) W + w."""
    stream = keystream(keys, nonces, photos.shape[1:].numel(), rounds=rounds)
    return stream.to(torch.int64).reshape(photos.shape)


def carriers(photos: torch.Tensor) -> torch.Tensor:
    """Which values carry a bit of the nonce: bool [3, H, W]."""
    shape = photos.shape[1:]
    return (torch.arange(shape.numel(), device=photos.device) < CARRIERS).reshape(shape)


def nonce_bits(photos: torch.Tensor, nonces: torch.Tensor) -> torch.Tensor:
    """Bit i of each nonce (bit i mod 8, lowest first, of byte i div 8) at value i of its photo, 0 beyond: int64."""
    bits = (nonces.to(torch.int64)[:, :, None] >> torch.arange(8, device=nonces.device)) & 1
    size = photos.shape[1:].numel()
    spread = torch.nn.functional.pad(bits.reshape(len(nonces), CARRIERS), (0, size - CARRIERS))
    return spread.reshape(photos.shape)
