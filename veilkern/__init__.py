"""veilkern: one veil per person turns that person's photos into noise for people, not for a face-recognition network.

    model = vk.FaceModel.load("net.py:load")
    people = vk.read_people("faces/")
    result = vk.craft(model, people, vk.CraftConfig())
    hidden = vk.protect(people.images, result.bank, people.rows)
    again = vk.recover(hidden, result.bank, people.rows)

Importing it loads torch and nothing else that is heavy: no kernel module, no CUDA, no Triton.
"""

__version__ = "0.1.0"

from veilkern.backends import list_backends, use_backend
from veilkern.config import CraftConfig
from veilkern.craft import CraftInterrupted, CraftResult, craft
from veilkern.embedder import FaceModel
from veilkern.errors import BackendError, BankError, ModelError, OutputError, PhotoError, VeilkernError
from veilkern.keyed import read_key
from veilkern.people import People, read_people
from veilkern.protect import protect, recover
from veilkern.tuning import tune
from veilkern.veils import VeilBank, update_bank

__all__ = [
    "BackendError",
    "BankError",
    "CraftConfig",
    "CraftInterrupted",
    "CraftResult",
    "FaceModel",
    "ModelError",
    "OutputError",
    "People",
    "PhotoError",
    "VeilBank",
    "VeilkernError",
    "__version__",
    "craft",
    "list_backends",
    "protect",
    "read_key",
    "read_people",
    "recover",
    "tune",
    "update_bank",
    "use_backend",
]
