"""block_variance by the CUDA kernel: its launcher."""

from __future__ import annotations

import torch

from veilkern.backends.cuda._launch import address, kernel_of, memory_of, stream_of, strided


def limit(images, block, stride, form, scale, gradient, wanted) -> str | None:
    """Why a call is not served: a plane lies in shared memory, whole."""
    height, width = images.shape[2:]
    if height * width >= 2**31:
        return "planes of 2^31 pixels and more do not fit into shared memory"
    plain = block == (3, 3) and stride == 1
    needed, there = kernel_of("block_variance_memory", images)(height, width, plain), memory_of(images.device)
    if 2 * needed + 2048 > there:  # one alone waits for memory and computes by turns
        return (
            f"planes of {height} x {width} take {needed} bytes of shared memory of {there}: two are to fit a processor"
        )
    return None


def block_variance(images, block, stride, form, scale, gradient, wanted):
    """Launcher of `block_variance`: returns the loss and, where `gradient` is a tensor, writes that (wanted or not: the
    loss comes with it)."""
    loss = images.new_empty(images.shape[:2])
    factor = None if scale is None else scale.contiguous()
    kernel_of("block_variance", images)(
        stream_of(images), strided(images), strided(gradient), address(factor), loss.data_ptr(), tuple(images.shape),
        (*block, stride), form == "literal",
    )  # fmt: skip
    return loss.sum(1)


def examples():
    """Calls that a device is tried on."""
    images = (torch.arange(2 * 3 * 6 * 12, dtype=torch.float32, device="cpu") * 0.37).frac().view(2, 3, 6, 12)
    for block, stride in (((3, 3), 1), ((2, 4), 2)):
        for given in (images, images.double()):
            yield given, block, stride, "literal", None, torch.empty_like(given), True
