"""Table 1: what is left to see in protected photos, V-UAP against ours, by surrogate."""

from __future__ import annotations

from veilkern.experiments.figures import compared, count, look_figures, looks, rate_figures, recognised
from veilkern.experiments.lab import Lab
from veilkern.experiments.veils import OURS, PAPER, SEALED

TITLE = "Table 1: how much of the original shows in protected photos, by method and surrogate"
METHODS = ("v-uap", PAPER, OURS, SEALED)


def rows(lab: Lab) -> list[dict]:
    """A row a method, surrogate and set of photos; the differences are those to V-UAP."""
    found = []
    for method in METHODS:
        for surrogate in lab.surrogates:
            veiled = lab.veiled(surrogate, method)
            for set_ in lab.sets:
                photos = count(lab, veiled, set_)
                row: dict = {"method": method, "surrogate": surrogate, "photos": set_}
                rates = rate_figures(recognised(lab, veiled, surrogate, set_), photos)
                row |= look_figures(lab, looks(lab, veiled, set_), photos) | {"rank1": rates["rank1"]}
                found.append(row | compared(lab, veiled, lab.veiled(surrogate, METHODS[0]), set_))
    return found
