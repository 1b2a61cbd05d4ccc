"""A cover of its own for each photo."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

import torch

from veilkern import ops
from veilkern.data.people import People
from veilkern.errors import ModelError
from veilkern.methods.method import Fitted, ShowProgress, pixels_id
from veilkern.methods.veiled import Veiled, crafted, failures, fields_but
from veilkern.networks.face_model import FaceModel


class Ric(Veiled):
    """`ric`: a noise-like cover c of each photo, x' = alpha x + (1 - alpha) c, crafted from a keyed start so that the
    network gives x' the photo's own clean feature; recovered with the cover, which must be kept for each photo.

    After Liu et al., "Recoverable Privacy-Preserving Image Classification through Noise-like Adversarial Examples"
    (arXiv 2310.12707): the noise-like adversarial example, image by image. Out of scope are the rest of the published
    system: its encoder and key, by which a noise-like image holds the photo without a cover that is kept, its decoder
    by symmetric residual learning, and its classifiers, whose labels we replace by features. The loss is `veil`'s of a
    person with one photo, so that the two differ in what a pattern serves and in nothing else; without L_con a cover
    with one photo to hide becomes that photo's negative. Photos go through craft many at a time, as persons of one.
    """

    name = "ric"
    scope = "photo"
    FIXED: ClassVar[dict[str, Any]] = {"subspace": "self", "photos_per_step": 1}
    OPTIONS = fields_but("subspace", "photos_per_step")

    def fit(self, model: FaceModel, crafting: People, progress: ShowProgress) -> Fitted:
        """Costs nothing: photos are crafted when they are protected."""
        return Covered(self, model, crafting, progress)


class Covered(Fitted):
    """covers: uint8 [3, H, W] by photo (see `_ids`). A photo that has one already is not crafted again."""

    made_by: Ric

    def __init__(self, method: Ric, model: FaceModel, crafting: People, progress: ShowProgress):
        super().__init__(method, model, crafting, progress)
        self.covers: dict[str, torch.Tensor] = {}

    def _protect(self, people: People) -> torch.Tensor:
        ids = _ids(people)
        self._cover(people, ids)
        covers = torch.stack([self.covers[one] for one in ids])
        return ops.blend(people.images, covers, torch.arange(len(ids)), self.made_by.config.blend)

    def _recover(self, people: People, protected: torch.Tensor) -> torch.Tensor:
        ids = _ids(people)
        if missing := [file for file, one in zip(people.files, ids, strict=True) if one not in self.covers]:
            raise ValueError(f"ric: people must be photos that were protected, got {', '.join(missing[:5])}")
        covers = torch.stack([self.covers[one] for one in ids])
        return ops.recover(protected, covers, torch.arange(len(ids)), self.made_by.config.blend)

    def _cover(self, people: People, ids: list[str]) -> None:
        """Craft the covers that are missing. ModelError names the photos that have failed; the others' are kept."""
        new = {one: i for i, one in enumerate(ids) if one not in self.covers}
        if not new:
            return
        index = list(new.values())
        files = [people.files[i] for i in index]
        singles = People(people.images[index], torch.arange(len(new) + 1), list(new), files)
        result = crafted(self, singles, self.protecting)
        self.covers |= dict(zip(result.bank.names, result.bank.veils, strict=True))
        if lost := failures(result.report):
            named = [f"{people.files[new[one]]}: {why}" for one, why in lost.items()]
            raise ModelError(f"ric: {len(lost)} of {len(new)} photos could not be covered: {'; '.join(named[:5])}")


def _ids(people: People) -> list[str]:
    """A name for each photo, from whose it is and its pixels: what keys the start of its cover."""
    names = [people.names[p].encode(errors="surrogateescape") for p in people.rows.tolist()]
    pixels = [pixels_id(image).encode() for image in people.images]
    return [hashlib.sha256(name + b"\0" + own).hexdigest() for name, own in zip(names, pixels, strict=True)]
