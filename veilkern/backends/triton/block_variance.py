"""block_variance by the Triton kernels: its launcher."""

from __future__ import annotations

from veilkern.backends.launch_tables import launch_of
from veilkern.backends.triton._launch import KIND, boxes, compiled, run, tiled
from veilkern.kernels.block_variance import block_variance_kernel


def block_variance(images, block, stride, form, scale, gradient, wanted):
    """Launcher of `block_variance`: returns the loss and, where `gradient` is a tensor, writes that (wanted or
    not: the loss comes with it)."""
    launch = launch_of("block_variance", KIND[images.dtype], images.device)
    count, channels, height, width = images.shape
    loss = images.new_empty((count, channels))
    run(
        block_variance_kernel, count * channels, images, images, gradient,
        None if scale is None else scale.contiguous(), loss, channels, height, width, *boxes(images, block, stride),
        *images.stride(), *(images if gradient is None else gradient).stride(), LITERAL=form == "literal",
        WALK=block == (3, 3) and stride == 1, **tiled(launch["tile"], width), **compiled(launch),
    )  # fmt: skip
    return loss.sum(1)
