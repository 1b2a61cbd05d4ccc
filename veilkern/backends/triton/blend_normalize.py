"""blend_normalize by the Triton kernels: its launcher."""

from __future__ import annotations

import triton

from veilkern.backends.launch_tables import launch_of
from veilkern.backends.triton._launch import KIND, compiled, run
from veilkern.kernels.blend_normalize import blend_normalize_kernel


def planes_of(images, veils, bgr) -> tuple[list[int], bool]:
    """The strides of both, the channels' offsets in the network's order, and whether each plane lies in one piece."""
    order = (2, 1, 0) if bgr else (0, 1, 2)
    strides = [
        (t.stride(0), *(channel * t.stride(1) for channel in order), t.stride(2), t.stride(3)) for t in (images, veils)
    ]
    return [*strides[0], *strides[1]], all(t.stride()[2:] == (images.shape[3], 1) for t in (images, veils))


def blend_normalize(images, veils, rows, a, mean, std, bgr, out):
    """Launcher of `blend_normalize`: writes `out`, which is channels_last."""
    launch = launch_of("blend_normalize", KIND[veils.dtype], out.device)
    count, _, height, width = images.shape
    chunks = triton.cdiv(height * width, launch["block"])
    strides, together = planes_of(images, veils, bgr)
    run(
        blend_normalize_kernel, count * chunks, out, images, veils, rows.contiguous(), out, len(veils),
        height * width, width, chunks, *strides, *(a / 255 / 255 / s for s in std),
        *((255 - a) / 255 / s for s in std),
        *(-m / s for m, s in zip(mean, std, strict=True)),
        WHOLE=together, BLOCK=launch["block"], **compiled(launch),
    )  # fmt: skip
