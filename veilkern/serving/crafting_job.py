"""The work of one job, from photos or features to the bank's file."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import safetensors.torch
import torch

from veilkern.crafting.config import CraftConfig
from veilkern.crafting.run import craft, describe, key_of_before
from veilkern.data.people import People
from veilkern.errors import BankError
from veilkern.networks.ensemble import Ensemble
from veilkern.networks.face_model import FaceModel
from veilkern.serving import history
from veilkern.serving.jobs import Job
from veilkern.serving.settings import Settings
from veilkern.veils import keyed
from veilkern.veils.bank import VeilBank, update_bank
from veilkern.veils.compatibility import begun_as, current, refuse_differences

_TELL = 0.2  # seconds between two reports of progress


def pack(names: Sequence[str], tensors: dict[str, torch.Tensor]) -> bytes:
    """What a job reads: of each photo uint8 [n, 3, H, W] (or feature float [n, d]) the person's name."""
    return safetensors.torch.save(tensors, {"names": json.dumps(list(names))})


def unpack(data: bytes) -> tuple[list[str], dict[str, torch.Tensor]]:
    """The opposite of `pack`."""
    length = int.from_bytes(data[:8], "little")
    about = json.loads(data[8 : 8 + length])["__metadata__"]
    return json.loads(about["names"]), safetensors.torch.load(data)


def network_of(settings: Settings) -> FaceModel:
    """The network to craft with, or the ensemble of several."""
    networks = [FaceModel.load(name, **settings.model_input) for name in settings.model]
    return networks[0] if len(networks) == 1 else Ensemble(networks, list(settings.weights) or None)


def check_network(settings: Settings) -> None:
    """ValueError unless the network and the keys of these settings are those that the bank was crafted with."""
    bank = VeilBank.load(settings.bank, mmap=True, check=False)
    _how(settings, bank, network_of(settings))


def _how(settings: Settings, bank: VeilBank, network: FaceModel) -> tuple[CraftConfig, bytes | None]:
    """Configuration and key to craft more veils for this bank, as it was crafted."""
    known = {field.name for field in dataclasses.fields(CraftConfig)}
    config = CraftConfig(**{name: value for name, value in current(bank.config).items() if name in known - {"seed"}})
    begun = begun_as(bank)
    keys = {keyed.key_id(key): key for key in map(keyed.read_key, settings.key_files)}
    if not bank.key_id and len(bank):
        raise ValueError(f"{settings.bank}: its veils come from several keys, and a new one would be of which?")
    key, config = key_of_before(str(settings.bank), begun, keys.get(bank.key_id), config)
    refuse_differences(str(settings.bank), begun, describe(network, bank.size, config, key))
    return config, key


class Work:
    """One job. tell: writes how it stands. heed: raises where it is asked to end."""

    def __init__(self, job: Job, settings: Settings, tell: Callable[..., None], heed: Callable[[], None]):
        self.job, self.settings, self.tell, self.heed = job, settings, tell, heed
        self._told = 0.0

    def run(self, data: bytes) -> None:
        """Craft, and change the bank. Raises whatever goes wrong."""
        names, tensors = unpack(data)
        bank, network = VeilBank.load(self.settings.bank), network_of(self.settings)
        config, key = _how(self.settings, bank, network)
        people = list(dict.fromkeys(names))
        history.load_old(self.settings.bank, bank)  # before the work: what is wrong with it would stop its end
        generations = self._generations(bank, people)
        options: dict[str, Any] = {"key": key, "generation": generations}
        if "features" in tensors:
            options |= {"features": tensors["features"], "names": names}
        else:
            options["people"] = _people(names, tensors["photos"])
        made = craft(network, config=config, progress=self._progress, **options)
        self.job.people = [{"name": record["name"], "status": record["status"]} for record in made.report]
        if len(made.bank):
            path = self.settings.bank
            update_bank(path, lambda now: self._changed(now, bank, made.bank, generations), wait=history.WAIT)
        failed = [record for record in made.report if record["status"].startswith("failed")]
        if failed:
            self.tell(status="failed", detail=f"{len(failed)} of {len(people)} have no veil; the others have")
        else:
            self.tell(status="done")

    def _generations(self, bank: VeilBank, people: list[str]) -> dict[str, int]:
        """Of each person that of the new veil: one that there has not been, under the name that keys it."""
        keyed = {name: history.keyed_as(bank, name) if self.job.kind == "rotate" else name for name in people}
        found = history.next_generations(self.settings.bank, bank, keyed.values())
        return {name: found[own] for name, own in keyed.items()}

    def _changed(self, now: VeilBank | None, met: VeilBank, made: VeilBank, generations: dict[str, int]) -> VeilBank:
        """The bank with the new veils, under its lock; those that they take the place of are kept beside it first.
        ValueError where somebody else has changed these persons since the bank was met."""
        path = self.settings.bank
        if now is None:
            raise BankError(f"{path}: no such veil file any more")
        if self._generations(now, made.names) != {name: generations[name] for name in made.names}:
            raise ValueError("somebody else has changed these persons' veils meanwhile: ask again")
        if self.job.kind == "add":
            return now.join(made)
        if any(not torch.equal(now.veils[now.rows([n])], met.veils[met.rows([n])]) for n in made.names):
            raise ValueError("somebody else has changed these persons' veils meanwhile: ask again")
        history.keep(path, now, made.names)
        return now.join(made, replace=True)

    def _progress(self, done: int, total: int) -> None:
        self.heed()
        if time.monotonic() - self._told > _TELL or done == total:
            self._told = time.monotonic()
            self.tell(done=done, total=total)


def _people(names: Sequence[str], photos: torch.Tensor) -> People:
    order = list(dict.fromkeys(names))
    own = [[place for place, name in enumerate(names) if name == person] for person in order]
    return People.from_images([photos[places] for places in own], order)
