"""veil_step_ in plain PyTorch."""

from __future__ import annotations

from veilkern import reference


def veil_step_(
    veils, momentum, gradients, images, offsets, gradient_offsets, a, lam, mu, step, decay, active, mean_images,
    visual, block, stride, form,
):  # fmt: skip
    """Launcher of `veil_step_`: changes veils and momentum, returns the statistics."""
    return reference.veil_step_(
        veils, momentum, gradients, images, offsets, gradient_offsets=gradient_offsets, a=a, lam=lam, mu=mu,
        step=step, decay=decay, active=active, mean_images=mean_images, visual=visual, block=block, stride=stride,
        form=form,
    )  # fmt: skip
