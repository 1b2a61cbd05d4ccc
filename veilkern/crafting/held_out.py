"""Held-out photos: how well persons are found by photos that their veils were not crafted on."""

from __future__ import annotations

from collections.abc import Sequence

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
from veilkern.veils.bank import VeilBank


def report_held_out(
    model: FaceModel,
    subjects: Subjects,
    held_out: People,
    bank: VeilBank,
    report: list[dict],
    config: CraftConfig,
    key: bytes,
    width: int,
) -> None:
    """Adds to each person's record in `report`: the mean cosine of the protected held-out photos, and their rank-1
    rate, of an Ensemble also by each network alone. The templates are the person's clean features, one by one, the
    distractors the first one of each other."""
    kept = held_out.take([i for i, p in enumerate(held_out.rows.tolist()) if held_out.names[p] in bank.names])
    if not len(kept.images):
        return
    device = model.device  # where the other ops of a craft run
    veils, rows = bank.veils.to(device), bank.rows(kept.names)[kept.rows].to(device)
    hidden = _hidden(kept.images.to(device), veils, rows, bank.names, config, key)
    features = fixed_features(model, hidden, width).cpu()
    clean = clean_features(model, subjects, width)
    records = {record["name"]: record for record in report}
    for name, found in _figures(features, clean, kept, subjects).items():
        records[name]["held_out"] = found
    by_network = model.by_network(clean)
    for network, part in model.by_network(features).items():
        for name, found in _figures(part, by_network[network], kept, subjects).items():
            del found["photos"]
            records[name]["held_out"].setdefault("networks", {})[network] = found


def _figures(features: torch.Tensor, clean: torch.Tensor, kept: People, subjects: Subjects) -> dict[str, dict]:
    """By person: how many protected photos there were, and how they were found by these features."""
    parts = dict(zip(subjects.names, clean.split(subjects.counts.tolist()), strict=True))
    others = torch.stack([part[0] for part in parts.values()])
    found = {}
    for p, name in enumerate(kept.names):
        own = features[kept.offsets[p] : kept.offsets[p + 1]]
        rank = ranks_against(own, parts[name], others[[n != name for n in parts]])
        centre = torch.nn.functional.normalize(parts[name].mean(0), dim=0)
        found[name] = {
            "photos": len(own),
            "cosine": round(float((own @ centre).mean()), 6),
            "rank1": round(float((rank == 1).double().mean()), 6),
        }
    return found


def _hidden(images, veils, rows, names: Sequence[str], config: CraftConfig, key: bytes) -> torch.Tensor:
    """The photos protected. Sealed ones under keys for noise, not for sealing: they are only looked at."""
    if config.scheme == "blend":
        return ops.blend(images, veils, rows, config.blend)
    keys = keys_of([(key, name, 0) for name in names], "noise").to(images.device)
    nonces = nonces_of(0, torch.arange(len(images), device=images.device), HELD_OUT)
    return ops.seal(images, veils, rows, keys, nonces, levels=config.levels, rounds=config.rounds)
