"""One veil for everybody."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from veilkern.crafting.run import CraftResult
from veilkern.data.people import People
from veilkern.methods.method import Fitted, ShowProgress
from veilkern.methods.veiled import Crafted, Veiled, crafted, failures, fields_but
from veilkern.networks.face_model import FaceModel

EVERYBODY = "everybody"


class Uap(Veiled):
    """`uap`: one veil v for all people, x' = alpha x + (1 - alpha) v: each photo of everybody to its own clean feature
    (eq. 15 over all persons), no L_var and no L_con. It is applied and taken off like a person's veil, and whoever has
    it takes it off everybody's photos.

    After Moosavi-Dezfooli et al. 2017 (universal adversarial perturbations), with the aim of the paper (section 5,
    "person-specific vs universal"): a blend in place of a small sum, so no epsilon ball; MI-FGSM in place of DeepFool.
    By default more and larger steps than a person's veil, since many features must survive it: STEPS of PHOTOS each.
    Persons who come later need no fit.
    """

    name = "uap"
    scope = "everybody"
    FIXED: ClassVar[dict[str, Any]] = {"subspace": "self", "mu": 0.0, "nu": 0.0}
    DEFAULTS: ClassVar[dict[str, Any]] = {"steps": 200, "photos_per_step": 8}
    OPTIONS = fields_but("subspace", "mu", "nu")

    def fit(self, model: FaceModel, crafting: People, progress: ShowProgress) -> Fitted:
        return Universal(self, model, crafting, progress)


class Universal(Crafted):
    """`bank` holds one veil, named EVERYBODY. A person with a photo that the network has no feature of has no part in
    the fit: `failed`."""

    def _craft(self, crafting: People) -> CraftResult:
        result = crafted(self, _one(crafting), self.fitting)
        if not len(result.bank) and (usable := self._usable(crafting)) is not None:
            result = crafted(self, _one(usable), self.fitting)
        if not len(result.bank):
            why = failures(result.report)[EVERYBODY]
            self.failed = {name: self.failed.get(name, why) for name in crafting.names}
        return result

    def _usable(self, crafting: People) -> People | None:
        """The persons whose photos all have features, if that is some and not all; who else failed."""
        clean = self.model.features(crafting.images, check=False)
        self.fitting.clean_passes += len(clean)
        bad = (~clean.isfinite().all(1)).nonzero().flatten().tolist()
        for i in bad:
            name = crafting.names[int(crafting.rows[i])]
            self.failed.setdefault(name, f"the network has no feature of {crafting.files[i]}")
        good = [i for i, p in enumerate(crafting.rows.tolist()) if crafting.names[p] not in self.failed]
        return crafting.take(good) if bad and good else None

    def rows_of(self, people: People) -> torch.Tensor:
        return torch.zeros(len(people.images), dtype=torch.int64)


def _one(people: People) -> People:
    """Everybody's photos as those of one person."""
    return People(people.images, torch.tensor([0, len(people.images)]), [EVERYBODY], people.files)
