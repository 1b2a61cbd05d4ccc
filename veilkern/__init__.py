"""veilkern: one veil per person turns that person's photos into noise for people, not for a face-recognition network.

    model = vk.FaceModel.load("net.py:load")
    people = vk.read_people("faces/")
    result = vk.craft(model, people, vk.CraftConfig())
    hidden = vk.protect(people.images, result.bank, people.rows)
    again = vk.recover(hidden, result.bank, people.rows)

Importing it loads nothing that is heavy, not even torch: each name is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from veilkern.aligning.result import Alignment
    from veilkern.aligning.run import align
    from veilkern.auditing.report import write_audit
    from veilkern.auditing.run import Audit, audit
    from veilkern.backends import list_backends, use_backend
    from veilkern.crafting.config import CraftConfig
    from veilkern.crafting.run import CraftInterrupted, CraftResult, craft
    from veilkern.crafting.stream import craft_stream
    from veilkern.data.people import People, iter_people, read_people
    from veilkern.datasets.cluster import Cluster
    from veilkern.datasets.craft import CraftedDataset, craft_dataset
    from veilkern.datasets.protect import protect_dataset
    from veilkern.errors import BackendError, BankError, ModelError, OutputError, PhotoError, VeilkernError
    from veilkern.experiments.run import paper
    from veilkern.networks.ensemble import Ensemble
    from veilkern.networks.face_model import FaceModel
    from veilkern.training.config import TrainConfig
    from veilkern.training.result import TrainResult
    from veilkern.training.run import TrainInterrupted, train
    from veilkern.tuning import tune
    from veilkern.veils.bank import VeilBank, update_bank
    from veilkern.veils.keyed import read_key
    from veilkern.veils.protect import protect, recover
    from veilkern.veils.protector import Protector
    from veilkern.veils.tags import check_tags, tags

__all__ = [
    "Alignment",
    "Audit",
    "BackendError",
    "BankError",
    "Cluster",
    "CraftConfig",
    "CraftInterrupted",
    "CraftResult",
    "CraftedDataset",
    "Ensemble",
    "FaceModel",
    "ModelError",
    "OutputError",
    "People",
    "PhotoError",
    "Protector",
    "TrainConfig",
    "TrainInterrupted",
    "TrainResult",
    "VeilBank",
    "VeilkernError",
    "__version__",
    "align",
    "audit",
    "check_tags",
    "craft",
    "craft_dataset",
    "craft_stream",
    "iter_people",
    "list_backends",
    "paper",
    "protect",
    "protect_dataset",
    "read_key",
    "read_people",
    "recover",
    "tags",
    "train",
    "tune",
    "update_bank",
    "use_backend",
    "write_audit",
]

_PLACES = {
    "Alignment": "aligning.result",
    "Audit": "auditing.run",
    "BackendError": "errors",
    "BankError": "errors",
    "Cluster": "datasets.cluster",
    "CraftConfig": "crafting.config",
    "CraftInterrupted": "crafting.run",
    "CraftResult": "crafting.run",
    "CraftedDataset": "datasets.craft",
    "Ensemble": "networks.ensemble",
    "FaceModel": "networks.face_model",
    "ModelError": "errors",
    "OutputError": "errors",
    "People": "data.people",
    "PhotoError": "errors",
    "Protector": "veils.protector",
    "TrainConfig": "training.config",
    "TrainInterrupted": "training.run",
    "TrainResult": "training.result",
    "VeilBank": "veils.bank",
    "VeilkernError": "errors",
    "align": "aligning.run",
    "audit": "auditing.run",
    "check_tags": "veils.tags",
    "craft": "crafting.run",
    "craft_dataset": "datasets.craft",
    "craft_stream": "crafting.stream",
    "iter_people": "data.people",
    "list_backends": "backends",
    "paper": "experiments.run",
    "protect": "veils.protect",
    "protect_dataset": "datasets.protect",
    "read_key": "veils.keyed",
    "read_people": "data.people",
    "recover": "veils.protect",
    "tags": "veils.tags",
    "train": "training.run",
    "tune": "tuning",
    "update_bank": "veils.bank",
    "use_backend": "backends",
    "write_audit": "auditing.report",
}


if not TYPE_CHECKING:  # or a type checker would believe that there is every name

    def __getattr__(name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name in _PLACES:
            value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
            return value
        try:
            return importlib.import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
