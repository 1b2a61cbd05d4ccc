"""Small persons and networks for the tests of craft."""

from __future__ import annotations

import torch
from torch import nn

import veilkern as vk
from veilkern.crafting.batch import IdentityBatch

KEY = b"sixteen bytes at least"


FAST = vk.CraftConfig(steps=4)


def people_of(counts, side=8, seed=0) -> vk.People:
    g = torch.Generator().manual_seed(seed)
    return vk.People.from_images(
        [torch.randint(0, 256, (n, 3, side, side), generator=g, dtype=torch.uint8) for n in counts]
    )


def linear_model(side=8, features=6) -> vk.FaceModel:
    torch.manual_seed(3)
    return vk.FaceModel(nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, features)), size=side)


def one_batch(model, people, config, generations=None) -> IdentityBatch:
    return IdentityBatch(model, people, config, KEY, generations or [0] * len(people), 4, 1)
