"""Fig. 3: protected photos of several persons, a sheet a surrogate."""

from __future__ import annotations

from typing import Any

from veilkern.data.people import People
from veilkern.evaluate import metrics
from veilkern.experiments.figures import by_person, figure
from veilkern.experiments.lab import Lab, VeilSet
from veilkern.experiments.pictures import sheet
from veilkern.experiments.veils import OURS, PAPER, SEALED

TITLE = "Fig. 3: protected photos, a sheet a surrogate"
METHODS = (PAPER, OURS, SEALED)
SHOWN_PEOPLE, SHOWN_PHOTOS = 4, 3


def rows(lab: Lab) -> list[dict[str, Any]]:
    """A row a method and surrogate: who is on the sheet, and how much of these very photos shows."""
    found = []
    for surrogate in lab.surrogates:
        some, veils = shown(lab, surrogate)
        for method, veiled in veils.items():
            hidden = lab.protected(veiled, some)
            ssim = by_person(metrics.ssim(some.images, hidden), some)
            contour = by_person(metrics.contour(some.images, hidden, 2.0).abs(), some)
            row = {"method": method, "surrogate": surrogate, "photos": next(iter(lab.sets)), "who": some.names}
            counts = some.counts.tolist()
            found.append(row | {"ssim": figure(ssim, counts), "contour": figure(contour, counts)})
    return found


def shown(lab: Lab, surrogate: str) -> tuple[People, dict[str, VeilSet]]:
    """The first photos of the first persons who have a veil of each method, and the veils."""
    veils = {method: veiled for method in METHODS if (veiled := lab.veiled(surrogate, method)) is not None}
    people = lab.of_all(list(veils.values()), next(iter(lab.sets)))
    if people is None:
        return lab.crafting.take([]), {}
    first = people.offsets[:-1][:SHOWN_PEOPLE].tolist()
    last = people.offsets[1:].tolist()
    index = [i for p, start in enumerate(first) for i in range(start, min(start + SHOWN_PHOTOS, last[p]))]
    return people.take(index), veils


def pictures(lab: Lab) -> dict[str, bytes]:
    """The sheets: originals, then each method's."""
    found = {}
    for surrogate in lab.surrogates:
        some, veils = shown(lab, surrogate)
        if veils:
            hidden = {method: lab.protected(veiled, some) for method, veiled in veils.items()}
            found[f"fig3 {surrogate}"] = sheet({"original": some.images, **hidden})
    return found
