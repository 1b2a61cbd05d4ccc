"""What networks make of outputs and of protected photos: rank-1 of each network, and whom it sees under a veil."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from veilkern.auditing.attacks import Output
from veilkern.auditing.case import CHUNK, Case, protected_photos
from veilkern.auditing.statistics import Bootstrap, Figure
from veilkern.data.people import People
from veilkern.data.photos import photo_id
from veilkern.errors import ModelError
from veilkern.evaluate.identification import identify
from veilkern.networks.face_model import FaceModel


@dataclass(frozen=True, repr=False)
class Network:
    """A network and what it makes of clean photos: features of the people's [N, d] and of the gallery's [G, d].
    crafted_for: whether the veils were made for it."""

    name: str
    model: FaceModel
    clean: torch.Tensor
    gallery: torch.Tensor
    crafted_for: bool

    @property
    def candidates(self) -> str:
        """Against whom a photo is looked up, in words."""
        return f"one photo a person and {len(self.gallery)} gallery photos"


@dataclass(frozen=True)
class Recognition:
    """What one network recognises. Rank-1 of the people's clean photos (`clean`) and of their protected ones
    (`protected`); and of other people's photos under somebody's veil the share taken for the veil's person
    (`impostor_as_veil`) and for the person in the photo (`impostor_as_photo`). chance: one of all candidates."""

    network: str
    crafted_for: bool
    clean: Figure
    protected: Figure
    impostor_as_veil: Figure
    impostor_as_photo: Figure
    chance: float


def strangers_only(gallery: torch.Tensor, people: People, notices: list[str]) -> torch.Tensor:
    """The gallery without pictures that are the people's own; a notice says how many those are."""
    own = {photo_id(image) for image in people.images}
    fine = torch.tensor([photo_id(image) not in own for image in gallery], dtype=torch.bool)
    if twins := int((~fine).sum()):
        notices.append(f"{twins} of {len(gallery)} gallery photos are pictures of the people themselves, left out")
    return gallery[fine]


def features_of(models: Sequence[FaceModel], people: People, notices: list[str]) -> tuple[People, list[torch.Tensor]]:
    """The people's photos of which every network has a feature, and those features [N, d] of each; ModelError where
    that is no photo."""
    found = [model.features(people.images, check=False) for model in models]
    fine = torch.stack([one.isfinite().all(1) for one in found]).all(0)
    if not fine.any():
        for model in models:
            model.features(people.images)  # raises with the cause
        raise ModelError("audit: there is no photo of which all networks have a feature")
    if not fine.all():
        files = ", ".join(people.files[i] for i in (~fine).nonzero().flatten()[:10].tolist())
        notices.append(f"a network has no feature of {int((~fine).sum())} clean photos, left out: {files}")
    return people.take(fine.nonzero().flatten()), [one[fine] for one in found]


def gallery_features(model: FaceModel, gallery: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    """Features [G, d] of those gallery photos of which the network has any."""
    if gallery is None or not len(gallery):
        return like[:0]
    found = model.features(gallery, check=False)
    return found[found.isfinite().all(1)]


def rank1(case: Case, network: Network, output: Output, variant: str, bootstrap: Bootstrap) -> Figure:
    """How often the network finds the person on these outputs, by the protocol of evaluate/identification.py: an output
    against another clean photo of its person, one of each other person, and the gallery."""
    hidden = torch.full_like(network.clean, math.nan)  # of photos that the attack has no output of
    hidden[output.photos] = network.model.features(output.variants[variant], check=False)
    shares = _shares(case, network, hidden)[output.photos]
    return bootstrap.share(shares, case.people.rows[output.photos], joint=True)


def recognise(case: Case, network: Network, strangers: torch.Tensor, bootstrap: Bootstrap) -> Recognition:
    """Whom a network recognises in clean photos, in protected ones, and in other people's photos under a veil.

    Each photo's veil is put on a photo of the person who is next among `strangers` [N, K] and that is looked up among
    one clean photo of each person (never the photo itself) and the gallery.
    """
    people = case.people
    other = strangers[:, 0]
    worn = protected_photos(people.images[other], case.bank, case.rows, case.key)
    features = network.model.features(worn, check=False)
    number = other - people.offsets[people.rows[other]] + 1
    parts = zip(features.split(CHUNK), number.split(CHUNK), strict=True)
    seen = torch.cat([_found_first(people, network, part, places) for part, places in parts])
    hidden = network.model.features(case.protected, check=False)
    single = people.counts[people.rows[other]] == 1  # the template would be the photo itself
    as_photo = torch.where(single, math.nan, (seen == people.rows[other]).double())
    return Recognition(
        network.name,
        network.crafted_for,
        clean=bootstrap.share(_shares(case, network, network.clean), people.rows),
        protected=bootstrap.share(_shares(case, network, hidden), people.rows),
        impostor_as_veil=bootstrap.share((seen == people.rows).double(), people.rows),
        impostor_as_photo=bootstrap.share(as_photo, people.rows),
        chance=1 / (len(people) + len(network.gallery)),
    )


def _found_first(people: People, network: Network, features: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """Whom each probe [n, d] finds first, int64 [n]: a person, or -1 for somebody of the gallery or nobody; of each
    person the clean photo of this number [n] (or what it wraps to) is there to be found."""
    templates = people.offsets[:-1] + number[:, None] % people.counts
    scores = (features[:, None] * network.clean[templates]).sum(2)
    strongest = (features @ network.gallery.T).amax(1) if len(network.gallery) else torch.full((len(scores),), -2.0)
    return torch.where(scores.amax(1) > strongest, scores.argmax(1), torch.tensor(-1))  # no number is never above


def _shares(case: Case, network: Network, hidden: torch.Tensor) -> torch.Tensor:
    """Of each photo the share of its pairs that the network finds first, float64 [N]; NaN for a person's only one."""
    found = identify(hidden, network.clean, case.people, network.gallery)
    return torch.tensor([share for one in found for share in one.by_photo], dtype=torch.float64)
