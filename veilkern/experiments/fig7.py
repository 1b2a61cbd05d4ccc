"""Fig. 7: MSR of protected photos after what stores and networks do to them."""

from __future__ import annotations

from veilkern.experiments.changes import LEVELS
from veilkern.experiments.figures import count, rate_figures, recognised
from veilkern.experiments.lab import Lab
from veilkern.experiments.veils import OURS, PAPER, SEALED

TITLE = "Fig. 7: matching success rate (MSR) after noise, filters, JPEG, resizing and shifts"
METHODS = (PAPER, OURS, "ours, strong", SEALED, "sealed, strong")


def rows(lab: Lab) -> list[dict]:
    """A row a method, surrogate (which is the target too), change, level and set of photos."""
    found = []
    for method in METHODS:
        for surrogate in lab.surrogates:
            veiled = lab.veiled(surrogate, method)
            for kind, (unit, levels) in LEVELS.items():
                for level in levels:
                    for set_ in lab.sets:
                        row = {"method": method, "surrogate": surrogate, "change": kind, "level": level, "unit": unit}
                        seen = recognised(lab, veiled, surrogate, set_, kind, level)
                        found.append(row | {"photos": set_} | rate_figures(seen, count(lab, veiled, set_)))
    return found
