"""What L_fea measures the distance to: convex hull, affine hull, span, centre, each photo's own feature."""

from __future__ import annotations

from typing import Any

from veilkern.crafting.config import SUBSPACES
from veilkern.experiments.figures import counts_of, look_figures, looks, rate_figures, recognised
from veilkern.experiments.lab import Lab
from veilkern.experiments.veils import OURS

TITLE = "Subspace: what the features are brought near to, its quality and its cost"


def rows(lab: Lab) -> list[dict[str, Any]]:
    """A row a subspace, surrogate and set of photos; all else is the default's."""
    found = []
    # The first is the default, which is not given: its veils are those of the other experiments.
    kinds = ((one, {} if one == SUBSPACES[0] else {"subspace": one}) for one in SUBSPACES)
    for head, veiled in lab.each(({"subspace": one}, OURS, given) for one, given in kinds):
        spent, people = veiled.spent, veiled.spent["people"]
        cost = {
            "feature_distance": spent["feature_distance"],
            "image_steps_per_veil": spent["image_steps"] / people,
            "seconds_per_veil": spent["seconds"] / people,
        }
        for set_ in lab.sets:
            counts = counts_of(lab, veiled, set_)
            rates = rate_figures(recognised(lab, veiled, veiled.surrogate, set_), counts)
            row = {**head, "photos": set_, "rank1": rates["rank1"], "cosine": rates["cosine"]} | cost
            found.append(row | look_figures(looks(lab, veiled, set_), counts))
    return found
