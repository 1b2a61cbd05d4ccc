"""Small networks, persons and fits for the tests of the methods."""

from __future__ import annotations

import pytest
import torch
from craft_cases import linear_model, people_of

import veilkern as vk
from veilkern.crafting.run import master_key
from veilkern.methods import METHODS, Fitted, fit
from veilkern.veils import keyed

SIDE = 12
EVERY = pytest.mark.parametrize("method", METHODS)
SCOPES = {"veil": "person", "sealed": "person", "v-uap": "person", "uap": "everybody", "ric": "photo", "avih": "photo"}
SCOPES |= {"opom": "person"}
RECOVERED = {"veil": 2, "sealed": 4, "v-uap": 2, "uap": 2, "ric": 2}  # levels, at most


def small_model() -> vk.FaceModel:
    return linear_model(side=SIDE, features=8)


def small_fit(method: str, crafting=None, steps=3, seed=0, model=None, **options) -> Fitted:
    crafting = people_of([3, 1, 2], side=SIDE) if crafting is None else crafting
    return fit(model or small_model(), crafting, method, steps=steps, seed=seed, progress=False, **options)


def start_of(name: str, purpose: str) -> torch.Tensor:
    """The keyed noise of seed 0."""
    key = master_key(None, vk.CraftConfig(seed=0))
    return keyed.uniform(keyed.stream(key, name, purpose), (3, SIDE, SIDE))


def unseen_of(crafting: vk.People, seed=9) -> vk.People:
    """One other photo of each person."""
    return vk.People.from_images([i[None] for i in people_of([1] * len(crafting), SIDE, seed).images], crafting.names)
