"""seal_normalize by the Triton kernels: its launcher."""

from __future__ import annotations

import triton

from veilkern.backends.launch_tables import launch_of
from veilkern.backends.triton._launch import KIND, compiled, run
from veilkern.backends.triton.blend_normalize import planes_of
from veilkern.backends.triton.seal import as_words
from veilkern.kernels.seal_normalize import seal_normalize_kernel


def seal_normalize(images, veils, rows, keys, nonces, levels, rounds, mean, std, bgr, out):
    """Launcher of `seal_normalize`: writes `out`, which is channels_last."""
    launch = launch_of("seal_normalize", KIND[veils.dtype], out.device)
    block = max(launch["block"], 256)  # of four blocks a channel and one more, three channels' fit into sixteen
    count, _, height, width = images.shape
    chunks = triton.cdiv(height * width, block)
    strides, together = planes_of(images, veils, bgr)
    run(
        seal_normalize_kernel, count * chunks, out, images, veils, rows.contiguous(), as_words(keys), as_words(nonces),
        out, len(veils), height * width, width, chunks, levels.bit_length() - 1, rounds, 2 if bgr else 0, *strides,
        *(1 / 255 / s for s in std), *((256 - levels) / 255 / s for s in std),
        *(-m / s for m, s in zip(mean, std, strict=True)),
        WHOLE=together, ALIGNED=height * width % 4 == 0, BLOCK=block, **compiled(launch),
    )  # fmt: skip
