"""What real_faces.py measures of veils for several networks: MSR by each network, of veils for one and for all."""

from __future__ import annotations

import statistics
import time

import torch
from reach import SETS, protected

import veilkern as vk
from veilkern.evaluate.identification import identify

RUNS = {"blend": {}, "sealed": {"scheme": "sealed"}}
LEAST = {"crafting": 0.99, "unseen": 0.97}  # MSR by each network of veils for all of them
HEAD = ["veils", "crafted for", "recognised by", *(f"MSR {set_}" for set_ in SETS)]


def measure(models: list[vk.FaceModel], people: vk.People, gallery: torch.Tensor, key: bytes):
    """Rows of the table, and the bars that were missed."""
    rows, missed = [], []
    crafting, unseen = people.split(10)
    for scheme, options in RUNS.items():
        for model in (*models, vk.Ensemble(models)):
            started = time.monotonic()
            result = vk.craft(model, crafting, vk.CraftConfig(**options), key=key)
            seconds = time.monotonic() - started
            steps = statistics.mean(record["steps"] for record in result.report)
            for network in models:
                msr = {
                    set_: _msr(network, part, result.bank, gallery, seed)
                    for seed, (set_, part) in enumerate(zip(SETS, (crafting, unseen), strict=True))
                }
                row = [
                    scheme,
                    model.name,
                    network.name,
                    *(f"{msr[set_]:.3f}" for set_ in SETS),
                    f"{steps:.0f}",
                    f"{seconds:.0f}",
                ]
                rows.append(f"| {' | '.join(row)} |")
                if isinstance(model, vk.Ensemble):
                    missed += [
                        f"{scheme}, for all: MSR on {set_} photos by {network.name} is {msr[set_]:.4f}, wanted {bar}"
                        for set_, bar in LEAST.items()
                        if not msr[set_] >= bar
                    ]
            print("\n".join(rows[-len(models) :]), flush=True)
    return rows, missed


def _msr(network: vk.FaceModel, part: vk.People, bank: vk.VeilBank, gallery: torch.Tensor, seed: int) -> float:
    hidden = network.features(protected(part, bank, seed))
    found = identify(hidden, network.features(part.images), part, network.features(gallery))
    return statistics.mean(i.rank1 for i in found)
