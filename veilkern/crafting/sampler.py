"""Which photos of each person a step looks at: drawn on the host some steps ahead, sent to the device in one copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from veilkern.veils import keyed


class ChangeSampler(Protocol):
    """What draws the changes of one person's photos."""

    def next(self, steps: int, count: int) -> torch.Tensor:
        """int64 [steps, count, k] of the next `steps` steps of `count` photos each."""


class PhotoSampler:
    """Photos of one person for each step, without replacement until all were used."""

    def __init__(self, generator: np.random.Philox, count: int, per_step: int):
        self.generator, self.count = generator, count
        self.per_step = min(per_step, count) if per_step else count
        self.queue: list[int] = []

    def next(self) -> torch.Tensor:
        """The photos of the next step, int64, in rising order."""
        if self.per_step == self.count:
            return torch.arange(self.count)
        drawn: list[int] = []
        while len(drawn) < self.per_step:
            if not self.queue:
                # A photo already drawn in this step goes to the end of the new order: no step has one twice.
                order = keyed.shuffled(self.generator, self.count).tolist()
                self.queue = [i for i in order if i not in drawn] + [i for i in order if i in drawn]
            drawn.append(self.queue.pop(0))
        return torch.tensor(sorted(drawn))


class TurnSampler:
    """Where no photo is looked at: `per_step` samples of one person for each step (0: as many as there are photos),
    each counted as one of the `count` photos in turn."""

    def __init__(self, count: int, per_step: int):
        self.per_step = per_step or count
        self.turns = (torch.arange(self.per_step) % count).sort().values

    def next(self) -> torch.Tensor:
        """The same in every step, int64, in rising order."""
        return self.turns


@dataclass(frozen=True)
class Plan:
    """The photos of the next S steps of some of P persons, n a step, as int64 tensors on the device.

    rows [S, M] among all photos and person [M]: person by person, filled up to whole pieces of `width` photos by the
    last one (see `features.padded`). own [S, n]: rows, counted from the person's first photo. offsets [P + 1]: of each
    person's photos among the n; pieces [M / width, P + 1]: among those of each piece that are no filling. sample [M]:
    0, 1, .. among the person's photos of a step. changes [S, M, k]: what is done to each photo of each step before the
    network sees it (crafting/robust.py; k = 0: nothing). first: the number of the first of these steps.
    """

    first: int
    rows: torch.Tensor
    person: torch.Tensor
    own: torch.Tensor
    offsets: torch.Tensor
    pieces: torch.Tensor
    sample: torch.Tensor
    changes: torch.Tensor


def draw(
    samplers: Sequence[PhotoSampler | TurnSampler],
    running: Sequence[int],
    offsets: torch.Tensor,
    steps: int,
    width: int,
    device: torch.device,
    *,
    first: int = 0,
    changes: Sequence[ChangeSampler] | None = None,
) -> Plan:
    """The plan of the next `steps` steps, from step `first`, of the persons `running` (in rising order, at least one).

    samplers, changes: one a person; offsets int64 [P + 1] on the host: of each person's photos among all. The host
    draws, and does not wait for the device.
    """
    people = len(samplers)
    counts = torch.zeros(people, dtype=torch.int64)
    for p in running:
        counts[p] = samplers[p].per_step
    person = torch.repeat_interleave(torch.arange(people), counts)
    own = torch.stack([torch.cat([samplers[p].next() for p in running]) for _ in range(steps)])
    pieces = torch.stack([_marks(torch.bincount(piece, minlength=people)) for piece in person.split(width)])
    filled = torch.arange(len(pieces) * width).clamp_max(len(person) - 1)
    rows = (own + offsets[person])[:, filled]
    sample = torch.arange(len(person)) - _marks(counts)[person]
    made = torch.zeros((steps, len(person), 0), dtype=torch.int64)
    if changes is not None:
        made = torch.cat([changes[p].next(steps, samplers[p].per_step) for p in running], 1)
    sent = [rows, person[filled], own, _marks(counts), pieces, sample[filled], made[:, filled]]
    return Plan(first, *_sent(sent, device))


def _marks(counts: torch.Tensor) -> torch.Tensor:
    """Where each of some runs of `counts` begins, and the last ends."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _sent(tensors: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """The tensors on the device, in one copy that the host does not wait for."""
    whole = torch.cat([t.flatten() for t in tensors])
    if device.type == "cuda":
        whole = whole.pin_memory()  # from other memory the host would wait until the copy is made
    parts = whole.to(device, non_blocking=True).split([t.numel() for t in tensors])
    return [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]
