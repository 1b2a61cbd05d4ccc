"""block_variance by the C++ kernels: its launcher."""

from __future__ import annotations

from veilkern.backends import thread_count
from veilkern.backends.cpu._tensors import address, kernel_of, planes


def block_variance(images, block, stride, form, scale, gradient, wanted):
    """Launcher of `block_variance`: returns the loss, if wanted, and, where `gradient` is a tensor, writes that."""
    source, loss = planes(images), images.new_empty(len(images)) if wanted else None
    target = None if gradient is None else planes(gradient)
    factor = None if scale is None else scale.contiguous()
    kernel_of("block_variance", source)(
        source.data_ptr(), source.stride()[:3], address(target), (source if target is None else target).stride()[:3],
        address(factor), address(loss), tuple(source.shape), block, stride, form == "literal",
        thread_count(),
    )  # fmt: skip
    if target is not gradient:
        gradient.copy_(target)
    return loss
