"""Features against templates, block by block: the rank at which a probe finds its own, and what verification accepts.

A score is the cosine of two L2-normalised features, each rounded to multiples of 2^-25. Products of such numbers, and
their sums while the norms stay below 2, are multiples of 2^-50 below 8, which float64 holds exactly: a score has the
same bits in whatever order it is added, on whatever processor and in whatever blocks, and equal templates tie. The
rounding moves a score by about 1e-8, less than float32's own arithmetic does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, TypeAlias

import numpy as np
import torch

BLOCK = 4096  # templates scored at a time
ROWS = 512  # probes scored at a time
FARS = (1e-3, 1e-4)  # false accept rates that verification is told at
_GRID = 2.0**25


class Templates(Protocol):
    """Features [G, d] that are read block by block, such as a memory-mapped NumPy array of float16 or float32."""

    @property
    def shape(self) -> Sequence[int]:
        """(G, d)."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> torch.Tensor | np.ndarray: ...


Features: TypeAlias = torch.Tensor | Templates


def score_blocks(
    probes: torch.Tensor, templates: Features, *, block: int = BLOCK, rows: int = ROWS
) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """The scores of all pairs in pieces: (which probes, which templates, float64 [p, b]), on the probes' device.

    probes [n, d], templates [G, d]: L2-normalised features. block: templates at a time, each of which is read once.
    rows: probes at a time. Memory: the probes, `block` templates and rows * block scores, in float64. Raises TypeError
    or ValueError for what are no features of one network.
    """
    _check("probes", probes)
    _check("templates", templates, width=int(probes.shape[1]))
    for name, value in (("block", block), ("rows", rows)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"score_blocks: {name} must be an int of 1 or more, got {value!r}")
    left = _on_grid(probes)
    for begin in range(0, len(templates), block):
        columns = slice(begin, min(begin + block, len(templates)))
        right = _on_grid(_read(templates, columns).to(probes.device)).T
        for start in range(0, len(left), rows):
            part = slice(start, min(start + rows, len(left)))
            yield part, columns, left[part] @ right


def ranks_against(
    probes: torch.Tensor, templates: torch.Tensor, distractors: Features, *, block: int = BLOCK
) -> torch.Tensor:
    """Rank, int64 [n, m], of template j for probe i in a gallery of that template and all distractors; 1: found first.

    probes [n, d], templates [m, d], distractors [k, d]: L2-normalised features; distractors may be a memory-mapped
    array, read `block` of them at a time (memory: see `score_blocks`). Ranks are the same whatever the block. Ties
    count against the probe, and so does a score that is not a number.
    """
    own = scores(probes, templates)
    ranks = torch.ones(own.shape, dtype=torch.int64, device=own.device)
    for part, _, found in score_blocks(probes, distractors, block=block):
        ranks[part] += reaching(found, own[part])
    return ranks


def scores(probes: torch.Tensor, templates: torch.Tensor) -> torch.Tensor:
    """Scores of all pairs at once, float64 [n, m]; one that is not finite is NaN."""
    found = torch.full((len(probes), len(templates)), math.nan, dtype=torch.float64, device=probes.device)
    for part, columns, piece in score_blocks(probes, templates):
        found[part, columns] = torch.where(piece.isfinite(), piece, math.nan)
    return found


def reaching(found: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """How many of the scores found [p, b] are not below own [p, m], int64 [p, m]; what is not a number is not below."""
    below = [(found < own[:, j : j + 1]).sum(1) for j in range(own.shape[1])]
    return found.shape[1] - torch.stack(below, 1) if below else own.new_zeros(own.shape, dtype=torch.int64)


class HighScores:
    """The largest impostor scores of a stream, as many as thresholds for these FARs need: memory for
    2 * (floor(FAR * total) + 1) scores and a block. total: how many scores come at most."""

    def __init__(self, total: int, fars: Sequence[float] = FARS):
        self.total, self.fars = total, tuple(fars)
        for far in self.fars:
            if not 0 < far < 1:
                raise ValueError(f"HighScores: fars must lie between 0 and 1, got {far}")
        self.count = 0  # scores seen that are numbers
        self._keep = max((_allowed(far, total) for far in self.fars), default=0) + 1
        self._parts: list[torch.Tensor] = []
        self._held = 0
        self._least = -math.inf  # what lies below it is not among the largest

    def add(self, found: torch.Tensor) -> None:
        """More impostor scores, of any shape; what is not a number is left out. ValueError past `total`."""
        number = int((~found.isnan()).sum())
        if self.count + number > self.total:
            raise ValueError(f"HighScores: total is {self.total}, but {self.count + number} scores came")
        self.count += number
        part = found[found >= self._least]  # false of NaN
        if len(part):
            self._parts.append(part.flatten().to(torch.float64))
            self._held += len(part)
        if self._held > 2 * self._keep:
            self._shrink()

    def threshold(self, far: float) -> float:
        """The largest impostor score that is not accepted: a pair is accepted whose score lies above it.

        Of n impostor scores, at most k = floor(far * n) may be accepted. What lies above the (k + 1)-th largest are k
        scores, or fewer where others tie with it; any lower threshold would accept more than k. NaN where k is 0: too
        few impostors to tell.
        """
        allowed = _allowed(far, self.count)
        if allowed < 1:
            return math.nan
        self._shrink()
        return self._parts[0][allowed].item()

    def _shrink(self) -> None:
        kept = torch.cat(self._parts)
        kept = kept.topk(min(self._keep, len(kept))).values  # largest first
        self._parts, self._held = [kept], len(kept)
        if len(kept) == self._keep:
            self._least = kept[-1].item()


def _allowed(far: float, total: int) -> int:
    """floor(far * total), of the far that was written: 1e-3 of 1000 is 1, however 1e-3 is rounded."""
    return math.floor(Fraction(repr(float(far))) * total)


@dataclass(frozen=True)
class Verification:
    """1:1 verification. tar: by FAR, the share of genuine pairs that are accepted; NaN where there are too few impostor
    pairs (FAR * impostors below 1) or no genuine one. thresholds: by FAR, see `HighScores.threshold`. genuine,
    impostors: pairs; impostor scores that are not numbers are not counted."""

    tar: dict[float, float]
    thresholds: dict[float, float]
    genuine: int
    impostors: int


def verify(
    genuine: torch.Tensor,
    impostors: torch.Tensor | Iterable[torch.Tensor],
    *,
    total: int | None = None,
    fars: Sequence[float] = FARS,
) -> Verification:
    """TAR at each FAR, exactly: as if all impostor scores were sorted, while only the largest are kept.

    genuine: scores of any shape; one that is not a number is not accepted. impostors: their scores, a tensor or
    tensors one by one. total: how many impostor scores there are at most; it bounds the memory, and may be left out
    where impostors is a tensor or a sequence. Raises TypeError for a stream of unknown length, ValueError for more
    scores than total.
    """
    if isinstance(impostors, torch.Tensor):
        impostors = [impostors]
    if total is None:
        if not isinstance(impostors, Sequence):
            raise TypeError(f"verify: total must be given where impostors is a stream, got {type(impostors).__name__}")
        total = sum(part.numel() for part in impostors)
    highest = HighScores(total, fars)
    for part in impostors:
        highest.add(part)
    thresholds = {far: highest.threshold(far) for far in highest.fars}
    tar = {far: accepted(genuine, threshold) for far, threshold in thresholds.items()}
    return Verification(tar, thresholds, genuine.numel(), highest.count)


def accepted(genuine: torch.Tensor, threshold: float) -> float:
    """The share of genuine scores above a threshold of `HighScores`; NaN without a threshold or a score."""
    if math.isnan(threshold) or not genuine.numel():
        return math.nan
    return (genuine > threshold).double().mean().item()


def _check(name: str, features: object, width: int | None = None) -> None:
    shape = tuple(getattr(features, "shape", ()))
    if len(shape) != 2 or width not in (None, shape[1]):
        wanted = "[n, d]" if width is None else f"[n, {width}], as wide as the probes"
        raise ValueError(f"matching: {name} must be features {wanted}, got {list(shape)}")
    if isinstance(features, torch.Tensor) and not features.is_floating_point():
        raise TypeError(f"matching: {name} must be float features, got {features.dtype}")


def _read(templates: Features, rows: slice) -> torch.Tensor:
    part = templates[rows]
    if isinstance(part, torch.Tensor):
        return part
    if not np.issubdtype(part.dtype, np.floating):
        raise TypeError(f"matching: templates must be float features, got {part.dtype}")
    return torch.from_numpy(np.array(part))  # a copy: a mapped file's pages cannot be written


def _on_grid(features: torch.Tensor) -> torch.Tensor:
    return (features.double() * _GRID).round_().div_(_GRID)
