"""A toy run of veilkern paper: three synthetic people, the embedded network and a relative of it."""

from __future__ import annotations

import copy

import torch

import veilkern as vk
from veilkern.samples import load_model, synthetic_people

STEPS, IMAGE_SPECIFIC = 2, 2


def relative(seed: int = 1, share: float = 0.05) -> vk.FaceModel:
    """The embedded network with its weights moved a little: another network that still knows the people."""
    module = copy.deepcopy(load_model().module)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            if weight.numel() > 1:
                weight += share * weight.std() * torch.randn(weight.shape, generator=generator)
    return vk.FaceModel(module, mean=(0.5,) * 3, std=(0.5,) * 3, name="relative")


def people(count: int = 3, photos: int = 4) -> vk.People:
    return synthetic_people(count, photos, seed=31)


def gallery(count: int = 5) -> torch.Tensor:
    return synthetic_people(count, 1, seed=32).images


def run(out, *, who: vk.People | None = None, **options) -> dict:
    """vk.paper on the toy."""
    given = {"gallery": gallery(), "steps": STEPS, "image_specific": IMAGE_SPECIFIC, "threads": 1, **options}
    return vk.paper(
        people() if who is None else who, {"sample": load_model()}, {"relative": relative()}, out=out, **given
    )


def without_times(value):
    """A paper.json without what no two runs have alike: seconds."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if "second" not in k}
    if isinstance(value, list):
        return [without_times(v) for v in value]
    return value
