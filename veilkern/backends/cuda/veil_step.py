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
    stream_of,
    strided,
)

FEW_BYTES = 8e6  # of gradients and photos
CLUSTER = 8  # blocks a person where blocks can reach each other's shared memory: the most that every such GPU takes


def _cluster(device: torch.device) -> int:
    return CLUSTER if capability_of(device) >= (9, 0) else 1


def limit(veils, momentum, gradients, images, *others) -> str | None:
    """Why a call is not served: people are too few for the device, or it has too little shared memory."""
    people, _, height, width = veils.shape
    processors, cluster = processors_of(veils.device), _cluster(veils.device)
    if cluster == 1 and people < 3 * processors:
        return f"{people} people leave some of {processors} processors idle: without clusters one takes a person"
    # The few processors that few people have take longer for this much than three launches on all of them do.
    if cluster * people < processors and gradients.nbytes + images.nbytes > FEW_BYTES:
        return f"{people} people leave most of {processors} processors idle, and have many photos"
    if capability_of(veils.device) >= (12, 0):
        needed = kernel_of("veil_step_memory", veils)(height, width, cluster, True)
        if 2 * needed + 2048 > memory_of(veils.device):
            return (
                f"photos of {height} x {width} take {needed} bytes of shared memory a block: two are to fit a processor"
            )
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
        stream_of(veils), strided(veils), strided(momentum), strided(gradients), strided(images), strided(mean_images),
        (address(marks), address(slope_marks)), address(moving), rates, (people, len(images), len(gradients)),
        (height, width), a, (*block, stride), visual == "norm", form == "literal", (address(squares), address(arrays)),
        address(statistics), cluster,
    )  # fmt: skip
    return statistics


def examples():
    """Calls that a device is tried on."""

    def values(count: int) -> torch.Tensor:
        return (torch.arange(count * 3 * 9 * 8, dtype=torch.float32, device="cpu") * 0.618).frac().view(count, 3, 9, 8)

    offsets = torch.tensor([0, 2, 3], device="cpu")
    for visual, block, layout, dtype in (
        ("norm", (3, 3), torch.contiguous_format, torch.float32),
        ("mse", (2, 4), torch.channels_last, torch.float32),
        ("norm", (3, 3), torch.contiguous_format, torch.float64),
    ):
        veils, gradients = values(2).to(dtype), (values(3) - 0.55).to(dtype, memory_format=layout)
        yield (
            veils, torch.zeros_like(veils), gradients, (values(3) * 255).byte(), offsets, offsets, 51, 0.04, 0.01, 0.1,
            0.9, None, None, visual, block, 1, "consistent",
        )  # fmt: skip
