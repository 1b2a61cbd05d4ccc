"""1:N identification (MSR) and 1:1 verification (TAR at FAR): does a protected photo still find its person?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from veilkern.data.people import People
from veilkern.networks.matching import BLOCK, Features, HighScores, accepted, reaching, score_blocks

TAR = {"tar_1e3": 1e-3, "tar_1e4": 1e-4}  # fields of Identification: false accept rates
_NEVER = 2**31 - 1  # the rank of a probe whose feature is not a number
_AT_ONCE = 2**22  # scores of probes with the people's own photos, in memory together


@dataclass(frozen=True)
class Identification:
    """Rank counts of one person's photos. pairs: ordered pairs (probe i, template j) that were tried. by_photo: of each
    photo, the share of its pairs found first. tar_1e3, tar_1e4: the share of the same pairs that verification accepts
    at a false accept rate of 1e-3 and 1e-4 among `impostors` pairs, all people's together; NaN where these are too few.
    """

    rank1: float
    rank5: float
    rank10: float
    own_rank1: float
    cosine: float
    pairs: int
    by_photo: list[float] = field(default_factory=list)
    tar_1e3: float = math.nan
    tar_1e4: float = math.nan
    impostors: int = 0


def identify(
    hidden: torch.Tensor, clean: torch.Tensor, people: People, gallery: Features, *, block: int = BLOCK
) -> list[Identification]:
    """MSR of each person: probe = protected photo i; gallery = the person's clean photo j != i, one clean photo of each
    other person (their photo number j, or what that wraps to) and all of `gallery` [G, d].

    hidden, clean [N, d]: features of the protected and the clean photos of `people`; a hidden feature that is not a
    number is never found. gallery: features, which may be a memory-mapped array or a `Gallery` of any length: each
    template is read once, `block` at a time, for all persons together. `own_rank1` is variant B: the template is the
    photo's own clean self. `cosine` is to the person's mean clean feature. TAR: the genuine pairs are MSR's, the
    impostor pairs all of a protected photo with another person's clean photo or a template of the gallery. A person
    with one photo has no pairs: rank1, rank5, rank10 and TAR are NaN; where there is nobody to be confused with,
    own_rank1 is too.
    """
    widths = people.counts[people.rows]
    highest = HighScores(int((len(clean) - widths).sum()) + len(hidden) * len(gallery), tuple(TAR.values()))
    own, ranks = _among_people(hidden, clean, people, highest)
    for part, _, found in score_blocks(hidden, gallery, block=block):
        width = int(widths[part].max())
        ranks[part, :width] += reaching(found, own[part, :width])
        highest.add(found)
    ranks[~hidden.isfinite().all(1)] = _NEVER
    thresholds = {name: highest.threshold(far) for name, far in TAR.items()}
    alone = len(gallery) + len(people) < 2
    own, ranks = own.cpu(), ranks.cpu()
    all_of_it = (hidden, clean, people, ranks, own, thresholds, highest.count, alone)
    return [_of_person(p, *all_of_it) for p in range(len(people))]


def _among_people(
    hidden: torch.Tensor, clean: torch.Tensor, people: People, highest: HighScores
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores float64 and ranks int64 [N, most photos of a person] of probe i with its person's photo j among the other
    persons' photos; NaN and 1 where the person has no photo j. Impostor scores go to `highest`."""
    starts, counts, rows_of = (t.to(hidden.device) for t in (people.offsets[:-1], people.counts, people.rows))
    widest = int(counts.max())
    own = torch.full((len(hidden), widest), math.nan, dtype=torch.float64, device=hidden.device)
    ranks = torch.ones_like(own, dtype=torch.int64)
    numbers = torch.arange(widest, device=hidden.device)
    rows = max(1, _AT_ONCE // max(1, len(clean)))
    for part, _, found in score_blocks(hidden, clean, block=max(1, len(clean)), rows=rows):
        persons = rows_of[part]
        has = numbers < counts[persons, None]
        places = torch.where(has, starts[persons, None] + numbers, 0)
        scores = found.gather(1, places)
        own[part] = torch.where(has & scores.isfinite(), scores, math.nan)
        for j in range(widest):
            probes = has[:, j].nonzero().flatten()
            rivals = found[probes[:, None], starts + j % counts]  # one photo a person, her own photo j among them
            ranks[part.start + probes, j] += reaching(rivals, own[part][probes, j : j + 1])[:, 0] - 1
        highest.add(found.masked_fill_(rows_of == persons[:, None], math.nan))
    return own, ranks


def _of_person(
    p: int,
    hidden: torch.Tensor,
    clean: torch.Tensor,
    people: People,
    ranks: torch.Tensor,
    own: torch.Tensor,
    thresholds: Any,
    impostors: Any,
    alone: bool,
) -> Identification:
    """alone: there was nobody to be confused with."""
    part = slice(int(people.offsets[p]), int(people.offsets[p + 1]))
    count = int(people.counts[p])
    ranks, own = ranks[part, :count], own[part, :count]
    pair = ~torch.eye(count, dtype=torch.bool)
    rates = {f"rank{k}": math.nan if alone else (ranks[pair] <= k).double().mean().item() for k in (1, 5, 10)}
    own_rank1 = math.nan if alone else (ranks.diagonal() == 1).double().mean().item()
    by_photo = ((ranks == 1) & pair).sum(1).double() / (math.nan if alone else count - 1)
    cosine = (hidden[part] @ torch.nn.functional.normalize(clean[part].mean(0), dim=0)).nanmean().item()
    tar = {name: accepted(own[pair], threshold) for name, threshold in thresholds.items()}
    return Identification(
        **rates,
        own_rank1=own_rank1,
        cosine=cosine,
        pairs=int(pair.sum()),
        by_photo=by_photo.tolist(),
        **tar,
        impostors=impostors,
    )
