"""seal by the Triton kernels: its launcher."""

from __future__ import annotations

import torch
import triton

from veilkern.backends.launch_tables import launch_of
from veilkern.backends.triton._launch import KIND, compiled, run
from veilkern.kernels.seal import seal_kernel


def as_words(data: torch.Tensor) -> torch.Tensor:
    """Bytes uint8 [n, 4 k] as words int32 [n k]: a view, or a copy of those that lie apart or at an odd address."""
    dense = data.contiguous().view(-1)
    odd = dense.storage_offset() % 4 or dense.data_ptr() % 4
    return (dense.clone() if odd else dense).view(torch.int32)


def pieces(*photos: torch.Tensor) -> str:
    """What lies in one piece in all of these batches, in the keystream's order of values: photo, planes or rows."""
    height, width = photos[0].shape[2:]
    if all(t.stride()[1:] == (height * width, width, 1) for t in photos):
        return "photo"
    return "planes" if all(t.stride(2) == width * t.stride(3) for t in photos) else "rows"


def by_block(kernel, launch, source, veils, rows, keys, nonces, out, levels, rounds):
    """Some blocks of a photo's keystream a program: seal and unseal."""
    block = max(launch["block"], 64)
    count, channels, height, width = source.shape
    plane, lie = height * width, pieces(source, veils, out)
    # A channel's first block may begin up to 63 values before it.
    parts, size = (1, channels * plane) if lie == "photo" else (channels, plane + 63)
    chunks = triton.cdiv(size, block)
    run(
        kernel, count * parts * chunks, out, source, veils, rows.contiguous(), as_words(keys), nonces, out, len(veils),
        channels * plane, plane, width, chunks, levels.bit_length() - 1, rounds, *source.stride(), *veils.stride(),
        *out.stride(), PIECES=lie, BLOCK=block, **compiled(launch),
    )  # fmt: skip


def seal(images, veils, rows, keys, nonces, levels, rounds, lossless, out):
    """Launcher of `seal`: writes `out`."""
    launch = launch_of("seal", KIND[out.dtype], out.device)
    by_block(seal_kernel, launch, images, veils, rows, keys, as_words(nonces), out, levels, rounds)
