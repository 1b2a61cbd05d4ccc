"""seal by the Triton kernels: its launcher."""

from __future__ import annotations

import torch
import triton

from veilkern.backends.launch_tables import launch_of
from veilkern.backends.triton._launch import KIND, compiled, run
from veilkern.kernels.seal import seal_kernel


def as_words(data: torch.Tensor) -> torch.Tensor:
    """Bytes uint8 [n, 4 k] as words int32 [n, k]: a view, or a copy of those that lie apart or at odd addresses."""
    dense = data.contiguous()
    return (dense.clone() if dense.storage_offset() % 4 or dense.data_ptr() % 4 else dense).view(torch.int32)


def pieces(*photos: torch.Tensor) -> str:
    """What lies in one piece in each of these, in the keystream's order of values: photo, planes or rows."""
    height, width = photos[0].shape[2:]
    if all(t.stride()[1:] == (height * width, width, 1) for t in photos):
        return "photo"
    return "planes" if all(t.stride(2) == width * t.stride(3) for t in photos) else "rows"


def by_block(kernel, launch, source, veils, rows, keys, nonces, out, levels, rounds):
    """A keystream block or more a thread: seal and unseal."""
    block = max(launch["block"], 64)
    count, channels, height, width = source.shape
    size = channels * height * width
    lie = pieces(source, veils, out)
    chunks = triton.cdiv(size, block) if lie == "photo" else triton.cdiv(height * width + 63, block)
    run(
        kernel, count * chunks * (1 if lie == "photo" else 3), out, source, veils, rows.contiguous(), as_words(keys), nonces, out, len(veils), size,
        height * width, width, chunks, levels.bit_length() - 1, rounds, *source.stride(), *veils.stride(),
        *out.stride(), PIECES=lie, BLOCK=block, **compiled(launch),
    )  # fmt: skip


def seal(images, veils, rows, keys, nonces, levels, rounds, lossless, out):
    """Launcher of `seal`: writes `out`."""
    launch = launch_of("seal", KIND[out.dtype], out.device)
    by_block(seal_kernel, launch, images, veils, rows, keys, as_words(nonces), out, levels, rounds)
