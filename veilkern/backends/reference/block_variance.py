"""block_variance in plain PyTorch."""

from __future__ import annotations

import torch

from veilkern import reference


def block_variance(images, block, stride, form, scale, gradient, wanted):
    """Launcher of `block_variance`: returns the loss and, where `gradient` is a tensor, writes that (wanted or
    not: the loss comes with it)."""
    options = {"block": block, "stride": stride, "form": form}
    if gradient is None:
        with torch.no_grad():
            return reference.block_variance(images, **options)
    loss, found = reference.block_variance_gradient(images, scale=scale, **options)
    gradient.copy_(found)
    return loss
