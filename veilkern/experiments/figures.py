"""Figures of the experiments: a mean over people with its interval, and how many people and photos it is of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

import torch

from veilkern.data.people import People
from veilkern.evaluate import metrics
from veilkern.evaluate.intervals import interval
from veilkern.experiments.lab import Lab, VeilSet


class Figure(TypedDict):
    """value: the mean over people of each one's mean over her photos. low, high: 95 %, people drawn anew."""

    value: float
    low: float
    high: float
    people: int
    photos: int


def figure(by_person: Sequence[float], counts: Sequence[int], *, share: bool = False) -> Figure:
    """The Figure of one number a person; those that are not finite (nothing to measure, as of a person with one photo)
    do not count. counts: how many photos each person has. share: the numbers are rates between 0 and 1."""
    known = [(value, count) for value, count in zip(by_person, counts, strict=True) if math.isfinite(value)]
    if not known:
        return Figure(value=math.nan, low=math.nan, high=math.nan, people=0, photos=0)
    values = [value for value, _ in known]
    found = interval(values, share=share)
    photos = sum(count for _, count in known)
    return Figure(value=sum(values) / len(values), low=found.low, high=found.high, people=len(values), photos=photos)


def by_person(values: torch.Tensor, people: People) -> list[float]:
    """Mean over each person's photos of values [N]."""
    return [part.double().mean().item() for part in values.split(people.counts.tolist())]


def looks(lab: Lab, veiled: VeilSet, set_: str) -> dict[str, list[float]]:
    """By person: what is left to see in protected photos of a set: ssim, contour (|.|, sigma 2), and lpips where its
    weights are there."""
    people = lab.part(veiled, set_)

    def made() -> dict[str, list[float]]:
        return likeness(lab, people, lab.protected(veiled, people))

    return lab.cell("looks", {"veils": veiled.inputs, "set": set_, "lpips": lab.lpips_mark}, made)


def likeness(lab: Lab, people: People, images: torch.Tensor) -> dict[str, list[float]]:
    """By person: how alike `images`, uint8, are to the photos of `people`."""
    found = {
        "ssim": by_person(metrics.ssim(people.images, images), people),
        "contour": by_person(metrics.contour(people.images, images, 2.0).abs(), people),
    }
    if lab.lpips is not None:
        found["lpips"] = by_person(lab.lpips(people.images, images), people)
    return found


def look_figures(found: dict[str, list[float]], counts: Sequence[int]) -> dict[str, Figure | None]:
    """ssim, contour and lpips as Figures; lpips is None where it was not measured."""
    shown: dict[str, Figure | None] = {name: figure(found[name], counts) for name in ("ssim", "contour")}
    return shown | {"lpips": figure(found["lpips"], counts) if "lpips" in found else None}


def compared(lab: Lab, veiled: VeilSet, with_: VeilSet | None, set_: str) -> dict[str, Figure | None]:
    """Person by person, what `looks` found of `veiled` minus what it found of `with_`, as ssim_difference and so on;
    None where it was not measured. A person counts who has both veils."""
    found: dict[str, Figure | None] = dict.fromkeys(("ssim_difference", "contour_difference", "lpips_difference"))
    if with_ is None:
        return found
    own, other = looks(lab, veiled, set_), looks(lab, with_, set_)
    people, names = lab.part(veiled, set_), lab.part(with_, set_).names
    for name in own:
        theirs = dict(zip(names, other[name], strict=True))
        pairs = zip(people.names, own[name], strict=True)
        differences = [value - theirs.get(person, math.nan) for person, value in pairs]
        found[f"{name}_difference"] = figure(differences, people.counts.tolist())
    return found


RATES = ("rank1", "rank5", "rank10", "own_rank1", "clean_rank1", "tar_1e3", "tar_1e4")


def recognised(
    lab: Lab, veiled: VeilSet, target: str, set_: str, kind: str = "none", level: float = 0
) -> dict[str, Any]:
    """By person: `Lab.recognition` of protected photos of a set, after a change."""
    people = lab.part(veiled, set_)

    def made() -> dict[str, Any]:
        return lab.recognition(target, people, lab.changed(lab.protected(veiled, people), people, kind, level), set_)

    inputs = {"veils": veiled.inputs, "target": lab.network_of(target), "set": set_, "change": [kind, level]}
    return lab.cell("recognised", inputs, made)


def rate_figures(found: dict[str, Any], counts: Sequence[int]) -> dict[str, Figure]:
    """The figures of what `recognised` found."""
    rates = {name: figure(found[name], counts, share=True) for name in RATES}
    return rates | {"cosine": figure(found["cosine"], counts)}


def by_target(lab: Lab, kinds: Iterable[tuple[dict[str, Any], str, dict]]) -> list[dict]:
    """A row a kind (see `Lab.each`), surrogate, target and set of photos: what the target recognises. white_box: the
    target is the surrogate."""
    found = []
    for head, veiled in lab.each(kinds):
        for target in lab.networks:
            white = lab.network_of(target) == lab.network_of(veiled.surrogate)
            for set_ in lab.sets:
                row = {**head, "target": target, "white_box": white, "photos": set_}
                seen = recognised(lab, veiled, target, set_)
                found.append(row | rate_figures(seen, counts_of(lab, veiled, set_)))
    return found


def counts_of(lab: Lab, veiled: VeilSet, set_: str) -> list[int]:
    """Photos of a set, of each person who has a veil."""
    return lab.part(veiled, set_).counts.tolist()
