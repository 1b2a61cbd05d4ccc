"""blend by the Triton kernels: its launcher."""

from __future__ import annotations

import triton

from veilkern.backends.launch_tables import launch_of
from veilkern.backends.triton._launch import KIND, compiled, run, whole
from veilkern.kernels.blend import blend_kernel


def by_value(kernel, op, source, veils, rows, out, *numbers):
    """Value by value: blend and recover."""
    launch = launch_of(op, KIND[out.dtype if op == "blend" else source.dtype], out.device)
    count, channels, height, width = source.shape
    size = channels * height * width
    chunks = triton.cdiv(size, launch["block"])
    run(
        kernel, count * chunks, out, source, veils, rows.contiguous(), out, len(veils), size, height * width, width,
        chunks, *numbers, *source.stride(), *veils.stride(), *out.stride(), WHOLE=whole(source, veils, out),
        BLOCK=launch["block"], **compiled(launch),
    )  # fmt: skip


def blend(images, veils, rows, a, lossless, out):
    """Launcher of `blend`: writes `out`."""
    by_value(blend_kernel, "blend", images, veils, rows, out, a)
