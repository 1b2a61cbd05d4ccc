"""Fig. 7: MSR of protected photos after what stores and networks do to them."""

from __future__ import annotations

from typing import Any

from veilkern.experiments.changes import LEVELS
from veilkern.experiments.figures import counts_of, rate_figures, recognised
from veilkern.experiments.lab import Lab
from veilkern.experiments.veils import OURS, PAPER, SEALED

TITLE = "Fig. 7: matching success rate (MSR) after noise, filters, JPEG, resizing and shifts"
METHODS = (PAPER, OURS, "ours, strong", SEALED, "sealed, strong")


def rows(lab: Lab) -> list[dict[str, Any]]:
    """A row a method, surrogate (which is the target too), change, level and set of photos."""
    found = []
    changes = [(kind, level, unit) for kind, (unit, levels) in LEVELS.items() for level in levels]
    for head, veiled in lab.each(({"method": method}, method, {}) for method in METHODS):
        for kind, level, unit in changes:
            for set_ in lab.sets:
                row = {**head, "change": kind, "level": level, "unit": unit, "photos": set_}
                seen = recognised(lab, veiled, veiled.surrogate, set_, kind, level)
                found.append(row | rate_figures(seen, counts_of(lab, veiled, set_)))
    return found
