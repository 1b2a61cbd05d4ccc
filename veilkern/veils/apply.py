"""What protect and recover share, as functions and of a Protector: photos in, photos out, by the short or the long way.

The short way (`direct.py`) takes plain calls on the CPU; the long way takes every other, and has all the checks.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch

from veilkern.veils.arrays import like, output_of, photos_of
from veilkern.veils.bank import VeilBank
from veilkern.veils.direct import direct
from veilkern.veils.resident import Resident
from veilkern.veils.rows import rows_of
from veilkern.veils.sealing import Keyring
from veilkern.veils.task import Task


class Veils(Protocol):
    """Where a call finds the veils of its bank; keyring: their keys, where it is sealed."""

    keyring: Keyring | None

    def on_cpu(self) -> Resident | None:
        """The veils for photos on the CPU, where they are read from there and the short way can be tried."""

    def run(
        self, task: Task, photos: torch.Tensor, rows: torch.Tensor, option: Any, out: torch.Tensor | None
    ) -> torch.Tensor:
        """The op over photos [N, 3, H, W] on any device; rows are on theirs."""


def apply(task: Task, images: Any, bank: VeilBank, veils: Veils, who: Any, out: Any, option: Any, layout: str) -> Any:
    """Protected or recovered photos, in the kind of array and layout of the photos; see `protect.py`."""
    if type(images) is np.ndarray or (type(images) is torch.Tensor and images.is_cpu):
        here = veils.on_cpu()
        found = None if here is None else direct(task, bank, here, veils.keyring, images, who, out, option, layout)
        if found is not None:
            return found
    photos, target = (
        photos_of(task.name, task.photos, images, layout, bank.size),
        output_of(task.name, out, layout),
    )
    rows = rows_of(task.name, who, bank, len(photos) if photos.ndim else 0, photos.device)
    found = veils.run(task, photos, rows, option, target)
    return like(images, found, layout) if out is None else out
