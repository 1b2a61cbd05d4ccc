"""blend, recover, seal and unseal by addresses, for callers that have seen to everything else themselves
(veils/direct.py): making and taking apart tensors for the launchers takes longer than a photo does."""

from __future__ import annotations

import torch

from veilkern.backends.cpu._tensors import _cpu

# By op, dtype of what is read and dtype of what is written.
KERNELS = {
    ("blend", torch.uint8, torch.uint8): _cpu.blend_u8,
    ("blend", torch.uint8, torch.uint16): _cpu.blend_u16,
    ("recover", torch.uint8, torch.uint8): _cpu.recover_u8,
    ("recover", torch.uint16, torch.uint8): _cpu.recover_u16,
    ("seal", torch.uint8, torch.uint8): _cpu.seal_u8,
    ("seal", torch.uint8, torch.uint16): _cpu.seal_u16,
    ("unseal", torch.uint8, torch.uint8): _cpu.unseal_u8,
    ("unseal", torch.uint16, torch.uint8): _cpu.unseal_u16,
}


def run_by_address(kernel, source, veils, rows, own, target, sizes, channels_last, how, threads) -> None:
    """One of KERNELS over photos that lie one after another. source, target, rows (int64): addresses; veils: address,
    how many, four strides in values; sizes: N, 3, H, W. own: none, or of sealed photos keys, and nonces where they are
    given, as address, how many and how long; how: a, or levels and rounds. ValueError, and nothing written, for a row
    without a veil."""
    step = sizes[1] * sizes[2] * sizes[3]
    kernel((source, step), veils, rows, *own, (target, step), sizes, channels_last, *how, threads)
