"""The reference as a backend: every op in plain PyTorch, on any device. Every backend has these signatures."""

from __future__ import annotations

import torch

from veilkern import reference

DEVICES: tuple[str, ...] = ()
DETAIL = "plain PyTorch"


def blend(images, veils, rows, a, lossless, out):
    """Launcher of `blend`: writes `out`."""
    out.copy_(reference.blend(images, veils, rows, a, lossless=lossless))


def blend_normalize(images, veils, rows, a, mean, std, bgr, out):
    """Launcher of `blend_normalize`: writes `out`."""
    out.copy_(reference.blend_normalize(images, veils, rows, a, mean=mean, std=std, bgr=bgr, dtype=out.dtype))


def recover(protected, veils, rows, a, gaussian_sigma, out):
    """Launcher of `recover`: writes `out`."""
    out.copy_(reference.recover(protected, veils, rows, a, gaussian_sigma=gaussian_sigma))


def block_variance(images, block, stride, form, scale, gradient):
    """Launcher of `block_variance`: returns the loss and, where `gradient` is a tensor, writes that."""
    options = {"block": block, "stride": stride, "form": form}
    if gradient is None:
        with torch.no_grad():
            return reference.block_variance(images, **options)
    loss, found = reference.block_variance_gradient(images, scale=scale, **options)
    gradient.copy_(found)
    return loss


def hull_distance(features, clean, offsets, clean_offsets, kind, weights, own, width):
    """Launcher of `hull_distance`: returns distance, weights [N, width] and gradient."""
    most = int(clean_offsets.diff().max())
    start = None if weights is None else weights[:, :most]
    distance, found, gradient = reference.hull_distance(
        features, clean, offsets, clean_offsets=clean_offsets, kind=kind, weights=start, own=own
    )
    return distance, torch.nn.functional.pad(found, (0, width - most)), gradient


def ssim(x, y, window, sigma, borders, data_range, scale, gradient_x, gradient_y):
    """Launcher of `ssim`: returns the score and, where gradients are tensors, writes those."""
    options = {"window": window, "sigma": sigma, "borders": borders, "data_range": data_range}
    if gradient_x is None:
        with torch.no_grad():
            return reference.ssim(x, y, **options)
    score, *found = reference.ssim_gradient(x, y, scale=scale, **options)
    gradient_x.copy_(found[0])
    gradient_y.copy_(found[1])
    return score


def veil_step_(
    veils, momentum, gradients, images, offsets, gradient_offsets, blend, lam, mu, step, decay, active, mean_images,
    visual, block, stride, form,
):  # fmt: skip
    """Launcher of `veil_step_`: changes veils and momentum, returns the statistics."""
    return reference.veil_step_(
        veils, momentum, gradients, images, offsets, gradient_offsets=gradient_offsets, blend=blend, lam=lam, mu=mu,
        step=step, decay=decay, active=active, mean_images=mean_images, visual=visual, block=block, stride=stride,
        form=form,
    )  # fmt: skip


OPS = {
    launch.__name__: launch
    for launch in (blend, blend_normalize, recover, block_variance, hull_distance, ssim, veil_step_)
}
