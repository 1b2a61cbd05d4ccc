"""Methods that craft makes: a veil a person, and one veil for everybody."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from veilkern import ops
from veilkern.crafting.config import CraftConfig
from veilkern.crafting.run import CraftResult, craft
from veilkern.data.people import People
from veilkern.data.photos import photo_id
from veilkern.errors import ModelError
from veilkern.methods.method import Fitted, Method, ShowProgress, Spent
from veilkern.networks.face_model import FaceModel
from veilkern.ops._checks import NONCE_BYTES
from veilkern.veils.bank import VeilBank
from veilkern.veils.protect import protect, recover
from veilkern.veils.sealing import keyring_of

FIELDS = tuple(field.name for field in dataclasses.fields(CraftConfig) if field.name not in ("steps", "seed", "scheme"))


def fields_but(*fixed: str) -> tuple[str, ...]:
    """The fields of CraftConfig that a method leaves free."""
    return tuple(name for name in FIELDS if name not in fixed)


class Veiled(Method):
    """A method that `vk.craft` makes. Options: the fields of CraftConfig that FIXED does not hold. DEFAULTS: where the
    method's own differ from CraftConfig's."""

    scope = "person"
    FIXED: ClassVar[dict[str, Any]] = {}
    DEFAULTS: ClassVar[dict[str, Any]] = {}
    OPTIONS = FIELDS

    def prepare(self, steps: int | None, options: dict[str, Any]) -> None:
        given = {} if steps is None else {"steps": steps}
        self.config = CraftConfig(**{**self.DEFAULTS, **self.FIXED, **options, **given, "seed": self.seed})
        self.steps = self.config.steps

    def fit(self, model: FaceModel, crafting: People, progress: ShowProgress) -> Fitted:
        return Crafted(self, model, crafting, progress)


class Veil(Veiled):
    """`veil`: a person's veil, x' = alpha x + (1 - alpha) v (eq. 12), by eq. 13 with L_con: `vk.craft` as it is by
    default, `vk.protect` and `vk.recover` (eq. 14, corrected). Differs from the paper where CraftConfig says so."""

    name = "veil"


class SealedVeil(Veiled):
    """`sealed`: a person's veil under which photos are encrypted, not blended: `vk.craft` with scheme `sealed`.

    Photos are sealed with nonces that follow from the seed and the photo, so that a result can be repeated: the same
    photo is sealed alike twice. `vk.protect` draws fresh ones; use that for photos that matter.
    """

    name = "sealed"
    FIXED: ClassVar[dict[str, Any]] = {"scheme": "sealed"}


class VUap(Veiled):
    """`v-uap`: the paper's comparison (eq. 15): each photo to its own clean feature, no L_var and no L_con; lam, alpha,
    steps and all else as of `veil`. The paper tells no number of steps for it."""

    name = "v-uap"
    FIXED: ClassVar[dict[str, Any]] = {"subspace": "self", "mu": 0.0, "nu": 0.0}
    OPTIONS = fields_but("subspace", "mu", "nu")


class Crafted(Fitted):
    """Veils by craft. bank: the veils. report: craft's. key: the master key, where photos are sealed."""

    def __init__(self, method: Veiled, model: FaceModel, crafting: People, progress: ShowProgress):
        super().__init__(method, model, crafting, progress)
        with self.fitting.timed():
            result = self._craft(crafting)
        self.bank, self.report, self.key = result.bank, result.report, result.key
        self.require_somebody()

    def _craft(self, crafting: People) -> CraftResult:
        result = crafted(self, crafting, self.fitting)
        self.failed = failures(result.report)
        return result

    @property
    def config(self) -> CraftConfig:
        """The configuration that the veils were crafted with."""
        assert isinstance(self.made_by, Veiled)
        return self.made_by.config

    def rows_of(self, people: People) -> torch.Tensor:
        """The veil of each photo, int64 [N]: a row of `bank`."""
        return self.bank.rows(people.names)[people.rows]

    def _protect(self, people: People) -> torch.Tensor:
        rows = self.rows_of(people)
        if self.key is None:
            return protect(people.images, self.bank, rows)
        return sealed_alike(self.made_by.seed, people.images, self.bank, rows, self.key)

    def _recover(self, people: People, protected: torch.Tensor) -> torch.Tensor:
        return recover(protected, self.bank, self.rows_of(people), key=self.key)


def crafted(fitted: Fitted, people: People, spent: Spent) -> CraftResult:
    """craft, of which the passes are added to `spent`. ModelError, with a name, where the network answers nobody."""
    config = fitted.made_by.config  # type: ignore[attr-defined]  # of every method that comes here
    spent.clean_passes += len(people.images)
    try:
        result = craft(fitted.model, people, config, progress=fitted.progress)
    except ModelError as error:
        raise ModelError(f"{fitted.method}: nobody could be fitted; {people.files[0]}: {error}") from error
    spent.passes += sum(image_steps(record, config) for record in result.report)
    return result


def image_steps(record: dict[str, Any], config: CraftConfig) -> int:
    """Photos that went through the network and back for this person's veil."""
    photos, each = record["photos"], config.photos_per_step
    if config.scheme == "blend":
        each = min(each, photos)
    return record["steps"] * (each or photos)


def failures(report: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Whoever has no veil, and why."""
    return {r["name"]: r["status"].removeprefix("failed: ") for r in report if r["status"].startswith("failed")}


def sealed_alike(
    seed: int | None, images: torch.Tensor, bank: VeilBank, rows: torch.Tensor, key: bytes, *, lossless: bool = False
) -> torch.Tensor:
    """Photos sealed with nonces that follow from seed and photo, so that a result can be repeated: the same photo
    is sealed alike twice, which nobody whose photos matter may do (`vk.protect` draws fresh nonces)."""
    keyring = keyring_of("protect", bank, key)
    assert keyring is not None  # the bank is sealed
    keys, levels, rounds, _ = keyring.sealing(rows, rows.device)
    drawn = [hashlib.sha256(f"{seed} {photo_id(image)}".encode()).digest()[:NONCE_BYTES] for image in images]
    nonces = torch.frombuffer(bytearray(b"".join(drawn)), dtype=torch.uint8).view(-1, NONCE_BYTES)
    return ops.seal(images, bank.veils, rows, keys, nonces, levels=levels, rounds=rounds, lossless=lossless)
