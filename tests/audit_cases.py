"""What the tests of the audit share: sealed banks of veils that nobody crafted, nonces that come back, small people."""

from __future__ import annotations

import torch
from torch import nn

import veilkern as vk
from veilkern.auditing import encryption
from veilkern.auditing.case import Case
from veilkern.veils import keyed, task

KEY = b"thirty-two bytes of a master key"


def people_of(counts, side=16, seed=0) -> vk.People:
    """Random smooth pictures: one base a person, and a little of its own each."""
    g = torch.Generator().manual_seed(seed)

    def plane(*shape):
        low = torch.rand(*shape, 3, 5, 5, generator=g).flatten(0, -4)
        up = nn.functional.interpolate(low, size=(side, side), mode="bilinear", align_corners=True)
        return 255 * up.view(*shape, 3, side, side)

    images = [(0.4 * plane(1) + 0.6 * plane(n)).round().to(torch.uint8) for n in counts]
    return vk.People.from_images(images)


def sealed_bank(people, levels=64, rounds=20, seed=0, key=KEY) -> vk.VeilBank:
    """Random veils: they need no craft to be taken off."""
    g = torch.Generator().manual_seed(seed)
    shape = (len(people), *people.images.shape[1:])
    veils = torch.randint(0, 257 - levels, shape, generator=g, dtype=torch.int64).to(torch.uint8)
    return vk.VeilBank(veils, people.names, 0, key_id=keyed.key_id(key), levels=levels, rounds=rounds)


def blend_bank(people, blend=51, seed=0) -> vk.VeilBank:
    """Random veils to blend with."""
    g = torch.Generator().manual_seed(seed)
    shape = (len(people), *people.images.shape[1:])
    return vk.VeilBank(torch.randint(0, 256, shape, generator=g, dtype=torch.uint8), people.names, blend)


def case_of(bank, people, **more) -> Case:
    return Case.of(people, bank, KEY if bank.scheme == "sealed" else None, **more)


def small_model(side=16, features=8, seed=3, name="small") -> vk.FaceModel:
    torch.manual_seed(seed)
    return vk.FaceModel(nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, features)), size=side, name=name)


def same_nonces(monkeypatch, seed=0) -> None:
    """Nonces that are the same in each run, so that no figure of a test is another one tomorrow."""
    g = torch.Generator().manual_seed(seed)

    def drawn(count: int, device: torch.device) -> torch.Tensor:
        return torch.randint(0, 256, (count, 12), generator=g, dtype=torch.int64).to(torch.uint8).to(device)

    for module in (task, encryption):
        monkeypatch.setattr(module, "fresh_nonces", drawn)
