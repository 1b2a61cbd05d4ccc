"""The case of an audit: photos, their protected forms and the bank, as the attacks get them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from veilkern import ops
from veilkern.data.people import People
from veilkern.veils.bank import VeilBank
from veilkern.veils.protect import protect
from veilkern.veils.sealing import MasterKeys, Sealing, keyring_of

CHUNK = 64  # photos at a time where they take eight bytes a value
# What is usual of 8-bit photos of faces: to what an attacker who knows no scale stretches what he has.
USUAL_MEAN, USUAL_STD = 118.0, 60.0


class NotPossibleError(Exception):
    """An attack cannot be tried on this case; the text says why, as a row of the report."""


@dataclass(frozen=True, repr=False)
class Case:
    """What is attacked. `repr` shows neither photos nor keys.

    people: the originals of persons with a veil, N photos. rows: the veil of each photo, int64 [N]. protected: uint8
    [N, 3, H, W]. seed: of every choice that an attack makes. key: the master keys of a sealed bank; only to protect
    further photos, no attack reads it. gallery: uint8 [G, 3, H, W] of other people, or None. device: where learning is
    done.
    """

    people: People
    bank: VeilBank
    rows: torch.Tensor
    protected: torch.Tensor
    seed: int = 0
    key: MasterKeys | None = field(default=None, repr=False)
    gallery: torch.Tensor | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __repr__(self) -> str:
        return f"Case({len(self.people)} persons, {len(self.rows)} photos, {self.bank.scheme})"

    @classmethod
    def of(cls, people: People, bank: VeilBank, key: MasterKeys | None, **more: Any) -> Case:
        """The case of these people, who all have a veil; their photos are protected here."""
        rows = bank.rows(people.names)[people.rows]
        return cls(people, bank, rows, protected_photos(people.images, bank, rows, key), key=key, **more)

    @property
    def sealed(self) -> bool:
        """Whether photos are sealed, not blended."""
        return self.bank.scheme == "sealed"

    @property
    def veils(self) -> torch.Tensor:
        """The veil of each photo, uint8 [N, 3, H, W]."""
        return self.bank.veils[self.rows]

    @property
    def gain(self) -> float:
        """By how much a photo's share is fainter in its protected form: known to everybody, as the scheme is."""
        return 256 / self.bank.levels if self.sealed else 255 / self.bank.blend

    def generator(self, purpose: int) -> torch.Generator:
        """Random choices of one purpose, the same in each run with the same seed."""
        return torch.Generator().manual_seed(self.seed * 1009 + purpose)

    def with_company(self, attack: str) -> torch.Tensor:
        """Numbers of the photos whose person has at least two; NotPossibleError where there are none."""
        found = (self.people.counts[self.people.rows] > 1).nonzero().flatten()
        if not len(found):
            raise NotPossibleError(f"not possible with one photo a person: {attack} needs two of somebody")
        return found


def protected_photos(
    images: torch.Tensor, bank: VeilBank, rows: torch.Tensor, key: MasterKeys | None, nonces: torch.Tensor | None = None
) -> torch.Tensor:
    """Protected photos uint8 [N, 3, H, W] of uint8 photos, as `protect` makes them; rows: veil rows int64 [N].

    key: as of `protect`. nonces: uint8 [N, 12] to seal with, to show what happens when one is used twice.
    """
    if nonces is None:
        return protect(images, bank, rows, key=key)
    keys, levels, rounds, _ = sealing(bank, rows, key)
    return ops.seal(images, bank.veils, rows, keys, nonces, levels=levels, rounds=rounds)


def sealing(bank: VeilBank, rows: torch.Tensor, key: MasterKeys | None) -> Sealing:
    """The sealing keys of these rows of a sealed bank."""
    ring = keyring_of("audit", bank, key)
    assert ring is not None  # the bank is sealed
    return ring.sealing(rows, rows.device)


def residues(protected: torch.Tensor, veils: torch.Tensor, levels: int) -> torch.Tensor:
    """u = x' - v mod M, uint8 [N, 3, H, W], 0 .. levels - 1: what a sealed photo is to whoever has the veil."""
    return (protected - veils) & (levels - 1)  # uint8 wraps, and levels divide 256


def to_bytes(values: torch.Tensor) -> torch.Tensor:
    """uint8 of float values, cut off at 0 and 255."""
    return values.clamp(0, 255).round().to(torch.uint8)


def stretched(values: torch.Tensor) -> torch.Tensor:
    """uint8 [n, 3, H, W] of float values of any scale: each photo brought to the brightness and contrast that photos of
    faces usually have."""
    flat = values.flatten(1)
    shape = (-1, 1, 1, 1)
    scaled = (values - flat.mean(1).view(shape)) / flat.std(1, correction=0).clamp_min(1e-6).view(shape)
    return to_bytes(USUAL_MEAN + USUAL_STD * scaled)


def blurred(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Float32 [n, 3, H, W] after a Gaussian blur of `sigma` pixels."""
    from veilkern.crafting.contour import blur_matrix

    pixels = images.float()
    down, across = (blur_matrix(side, sigma, like=pixels) for side in pixels.shape[2:])
    return down @ pixels @ across.T


def mean_by_person(values: torch.Tensor, people: People) -> torch.Tensor:
    """Mean over each person's photos, float32 [P, ...] of values [N, ...]."""
    return torch.stack([part.float().mean(0) for part in values.split(people.counts.tolist())])
