"""veil_step_ by the CUDA kernel: its launcher."""

from __future__ import annotations

import torch

from veilkern.backends.cuda._launch import (
    MODULE,
    address,
    capability_of,
    kernel_of,
    memory_of,
    processors_of,
    strided,
    where,
)

CLUSTER = 8  # blocks a person where blocks can reach each other's shared memory: the most that every such GPU takes


def _cluster(device: torch.device) -> int:
    return CLUSTER if capability_of(device) >= (9, 0) else 1


def limit(veils, *others) -> str | None:
    """Why a call is not served: a block takes a person, and people are too few for the device."""
    people, _, height, width = veils.shape
    if _cluster(veils.device) == 1 and people < (processors := processors_of(veils.device)):
        return f"{people} people leave some of {processors} processors idle: without clusters one takes a person"
    return "photos of 2^27 pixels and more" if height * width >= 2**27 else None  # 9 arrays in 32 bits


def veil_step_(
    veils, momentum, gradients, images, offsets, gradient_offsets, a, lam, mu, step, decay, active, mean_images,
    visual, block, stride, form,
):  # fmt: skip
    """Launcher of `veil_step_`: changes veils and momentum, returns the statistics. One launch."""
    people, _, height, width = veils.shape
    cluster = _cluster(veils.device)
    squares, statistics = veils.new_empty((len(images), cluster)), veils.new_empty((people, 3))
    arrays = None
    if kernel_of("veil_step_memory", veils)(height, width, cluster, True) > memory_of(veils.device):
        arrays = veils.new_empty((people, cluster, 3, MODULE.veil_step_array(height, width, cluster)))
    marks, slope_marks = offsets.contiguous(), gradient_offsets.contiguous()
    moving = None if active is None else active.contiguous()
    rates = [(address(r), 0.0) if isinstance(r, torch.Tensor) else (0, r) for r in (lam, mu, step, decay)]
    kernel_of("veil_step", veils)(
        where(veils), strided(veils), strided(momentum), strided(gradients), strided(images), strided(mean_images),
        (address(marks), address(slope_marks)), address(moving), rates, (people, len(images), len(gradients)),
        (height, width), a, (*block, stride), visual == "norm", form == "literal", (address(squares), address(arrays)),
        address(statistics), cluster,
    )  # fmt: skip
    return statistics


def examples():
    """Calls that a device is tried on."""

    def values(count: int) -> torch.Tensor:
        return (torch.arange(count * 3 * 9 * 8, dtype=torch.float32) * 0.618).frac().view(count, 3, 9, 8)

    offsets = torch.tensor([0, 2, 3])
    for visual, block in (("norm", (3, 3)), ("mse", (2, 4))):
        yield (
            values(2), torch.zeros(2, 3, 9, 8), values(3) - 0.55, (values(3) * 255).byte(), offsets, offsets, 51, 0.04,
            0.01, 0.1, 0.9, None, None, visual, block, 1, "consistent",
        )  # fmt: skip
