"""1:N identification (MSR): does a protected photo still find its person among others?"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from veilkern.people import People


def ranks_against(probes: torch.Tensor, templates: torch.Tensor, distractors: torch.Tensor) -> torch.Tensor:
    """Rank [n, m] of template j for probe i in a gallery of that template and all distractors; 1 is found first.

    probes [n, d], templates [m, d], distractors [k, d]: L2-normalised features. Ties count against the probe, and so
    does a score that is not a number.
    """
    own = probes @ templates.T
    others = (probes @ distractors.T).sort(1).values
    below = torch.searchsorted(others, own.contiguous())  # distractors with a lower score
    rank = 1 + others.shape[1] - below
    return torch.where(own.isfinite(), rank, others.shape[1] + 1)


@dataclass(frozen=True)
class Identification:
    """Rank counts of one person's photos. pairs: ordered pairs (probe i, template j) that were tried."""

    rank1: float
    rank5: float
    rank10: float
    own_rank1: float
    cosine: float
    pairs: int


def identify(hidden: torch.Tensor, clean: torch.Tensor, people: People, gallery: torch.Tensor) -> list[Identification]:
    """MSR of each person: probe = protected photo i; gallery = the person's clean photo j != i, one clean photo of each
    other person (their photo number j, or what that wraps to) and all of `gallery` [G, d].

    hidden, clean [N, d]: features of the protected and the clean photos of `people`. `own_rank1` is variant B: the
    template is the photo's own clean self. `cosine` is to the person's mean clean feature. A person with one photo has
    no pairs: rank1, rank5 and rank10 are NaN.
    """
    starts, counts = people.offsets[:-1], people.counts
    found = []
    for p in range(len(people)):
        part = slice(int(starts[p]), int(starts[p] + counts[p]))
        others = torch.arange(len(people)) != p
        ranks, own = [], []
        for j in range(int(counts[p])):
            rivals = clean[(starts + j % counts)[others]]
            rank = ranks_against(hidden[part], clean[part][j : j + 1], torch.cat([rivals, gallery]))[:, 0]
            own.append(rank[j])
            ranks.append(torch.cat([rank[:j], rank[j + 1 :]]))
        ranked = torch.cat(ranks).double()
        centre = torch.nn.functional.normalize(clean[part].mean(0), dim=0)
        rates = {f"rank{k}": (ranked <= k).double().mean().item() for k in (1, 5, 10)}
        own_rank1 = (torch.stack(own) == 1).double().mean().item()
        cosine = (hidden[part] @ centre).mean().item()
        found.append(Identification(**rates, own_rank1=own_rank1, cosine=cosine, pairs=len(ranked)))
    return found
