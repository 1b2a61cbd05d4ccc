"""Another person's photo under the veil: whom does the network take it for?"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F

from veilkern.experiments.figures import by_person, counts_of, figure
from veilkern.experiments.lab import Lab, VeilSet
from veilkern.experiments.veils import OURS, PAPER, SEALED
from veilkern.networks.matching import score_blocks, scores

TITLE = "Another person's photo under the veil: whom it is taken for"
METHODS = (PAPER, OURS, "ours, strong", SEALED)


def rows(lab: Lab) -> list[dict[str, Any]]:
    """A row a method, surrogate and set: shares of photos taken for the veil's owner, for whom they show, for neither.

    A photo of the next person under each one's veil, against one template a person (the mean clean feature of the
    crafting photos) and the gallery. With fewer than two persons there is nobody else: no rows."""
    found = []
    for head, veiled in lab.each(({"method": method}, method, {}) for method in METHODS):
        for set_ in lab.sets if len(veiled.bank) > 1 else ():
            inputs = {"veils": veiled.inputs, "set": set_}
            shares = lab.cell("another person", inputs, functools.partial(_shares, lab, veiled, set_))
            counts = counts_of(lab, veiled, set_)
            row = {**head, "photos": set_}
            found.append(row | {name: figure(values, counts, share=True) for name, values in shares.items()})
    return found


def _shares(lab: Lab, veiled: VeilSet, set_: str) -> dict[str, list[float]]:
    """By whose photo it is (who wears the veil of the person before): owner, shown, neither."""
    people, bank, label = lab.part(veiled, set_), veiled.bank, veiled.surrogate
    order = torch.tensor([bank.names.index(name) for name in people.names])
    wearer = order[people.rows]
    owner = (wearer - 1) % len(bank)
    seen = lab.features(label, lab.protected(veiled, people, owner.contiguous()), check=False)
    templates = _templates(lab, veiled)
    others = scores(seen, templates)
    place = torch.arange(len(seen))
    own, shown = others[place, owner], others[place, wearer]
    others[place, owner] = others[place, wearer] = -2
    best = others.amax(1)
    for part, _, found in score_blocks(seen, lab.distractors(label)):
        best[part] = torch.maximum(best[part], found.amax(1))
    as_owner = (own > shown) & (own > best)
    as_shown = (shown >= own) & (shown > best)
    kinds = {"owner": as_owner, "shown": as_shown, "neither": ~(as_owner | as_shown)}
    return {name: by_person(kind, people) for name, kind in kinds.items()}


def _templates(lab: Lab, veiled: VeilSet) -> torch.Tensor:
    """The mean clean feature of the crafting photos of each person of the bank, [P, d]."""
    people = lab.crafting
    clean = lab.clean(veiled.surrogate, next(iter(lab.sets)))
    means = torch.stack([part.mean(0) for part in clean.split(people.counts.tolist())])
    return F.normalize(means[[people.names.index(name) for name in veiled.bank.names]])
