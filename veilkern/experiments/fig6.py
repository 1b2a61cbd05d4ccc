"""Fig. 6: MSR over alpha."""

from __future__ import annotations

from veilkern.experiments.figures import count, rate_figures, recognised
from veilkern.experiments.lab import Lab
from veilkern.experiments.table3 import ALPHAS, at
from veilkern.experiments.veils import OURS, PAPER, SEALED

TITLE = "Fig. 6: matching success rate (MSR) over alpha"
METHODS = (PAPER, OURS)


def rows(lab: Lab) -> list[dict]:
    """A row a method, alpha, surrogate, target and set; sealed photos, which have no alpha, at the end."""
    kinds: list[tuple[str, float | None]] = [(method, alpha) for method in METHODS for alpha in ALPHAS]
    found = []
    for method, alpha in [*kinds, (SEALED, None)]:
        for surrogate in lab.surrogates:
            veiled = lab.veiled(surrogate, method) if alpha is None else at(lab, surrogate, method, alpha)
            for target in lab.networks:
                white = lab.network_of(target) == lab.network_of(surrogate)
                for set_ in lab.sets:
                    row = {"method": method, "alpha": alpha, "surrogate": surrogate, "target": target}
                    rates = rate_figures(recognised(lab, veiled, target, set_), count(lab, veiled, set_))
                    found.append(row | {"white_box": white, "photos": set_} | rates)
    return found
