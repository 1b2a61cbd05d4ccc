"""Features against templates: the rank at which a probe finds its own."""

from __future__ import annotations

import torch


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
