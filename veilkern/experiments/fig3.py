"""Fig. 3: protected photos of several persons, a sheet a surrogate."""

from __future__ import annotations

import torch

from veilkern.data.people import People
from veilkern.evaluate import metrics
from veilkern.experiments.figures import by_person, figure
from veilkern.experiments.lab import Lab, VeilSet
from veilkern.experiments.pictures import sheet
from veilkern.experiments.veils import OURS, PAPER, SEALED

TITLE = "Fig. 3: protected photos, a sheet a surrogate"
METHODS = (PAPER, OURS, SEALED)
SHOWN_PEOPLE, SHOWN_PHOTOS = 4, 3


def rows(lab: Lab) -> list[dict]:
    """A row a method and surrogate: who is on the sheet, and how much of these very photos shows."""
    found = []
    for surrogate in lab.surrogates:
        for method in METHODS:
            veiled = lab.veiled(surrogate, method)
            some = shown(lab, veiled)
            hidden = lab.protected(veiled, some)
            ssim = by_person(metrics.ssim(some.images, hidden), some)
            contour = by_person(metrics.contour(some.images, hidden, 2.0).abs(), some)
            row = {"method": method, "surrogate": surrogate, "photos": next(iter(lab.sets)), "who": some.names}
            photos = len(some.images)
            found.append(row | {"ssim": figure(ssim, photos), "contour": figure(contour, photos)})
    return found


def shown(lab: Lab, veiled: VeilSet) -> People:
    """The first photos of the first persons."""
    people = lab.part(veiled, next(iter(lab.sets)))
    first = people.offsets[:-1][:SHOWN_PEOPLE].tolist()
    last = people.offsets[1:].tolist()
    return people.take([i for p, start in enumerate(first) for i in range(start, min(start + SHOWN_PHOTOS, last[p]))])


def pictures(lab: Lab) -> dict[str, bytes]:
    """The sheets: originals, then each method's."""
    found = {}
    for surrogate in lab.surrogates:
        lines: dict[str, torch.Tensor] = {}
        for method in METHODS:
            veiled = lab.veiled(surrogate, method)
            some = shown(lab, veiled)
            lines.setdefault("original", some.images)
            lines[method] = lab.protected(veiled, some)
        found[f"fig3 {surrogate}"] = sheet(lines)
    return found
