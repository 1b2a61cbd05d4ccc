"""Does a network in training tell people apart whom it never saw? Rank-1, accuracy on pairs as in LFW's protocol, and
the true-accept rate at a false-accept rate of 1 in 1000."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from veilkern.data.people import Problem
from veilkern.errors import PhotoError
from veilkern.networks import matching
from veilkern.training.data import Photos, Reading

PHOTOS = 10  # of an identity, at most: the first ones
FOLDS, PAIRS = 10, 3000  # LFW's: pairs of one person, and as many of two
FALSE_ACCEPTS = 1e-3
BATCH = 256
_BLOCK = 1024  # photos whose scores with all others are in memory at a time


@dataclass(frozen=True)
class Verification:
    """Figures of held-out identities; None where there are too few to say.

    rank1: share of the photos (all but each identity's first, which is its template) whose nearest template is their
    own. accuracy: of telling balanced pairs of one person and of two apart, mean over ten folds of identities, each at
    the threshold that is best on the other nine. tar: share of the pairs of one person whose cosine is above what a
    thousandth of the pairs of two persons reach. same_pairs, different_pairs: how many tar is of.
    """

    rank1: float
    accuracy: float | None
    tar: float | None
    identities: int
    photos: int
    same_pairs: int
    different_pairs: int

    def __str__(self) -> str:
        rates = {"rank-1": self.rank1, "accuracy": self.accuracy, "TAR at FAR 1e-3": self.tar}
        return ", ".join(f"{name} {'–' if rate is None else f'{rate:.4f}'}" for name, rate in rates.items())

    def as_dict(self) -> dict[str, Any]:
        """By the names of the fields."""
        return asdict(self)


@dataclass(frozen=True, repr=False)
class HeldOut:
    """Photos to verify on: images uint8 [N, 3, H, W], rows int64 [N] ascending, two of each identity at least."""

    images: torch.Tensor
    rows: torch.Tensor

    def __len__(self) -> int:
        return int(self.rows[-1]) + 1 if len(self.rows) else 0


def read_held_out(photos: Photos, how: Reading, problems: list[Problem]) -> HeldOut:
    """The first PHOTOS photos of each identity that can be used; identities with fewer than two of them go. What cannot
    be used is added to `problems`. PhotoError where fewer than two identities are left."""
    images, rows = list[torch.Tensor](), list[int]()
    for label in range(len(photos.identities)):
        own: list[torch.Tensor] = []
        for number in photos.photos[photos.labels == label].tolist():
            if len(own) == PHOTOS:
                break
            try:
                own.append(photos.source.read(number, how))
            except PhotoError as error:
                where = photos.source.where(number)
                problems.append(Problem(where, str(error).removeprefix(f"{where}: ")))
        if len(own) >= 2:
            rows += [rows[-1] + 1 if rows else 0] * len(own)
            images += own
    if len(set(rows)) < 2:
        listed = "".join(f"\n  {problem}" for problem in problems[:10])
        raise PhotoError(f"verification needs two identities with two photos each, got {len(set(rows))}{listed}")
    return HeldOut(torch.stack(images), torch.tensor(rows))


@torch.no_grad()
def embed(net: nn.Module, images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, bgr: bool) -> torch.Tensor:
    """L2-normalised features [N, d] on the CPU of uint8 photos, by a network in eval mode, which is left as it was.

    mean, std: float [3, 1, 1] of values in [0, 1], on the network's device."""
    was = net.training
    net.eval()
    try:
        parts = []
        for part in images.split(BATCH):
            x = part.to(mean.device).float() / 255
            x = ((x.flip(1) if bgr else x) - mean) / std
            parts.append(F.normalize(net(x.to(memory_format=torch.channels_last)).flatten(1).float()).cpu())
    finally:
        net.train(was)
    return torch.cat(parts)


def verify(features: torch.Tensor, rows: torch.Tensor) -> Verification:
    """Figures of L2-normalised features [N, d] of identities rows [N], ascending from 0; a feature that is not a number
    is never recognised."""
    first = torch.cat([torch.ones(1, dtype=torch.bool), rows[1:] != rows[:-1]])
    scores = features[~first] @ features[first].T
    own = scores.gather(1, rows[~first, None])
    rivals = ((scores >= own) | ~own.isfinite()).sum(1)  # itself too, and ties count against it
    same, different = _scores(features, rows)
    tar = matching.verify(same, different, fars=(FALSE_ACCEPTS,)).tar[FALSE_ACCEPTS]
    return Verification(
        rank1=(rivals == 1).double().mean().item(),
        accuracy=_accuracy(features, rows),
        tar=None if math.isnan(tar) else tar,
        identities=int(first.sum()),
        photos=len(rows),
        same_pairs=len(same),
        different_pairs=len(different),
    )


def _scores(features: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines of all pairs of photos of one person, and of two, float32; what is not a number counts as -1."""
    same, different = [], []
    for start in range(0, len(rows), _BLOCK):
        part = slice(start, start + _BLOCK)
        scores = (features[part] @ features.T).nan_to_num(-1.0)
        later = torch.arange(len(rows)) > torch.arange(len(rows))[part, None]
        alike = rows[part, None] == rows
        same.append(scores[alike & later])
        different.append(scores[~alike & later])
    return torch.cat(same), torch.cat(different)


def _accuracy(features: torch.Tensor, rows: torch.Tensor) -> float | None:
    """Mean accuracy over folds of identities; None with fewer than four identities."""
    count = int(rows[-1]) + 1
    folds = min(FOLDS, count // 2)
    if folds < 2:
        return None
    parts = [_pairs(rows, np.arange(fold, count, folds), PAIRS // folds, fold) for fold in range(folds)]
    cosines = [(features[a] * features[b]).sum(1).nan_to_num(-1.0).numpy() for a, b, _ in parts]
    answers = [alike for _, _, alike in parts]
    found = []
    for fold in range(folds):
        others = [i for i in range(folds) if i != fold]
        threshold = _best_threshold(
            np.concatenate([cosines[i] for i in others]), np.concatenate([answers[i] for i in others])
        )
        found.append(((cosines[fold] >= threshold) == answers[fold]).mean())
    return float(np.mean(found))


def _pairs(
    rows: torch.Tensor, identities: np.ndarray, wanted: int, fold: int
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray[Any, Any]]:
    """Photos a, b, int64 [2 n], and whether they are of one person, for n pairs of each kind: `wanted`, or as many as
    there are pairs of one person. Drawn by Philox: each verification of a training is on the same pairs."""
    own = [np.flatnonzero(rows.numpy() == i) for i in identities]
    all_same = np.concatenate([np.stack(np.triu_indices(len(p), 1), 1) + p[0] for p in own])
    random = np.random.Generator(np.random.Philox(key=[fold, 3]))
    count = min(wanted, len(all_same))
    same = all_same[random.permutation(len(all_same))[:count]]
    one = random.integers(len(own), size=count)
    two = (one + random.integers(1, len(own), size=count)) % len(own)
    different = np.array([[random.choice(own[i]), random.choice(own[j])] for i, j in zip(one, two, strict=True)])
    a, b = np.concatenate([same, different]).T
    return torch.from_numpy(a), torch.from_numpy(b), np.arange(2 * count) < count


def _best_threshold(cosines: np.ndarray, alike: np.ndarray) -> float:
    """From which cosine on a pair should count as one person, to be right most often: halfway between two scores."""
    order = cosines.argsort(kind="stable")
    values, right = cosines[order], alike[order]
    # With the threshold before place i: right are those of two persons before it, those of one from it on.
    score = np.concatenate([[0], (~right).cumsum()]) + right.sum() - np.concatenate([[0], right.cumsum()])
    edges = np.concatenate([[True], values[1:] != values[:-1], [True]])
    best = int(np.where(edges, score, -1).argmax())
    if best in (0, len(values)):
        return float(values[0] if best == 0 else np.nextafter(values[-1], np.inf))
    return float((values[best - 1] + values[best]) / 2)
