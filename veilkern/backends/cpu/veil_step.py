"""veil_step_ by the C++ kernels: its launcher."""

from __future__ import annotations

import torch

from veilkern.backends import thread_count
from veilkern.backends.cpu._tensors import address, kernel_of


def _per_person(value: float | torch.Tensor, people: int) -> torch.Tensor:
    """A number, or float64 [P], as float64 [P]."""
    return value if isinstance(value, torch.Tensor) else torch.full((people,), value, dtype=torch.float64)


def veil_step_(
    veils, momentum, gradients, images, offsets, gradient_offsets, a, lam, mu, step, decay, active, mean_images,
    visual, block, stride, form,
):  # fmt: skip
    """Launcher of `veil_step_`: changes veils and momentum, returns the statistics."""
    own_veils, own_momentum = veils.contiguous(), momentum.contiguous()
    lam, mu, step, decay = (_per_person(value, len(veils)) for value in (lam, mu, step, decay))
    slopes, photos, marks, slope_marks = (t.contiguous() for t in (gradients, images, offsets, gradient_offsets))
    moving, means = (None if t is None else t.contiguous() for t in (active, mean_images))
    statistics = veils.new_empty((len(veils), 3))
    kernel_of("veil_step", veils)(
        own_veils.data_ptr(), own_momentum.data_ptr(), slopes.data_ptr(), photos.data_ptr(), address(means),
        marks.data_ptr(), slope_marks.data_ptr(), (len(photos), len(slopes)), lam.data_ptr(), mu.data_ptr(),
        step.data_ptr(), decay.data_ptr(), address(moving), statistics.data_ptr(), tuple(veils.shape), a,
        visual == "norm", block, stride, form == "literal", thread_count(),
    )  # fmt: skip
    for given, used in ((veils, own_veils), (momentum, own_momentum)):
        if used is not given:
            given.copy_(used)
    return statistics
