"""Fig. 4: which networks recognise protected photos: MSR by surrogate and target, with and without L_var."""

from __future__ import annotations

from veilkern.experiments.figures import count, rate_figures, recognised
from veilkern.experiments.lab import Lab
from veilkern.experiments.veils import OURS, PAPER, SEALED

TITLE = "Fig. 4: matching success rate (MSR) by surrogate and target network"
METHODS = (PAPER, "paper w/o L_var", OURS, "ours w/o L_var", SEALED)


def rows(lab: Lab) -> list[dict]:
    """A row a method, surrogate, target and set of photos. white_box: the target is the surrogate."""
    found = []
    for method in METHODS:
        for surrogate in lab.surrogates:
            veiled = lab.veiled(surrogate, method)
            for target in lab.networks:
                white = lab.network_of(target) == lab.network_of(surrogate)
                for set_ in lab.sets:
                    row = {"method": method, "surrogate": surrogate, "target": target, "white_box": white}
                    rates = rate_figures(recognised(lab, veiled, target, set_), count(lab, veiled, set_))
                    found.append(row | {"photos": set_} | rates)
    return found
