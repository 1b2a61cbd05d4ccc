"""Held-out photos: how well persons are found by photos that their veils were not crafted on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from veilkern import ops
from veilkern.crafting.config import CraftConfig
from veilkern.crafting.features import clean_features, fixed_features
from veilkern.crafting.noise import keys_of, nonces_of
from veilkern.crafting.schemes import HELD_OUT
from veilkern.crafting.templates import Subjects
from veilkern.data.people import People
from veilkern.networks.face_model import FaceModel
from veilkern.networks.matching import ranks_against


class HeldOut:
    """Looks at persons part by part and reports on all at the end. Of a photo its features are kept, no more.

    key: the master key; width: photos in the network at a time.
    """

    def __init__(self, model: FaceModel, config: CraftConfig, key: bytes, width: int):
        self.model, self.config, self.key, self.width = model, config, key, width
        self.clean: dict[str, torch.Tensor] = {}  # of everybody
        self.hidden: dict[str, torch.Tensor] = {}  # of whoever has a veil and photos held out

    def see(self, subjects: Subjects, held_out: People, veils: Mapping[str, torch.Tensor]) -> None:
        """Some persons, their photos that were held out, and the veils, uint8 [3, H, W], of whoever has one."""
        clean = clean_features(self.model, subjects, self.width)
        self.clean |= zip(subjects.names, clean.split(subjects.counts.tolist()), strict=True)
        kept = held_out.take([i for i, p in enumerate(held_out.rows.tolist()) if held_out.names[p] in veils])
        if not len(kept.images):
            return
        device = self.model.device  # where the other ops of a craft run
        stacked = torch.stack([veils[name] for name in kept.names]).to(device)
        features = fixed_features(self.model, self._protected(kept, stacked), self.width).cpu()
        self.hidden |= zip(kept.names, features.split(kept.counts.tolist()), strict=True)

    def _protected(self, kept: People, veils: torch.Tensor) -> torch.Tensor:
        """The photos protected. Sealed ones under keys for noise, not for sealing: they are only looked at."""
        images, rows, config = kept.images.to(veils.device), kept.rows.to(veils.device), self.config
        if config.scheme == "blend":
            return ops.blend(images, veils, rows, config.blend)
        keys = keys_of([(self.key, name, 0) for name in kept.names], "noise").to(veils.device)
        # Of each person's photos by themselves: each has a key of her own.
        place = torch.arange(len(images)) - kept.offsets[kept.rows]
        nonces = nonces_of(0, place.to(veils.device), HELD_OUT)
        return ops.seal(images, veils, rows, keys, nonces, levels=config.levels, rounds=config.rounds)

    def report(self, records: Mapping[str, dict[str, Any]]) -> None:
        """Adds to the record of each person: the mean cosine of the protected held-out photos, and their rank-1 rate,
        of an Ensemble also by each network alone. The templates are the person's clean features, one by one, the
        distractors the first one of each other."""
        for name, found in _figures(self.hidden, self.clean).items():
            records[name]["held_out"] = found
        clean, hidden = self._by_network(self.clean), self._by_network(self.hidden)
        for network, parts in hidden.items():
            for name, found in _figures(parts, clean[network]).items():
                del found["photos"]
                records[name]["held_out"].setdefault("networks", {})[network] = found

    def _by_network(self, parts: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
        """By network of an Ensemble, then by person: its share of features by person."""
        found: dict[str, dict[str, torch.Tensor]] = {}
        for name, features in parts.items():
            for network, share in self.model.by_network(features).items():
                found.setdefault(network, {})[name] = share
        return found


def _figures(hidden: dict[str, torch.Tensor], clean: dict[str, torch.Tensor]) -> dict[str, dict[str, Any]]:
    """By person: how many protected photos there were, and how they were found by these features."""
    others = torch.stack([part[0] for part in clean.values()]) if clean else torch.empty(0)
    found = {}
    for name, own in hidden.items():
        rank = ranks_against(own, clean[name], others[[n != name for n in clean]])
        centre = torch.nn.functional.normalize(clean[name].mean(0), dim=0)
        found[name] = {
            "photos": len(own),
            "cosine": round(float((own @ centre).mean()), 6),
            "rank1": round(float((rank == 1).double().mean()), 6),
        }
    return found
