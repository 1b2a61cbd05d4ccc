"""Fig. 4: which networks recognise protected photos: MSR by surrogate and target, with and without L_var."""

from __future__ import annotations

from typing import Any

from veilkern.experiments.figures import by_target, figure
from veilkern.experiments.lab import Lab
from veilkern.experiments.veils import OURS, PAPER, SEALED

TITLE = "Fig. 4: matching success rate (MSR) by surrogate and target network"
METHODS = (PAPER, "paper w/o L_var", OURS, "ours w/o L_var", SEALED)
CLEAN = "clean photos"


def rows(lab: Lab) -> list[dict[str, Any]]:
    """A row a method, surrogate, target and set of photos. white_box: the target is the surrogate. First what each
    target makes of clean photos, where no surrogate has a part."""
    found = [
        {"method": CLEAN, "surrogate": "", "target": target, "white_box": False, "photos": set_}
        | {"rank1": figure(lab.clean_rank1(target, people, set_), people.counts.tolist(), share=True)}
        for target in lab.networks
        for set_, people in lab.sets.items()
    ]
    return found + by_target(lab, (({"method": method}, method, {}) for method in METHODS))
