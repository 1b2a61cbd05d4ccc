"""What L_fea measures the distance to: convex hull, affine hull, span, centre, each photo's own feature."""

from __future__ import annotations

from veilkern.crafting.config import SUBSPACES
from veilkern.experiments.figures import count, look_figures, looks, rate_figures, recognised
from veilkern.experiments.lab import Lab
from veilkern.experiments.veils import OURS

TITLE = "Subspace: what the features are brought near to, its quality and its cost"


def rows(lab: Lab) -> list[dict]:
    """A row a subspace, surrogate and set of photos; all else is the default's."""
    found = []
    for subspace in SUBSPACES:
        for surrogate in lab.surrogates:
            more = {} if subspace == SUBSPACES[0] else {"subspace": subspace}  # the first is the default
            veiled = lab.veiled(surrogate, OURS, **more)
            for set_ in lab.sets:
                photos = count(lab, veiled, set_)
                row: dict = {"subspace": subspace, "surrogate": surrogate, "photos": set_}
                rates = rate_figures(recognised(lab, veiled, surrogate, set_), photos)
                row |= {"rank1": rates["rank1"], "cosine": rates["cosine"]}
                spent, people = veiled.spent, veiled.spent["people"]
                row |= {
                    "feature_distance": spent["feature_distance"],
                    "image_steps_per_veil": spent["image_steps"] / people,
                    "seconds_per_veil": spent["seconds"] / people,
                }
                found.append(row | look_figures(lab, looks(lab, veiled, set_), photos))
    return found
