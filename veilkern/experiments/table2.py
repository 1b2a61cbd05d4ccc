"""Table 2 and Fig. 5: photos recovered from protected ones, by how those were stored, with and without the filter."""

from __future__ import annotations

from typing import Any

import torch

from veilkern.data.people import People
from veilkern.evaluate import metrics
from veilkern.experiments.changes import jpeg
from veilkern.experiments.figures import by_person, figure, likeness, look_figures
from veilkern.experiments.lab import Lab, VeilSet
from veilkern.experiments.pictures import sheet
from veilkern.experiments.veils import OURS, SEALED

TITLE = "Table 2: recovered photos, by how the protected ones were stored"
METHODS = (OURS, SEALED)
FILTERS = (0.0, 0.5, 1.0)  # sigma, pixels, of the Gaussian filter; the paper does not tell its own. 0: none
JPEGS = tuple((quality, chroma) for quality in (95, 75, 50) for chroma in ("4:4:4", "4:2:0"))
STORED = ("PNG, 8 bit", "PNG, 16 bit", *(f"JPEG {quality}, {chroma}" for quality, chroma in JPEGS))
SHOWN = 4


def rows(lab: Lab) -> list[dict[str, Any]]:
    """A row a method, surrogate, way of storing, filter and set of photos."""
    found = []
    for head, veiled in lab.each(({"method": method}, method, {}) for method in METHODS):
        for set_ in lab.sets:
            for stored in STORED:
                for sigma in FILTERS:
                    row = {**head, "stored": stored, "filter": sigma, "photos": set_}
                    found.append(row | _figures(lab, veiled, lab.part(veiled, set_), set_, stored, sigma))
    return found


def _figures(lab: Lab, veiled: VeilSet, people: People, set_: str, stored: str, sigma: float) -> dict[str, Any]:
    inputs = {"veils": veiled.inputs, "set": set_, "stored": stored, "sigma": sigma, "lpips": lab.lpips_mark}
    values = lab.cell("recovered", inputs, lambda: _measured(lab, veiled, people, stored, sigma))
    counts = people.counts.tolist()
    return look_figures(values, counts) | {"max_error": figure(values["max_error"], counts)}


def _measured(lab: Lab, veiled: VeilSet, people: People, stored: str, sigma: float) -> dict[str, Any]:
    back = lab.recovered(veiled, people, keep(lab, veiled, people, stored), sigma or None)
    error = (people.images.int() - back.int()).abs().flatten(1).amax(1)
    return likeness(lab, people, back) | {"max_error": by_person(error, people)}


def keep(lab: Lab, veiled: VeilSet, people: People, stored: str) -> torch.Tensor:
    """Protected photos as they come back from this way of storing them. PNG keeps every value."""
    if stored == "PNG, 16 bit":
        return lab.protected(veiled, people, lossless=True)
    hidden = lab.protected(veiled, people)
    if stored == "PNG, 8 bit":
        return hidden
    quality, chroma = JPEGS[STORED.index(stored) - 2]
    return jpeg(hidden, quality, chroma)


def pictures(lab: Lab) -> dict[str, bytes]:
    """Fig. 5: originals, protected and recovered photos, with the SSIM of these, a picture a surrogate and method."""
    found = {}
    for head, veiled in lab.each(({"method": method}, method, {}) for method in METHODS):
        people = lab.part(veiled, next(iter(lab.sets)))
        some = people.take(people.offsets[:-1][:SHOWN])
        hidden = lab.protected(veiled, some)
        back = lab.recovered(veiled, some, hidden)
        lines = {"original": some.images, "protected": hidden, "recovered": back}
        heads = [f"recovered {value:.3f}" for value in metrics.ssim(some.images, back).tolist()]
        found[f"fig5 {head['method']} {veiled.surrogate}"] = sheet(lines, heads)
    return found
