"""The attacks that rebuild photos: each says what the attacker knows and does. `ATTACKS` lists them.

An attack gives one or several outputs of each photo (variants), as the attacker cannot know which one shows most; own
and other people's photos are then compared with all of them and take the best one alike, so that more variants do not
look like success.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from veilkern.auditing.case import (
    Case,
    NotPossibleError,
    blurred,
    mean_by_person,
    residues,
    stretched,
    to_bytes,
)
from veilkern.veils.protect import recover

SIGMAS = (1.0, 2.0, 4.0)  # of the blurs, pixels
NEIGHBOURS = 3  # other photos of the same person that a photo is subtracted from


@dataclass(frozen=True)
class Output:
    """What an attack made: of the photos of these numbers (int64 [n]) in the case, by name of the variant, uint8
    [n, 3, H, W]."""

    photos: torch.Tensor
    variants: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Attack:
    """name: in JSON. title: in tables. knows: what the attacker has and does. keeps_veil: the output still holds the
    veil, so that its likeness is what the veil itself tells."""

    name: str
    title: str
    knows: str
    run: Callable[[Case], Output]
    keeps_veil: bool = False


def as_it_is(case: Case) -> Output:
    """One protected photo, looked at."""
    return Output(_all(case), {"as it is": case.protected})


def blur_and_stretch(case: Case) -> Output:
    """One protected photo: noise is blurred away, by several widths, and the rest brought to a photo's contrast."""
    found = {f"blur {sigma:g}": stretched(blurred(case.protected, sigma)) for sigma in SIGMAS}
    return Output(_all(case), {"stretched": stretched(case.protected.float()), **found})


def minus_average(case: Case) -> Output:
    """All protected photos of a person and no key: what they share, the veil, is their average (or their minimum, as
    nothing negative is added to it), and what is left of each photo when that is taken off is brought to a photo's
    contrast, or multiplied by what the scheme divided it by."""
    photos = case.with_company("an average")
    part = case.people.take(photos)
    values = case.protected[photos].float()
    average = values - mean_by_person(values, part)[part.rows]
    least = torch.stack([own.min(0).values for own in values.split(part.counts.tolist())])[part.rows]
    return Output(
        photos,
        {
            "stretched": stretched(average),
            "multiplied": to_bytes(128 + case.gain * average),
            "minus minimum": to_bytes(case.gain * (values - least)),
            "blurred": stretched(blurred(average, 2.0)),
        },
    )


def differences(case: Case) -> Output:
    """Two protected photos of a person and no key: their difference, in which the veil is gone. Each photo less the
    next ones of the person."""
    photos = case.with_company("a difference")
    part = case.people.take(photos)
    values = case.protected[photos].float()
    start, count = part.offsets[part.rows], part.counts[part.rows]
    place = torch.arange(len(values)) - start
    found = {}
    for step in range(1, 1 + min(NEIGHBOURS, int(part.counts.max()) - 1)):
        # A person with fewer photos than that is subtracted from the same neighbour again, never from itself.
        other = start + (place + 1 + (step - 1) % (count - 1)) % count
        found[f"photo +{step}"] = stretched(values - values[other])
    return Output(photos, found)


def bare_veil(case: Case) -> Output:
    """The veil alone, stolen or, where photos are sealed, public: is the person's face in it?"""
    return Output(_all(case), {"the veil": case.veils})


def known_pair(case: Case) -> Output:
    """One photo of the person together with its protected form, and the person's other protected photos.

    Blend: the pair is solved for the veil, which opens the others. Sealed: the attacker is given the veil too, gets the
    keystream of the known photo, and tries it on the others; or takes the known protected photo off theirs. The known
    photo itself is not counted, nor added to anything: its likeness to the person's others is no leak.
    """
    photos = case.with_company("a known pair")
    known = case.people.offsets[case.people.rows]  # of each photo the person's first one
    photos = photos[photos != known[photos]]
    pair = known[photos]
    x, hidden = case.people.images[pair], case.protected[pair]
    if not case.sealed:
        return Output(photos, {"solved": _recovered_with(case, photos, _solved_veils(x, hidden, case.bank.blend))})
    levels, step = case.bank.levels, 256 // case.bank.levels
    u, u_known = (residues(case.protected[at], case.veils[at], levels) for at in (photos, pair))
    stream = u_known ^ (x // step)
    return Output(
        photos,
        {
            "keystream": (u ^ stream) * step + step // 2,
            "keystream, blurred": stretched(blurred((u ^ stream) * step, 2.0)),
            "difference": stretched(case.protected[photos].float() - hidden.float()),
        },
    )


def known_veil(case: Case) -> Output:
    """The veil and no other key. Blend: recover, the owner's own way back. Sealed: the residue x' - v mod M, brought to
    a photo's range, blurred, or its highest bit alone."""
    if not case.sealed:
        return Output(_all(case), {"recovered": recover(case.protected, case.bank, case.rows)})
    u = residues(case.protected, case.veils, case.bank.levels)
    grey = u * (256 // case.bank.levels)
    return Output(
        _all(case),
        {
            "residue": grey,
            "residue, blurred": stretched(blurred(grey, 2.0)),
            "highest bit": (grey >> 7) * 255,
        },
    )


ATTACKS = (
    Attack("as_it_is", "as it is", "one protected photo, and looks at it", as_it_is, keeps_veil=True),
    Attack(
        "blurred",
        "blurred, stretched",
        "one protected photo, blurs it by 1, 2 and 4 pixels and brings it to a photo's contrast",
        blur_and_stretch,
        keeps_veil=True,
    ),
    Attack("bare_veil", "the bare veil", "the veil and nothing else", bare_veil, keeps_veil=True),
    Attack(
        "average",
        "minus the average",
        "the person's protected photos, no key, and takes off each what they have in common",
        minus_average,
    ),
    Attack(
        "difference",
        "differences",
        "two protected photos of the person, no key, and subtracts one from the other",
        differences,
    ),
    Attack(
        "known_pair",
        "one known pair",
        "one original with its protected photo (and the veil where photos are sealed), and tries to open the others",
        known_pair,
    ),
    Attack(
        "known_veil", "known veil, no key", "the veil, no other key, and takes it off each protected photo", known_veil
    ),
)


def _all(case: Case) -> torch.Tensor:
    return torch.arange(len(case.rows))


def _solved_veils(x: torch.Tensor, hidden: torch.Tensor, blend: int) -> torch.Tensor:
    """Veils uint8 of known pairs: v = (255 x' - a x) / (255 - a), to within half a level of 255 / (255 - a)."""
    return to_bytes((255 * hidden.double() - blend * x.double()) / (255 - blend))


def _recovered_with(case: Case, photos: torch.Tensor, veils: torch.Tensor) -> torch.Tensor:
    """The protected photos of these numbers recovered with a veil each."""
    a = case.bank.blend
    return to_bytes((255 * case.protected[photos].double() - (255 - a) * veils.double()) / a)


__all__ = ["ATTACKS", "Attack", "NotPossibleError", "Output"]
