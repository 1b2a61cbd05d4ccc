"""Table 1: what is left to see in protected photos, V-UAP against ours, by surrogate."""

from __future__ import annotations

from typing import Any

from veilkern.experiments.figures import compared, counts_of, look_figures, looks, rate_figures, recognised
from veilkern.experiments.lab import Lab
from veilkern.experiments.veils import OURS, PAPER, SEALED

TITLE = "Table 1: how much of the original shows in protected photos, by method and surrogate"
METHODS = ("v-uap", PAPER, OURS, SEALED)


def rows(lab: Lab) -> list[dict[str, Any]]:
    """A row a method, surrogate and set of photos; the differences are those to V-UAP."""
    found = []
    for head, veiled in lab.each(({"method": method}, method, {}) for method in METHODS):
        baseline = lab.veiled(veiled.surrogate, METHODS[0])
        for set_ in lab.sets:
            counts = counts_of(lab, veiled, set_)
            row = {**head, "photos": set_} | look_figures(looks(lab, veiled, set_), counts)
            row |= {"rank1": rate_figures(recognised(lab, veiled, veiled.surrogate, set_), counts)["rank1"]}
            found.append(row | compared(lab, veiled, baseline, set_))
    return found
