"""Fig. 6: MSR over alpha."""

from __future__ import annotations

from veilkern.experiments.figures import counts_of, rate_figures, recognised
from veilkern.experiments.lab import Lab
from veilkern.experiments.table3 import kinds
from veilkern.experiments.veils import OURS, PAPER

TITLE = "Fig. 6: matching success rate (MSR) over alpha"


def rows(lab: Lab) -> list[dict]:
    """A row a method, alpha, surrogate, target and set; sealed photos, which have no alpha, at the end."""
    found = []
    for head, veiled in lab.each(kinds(PAPER, OURS)):
        for target in lab.networks:
            white = lab.network_of(target) == lab.network_of(veiled.surrogate)
            for set_ in lab.sets:
                row = {**head, "target": target, "white_box": white, "photos": set_}
                seen = recognised(lab, veiled, target, set_)
                found.append(row | rate_figures(seen, counts_of(lab, veiled, set_)))
    return found
