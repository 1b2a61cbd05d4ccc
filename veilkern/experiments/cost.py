"""What protection costs and achieves by method: once for all photos of a person, or for each photo (section 4.2.4)."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch

from veilkern import methods
from veilkern.data.people import People
from veilkern.errors import ModelError
from veilkern.evaluate.identification import identify
from veilkern.experiments.figures import by_person, figure, likeness, look_figures
from veilkern.experiments.lab import Lab
from veilkern.methods.method import Fitted

TITLE = "Cost: passes through the network and seconds, and what they achieve, by method"
SHARES = ("rank1", "evasion")


def rows(lab: Lab) -> list[dict[str, Any]]:
    """A row a method, surrogate and set of photos. Of methods that craft each photo for itself, some photos, which
    are their set: `image-specific`."""
    found = []
    for method in methods.METHODS:
        for surrogate in lab.surrogates:
            inputs = {"method": method, "surrogate": lab.network_of(surrogate), "steps": lab.steps}
            inputs |= {"tried": lab.image_specific, "lpips": lab.lpips_mark}
            try:
                held = lab.cell("method", inputs, functools.partial(_measured, lab, method, surrogate))
            except ModelError as error:
                lab.failed(f"cost of {method} for {surrogate}: {error}")
                continue
            about = held["about"]
            if held["machine"] != lab.machine:
                about = about | {name: math.nan for name in about if name.startswith("seconds")}
            for one in held["sets"]:
                found.append({"method": method, "surrogate": surrogate} | about | _row(one))
    return found


def _row(one: dict[str, Any]) -> dict:
    counts, values = one["counts"], one["values"]
    row = {"photos": one["set"]} | look_figures(values, counts)
    row |= {name: figure(values[name], counts, share=True) for name in SHARES}
    recovered = figure(values["ssim_recovered"], counts) if "ssim_recovered" in values else None
    return row | {"cosine": figure(values["cosine"], counts), "ssim_recovered": recovered}


def _measured(lab: Lab, method: str, surrogate: str) -> dict[str, Any]:
    lab.tell(f"cost of {method} for {surrogate}")
    model = lab.surrogates[surrogate]
    fitted = methods.fit(model, lab.crafting, method, steps=_steps(lab, method), seed=lab.seed, progress=False)
    if fitted.scope == "photo":
        sets: list[tuple[str, People, torch.Tensor | None]] = [("image-specific", *_some(lab))]
    else:
        sets = [(label, part, None) for label, part in lab.sets.items()]
    measured = [_of_set(lab, fitted, surrogate, *one) for one in sets]
    cost = fitted.cost()
    about = {"scope": fitted.scope, "aim": fitted.aim, "recovers": fitted.recovers, "failed": fitted.failed}
    for spent in ("passes", "seconds"):
        about |= {f"{spent}_per_{of}": cost[f"{spent}_{of}"] for of in ("once", "person", "photo")}
    return {"about": about | {"stored_bytes": cost["stored_bytes"]}, "sets": measured, "machine": lab.machine}


def _steps(lab: Lab, method: str) -> int | None:
    """The method's own number, or what bounds all."""
    return None if lab.steps is None else min(lab.steps, methods.METHODS[method]().steps)


def _some(lab: Lab) -> tuple[People, torch.Tensor]:
    """The first photos that image-specific methods are tried on, one or two a person, and their places in the set."""
    people = lab.crafting
    place = torch.arange(len(people.images)) - people.offsets[people.rows]
    each = 1 if lab.image_specific <= len(people) else -(-lab.image_specific // len(people))
    index = (place < each).nonzero().flatten()[: lab.image_specific]
    return people.take(index), index


def _of_set(
    lab: Lab, fitted: Fitted, surrogate: str, label: str, people: People, index: torch.Tensor | None
) -> dict[str, Any]:
    """index: the places of these photos among the crafting ones; None: they are a whole set."""
    if fitted.failed and fitted.scope == "person":
        people = people.take([i for i, p in enumerate(people.rows.tolist()) if people.names[p] not in fitted.failed])
    hidden = fitted.protect(people)
    values = likeness(lab, people, hidden)
    back = fitted.recover(people, hidden)
    if back is not None:
        values["ssim_recovered"] = likeness(lab, people, back)["ssim"]
    whole = next(iter(lab.sets)) if index is not None else label
    values |= _recognition(lab, surrogate, people, hidden, whole, index)
    return {"set": label, "counts": people.counts.tolist(), "values": values}


def _recognition(
    lab: Lab, surrogate: str, people: People, hidden, set_: str, index: torch.Tensor | None
) -> dict[str, Any]:
    if index is None:
        found = lab.recognition(surrogate, people, hidden, set_)
        return {name: found[name] for name in ("rank1", "cosine")} | _evasion(found["rank1"])
    # Some photos among all of the set, so that the templates and rivals are the same as everybody's.
    whole, clean = lab.sets[set_], lab.clean(surrogate, set_)
    seen = clean.clone()
    seen[index] = lab.features(surrogate, hidden, check=False)
    found_all = identify(seen, clean, whole, lab.distractors(surrogate))
    rate = torch.cat([torch.tensor(one.by_photo, dtype=torch.float64) for one in found_all])[index]
    rank1 = by_person(rate, people)
    return {"rank1": rank1, "cosine": by_person((seen[index] * clean[index]).sum(1), people)} | _evasion(rank1)


def _evasion(rank1: list[float]) -> dict[str, list[float]]:
    """What opom aims at: 1 - rank-1."""
    return {"evasion": [1 - rate for rate in rank1]}
