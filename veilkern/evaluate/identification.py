"""1:N identification (MSR): does a protected photo still find its person among others?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from veilkern.data.people import People
from veilkern.networks.matching import ranks_against

_NEVER = 2**31 - 1  # the rank of a probe whose feature is not a number


@dataclass(frozen=True)
class Identification:
    """Rank counts of one person's photos. pairs: ordered pairs (probe i, template j) that were tried. by_photo: of each
    photo, the share of its pairs found first."""

    rank1: float
    rank5: float
    rank10: float
    own_rank1: float
    cosine: float
    pairs: int
    by_photo: list[float] = field(default_factory=list)


def identify(hidden: torch.Tensor, clean: torch.Tensor, people: People, gallery: torch.Tensor) -> list[Identification]:
    """MSR of each person: probe = protected photo i; gallery = the person's clean photo j != i, one clean photo of each
    other person (their photo number j, or what that wraps to) and all of `gallery` [G, d].

    hidden, clean [N, d]: features of the protected and the clean photos of `people`; a hidden feature that is not a
    number is never found. `own_rank1` is variant B: the template is the photo's own clean self. `cosine` is to the
    person's mean clean feature. A person with one photo has no pairs: rank1, rank5 and rank10 are NaN; where there is
    nobody to be confused with, own_rank1 is too.
    """
    starts, counts = people.offsets[:-1], people.counts
    found = []
    for p in range(len(people)):
        part = slice(int(starts[p]), int(starts[p] + counts[p]))
        others = torch.arange(len(people)) != p
        ranks = ranks_against(hidden[part], clean[part], gallery)
        for j in range(int(counts[p])):  # the gallery's part is the same for all j, the rivals' is not
            rivals = clean[(starts + j % counts)[others]]
            ranks[:, j] += ranks_against(hidden[part], clean[part][j : j + 1], rivals)[:, 0] - 1
        ranks[~hidden[part].isfinite().all(1)] = _NEVER
        cosine = hidden[part] @ torch.nn.functional.normalize(clean[part].mean(0), dim=0)
        found.append(_identification(ranks, cosine.nanmean().item(), alone=len(gallery) + len(people) < 2))
    return found


def _identification(ranks: torch.Tensor, cosine: float, *, alone: bool) -> Identification:
    """From ranks [n, n] of one person: probe i, template j. alone: there was nobody to be confused with."""
    pair = ~torch.eye(len(ranks), dtype=torch.bool)
    rates = {f"rank{k}": math.nan if alone else (ranks[pair] <= k).double().mean().item() for k in (1, 5, 10)}
    own = math.nan if alone else (ranks.diagonal() == 1).double().mean().item()
    by_photo = ((ranks == 1) & pair).sum(1).double() / (math.nan if alone else len(ranks) - 1)
    return Identification(**rates, own_rank1=own, cosine=cosine, pairs=int(pair.sum()), by_photo=by_photo.tolist())
