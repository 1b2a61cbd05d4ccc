"""unseal: x = (256/M) (((x' - v) mod M) xor (k mod M)) + 128/M, the nonce being read from the photo."""

from __future__ import annotations

import torch

from veilkern.reference.seal import CARRIERS, carriers, stream_of


def unseal(
    sealed: torch.Tensor,
    veils: torch.Tensor,
    rows: torch.Tensor,
    keys: torch.Tensor,
    *,
    levels: int = 64,
    rounds: int = 20,
) -> torch.Tensor:
    """Originals, uint8 [N, 3, H, W]: exact from uint16; from uint8 the middle of what the known bits leave open, at
    most 128 / levels away (256 / levels at the first 96 values). Arguments as of `seal`."""
    bits = levels.bit_length() - 1
    values = sealed.to(torch.int32).to(torch.int64)
    shown, low = (values >> 8, values & 255) if sealed.dtype == torch.uint16 else (values, None)
    high = (shown - veils[rows].to(torch.int64)) & (levels - 1)
    k = stream_of(sealed, keys[rows], _nonces(high), rounds)
    less = carriers(sealed).to(torch.int64)
    known = ((high >> less) ^ ((k & (levels - 1)) >> less)) << (8 - bits + less)
    if low is None:
        return (known + (1 << (7 - bits + less))).to(torch.uint8)
    rest = ((k >> bits) << less) | (less & k)
    return (known | ((low >> (bits - less)) ^ rest)).to(torch.uint8)


def _nonces(high: torch.Tensor) -> torch.Tensor:
    """The nonces that photos carry: uint8 [N, 12]."""
    bits = high.flatten(1)[:, :CARRIERS].reshape(len(high), 12, 8) & 1
    return (bits << torch.arange(8, device=high.device)).sum(2).to(torch.uint8)
