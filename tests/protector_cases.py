"""Photos, veils and kinds of array for the tests of Protector."""

from __future__ import annotations

import threading

import numpy as np
import torch
from helpers import batch

import veilkern as vk
from veilkern import reference
from veilkern.veils import keyed

A, NAMES = 51, ["Ada", "Bill_Clinton", "Cleo"]
KEY = b"the master key of the tests, no secret"


ROWS = torch.tensor([2, 0, 1, 1, 0])


SIZE = (12, 9)


def veils_of(people: int, seed: int = 0) -> torch.Tensor:
    return batch(1, people, 12, seed)[1][:, :, :, :9].contiguous()


def sealed_bank(names=NAMES, *, levels=64, seed=0, key=KEY, **options) -> vk.VeilBank:
    veils = (veils_of(len(names), seed).int() * (256 - levels) // 255).to(torch.uint8)
    options = {"key_id": keyed.key_id(key), "levels": levels} | options
    return vk.VeilBank(veils, list(names), 0, **options)


def carried(bank, hidden, lossless=False, rows=ROWS) -> list[list[int]]:
    """The bits of the nonce that each sealed photo [N, 3, H, W] carries."""
    shown = hidden.to(torch.int32) >> 8 if lossless else hidden.to(torch.int32)
    return ((shown - bank.veils[rows].int()) & 1).flatten(1)[:, :96].tolist()


def laid_back(photos: torch.Tensor, layout: str) -> torch.Tensor:
    return photos.permute(0, 3, 1, 2) if layout == "NHWC" else photos


def wanted(photos, bank, rows=ROWS, lossless=False) -> torch.Tensor:
    return reference.blend(photos, bank.veils, rows, bank.blend, lossless=lossless)


class Foreign:
    """An array of another library: nothing but DLPack."""

    def __init__(self, tensor: torch.Tensor):
        self.tensor = tensor

    def __dlpack__(self, **options):
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


def as_tensor(found) -> torch.Tensor:
    return torch.from_numpy(found) if isinstance(found, np.ndarray) else found


def laid(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    return tensor.permute(0, 2, 3, 1).contiguous() if layout == "NHWC" else tensor.contiguous()


KINDS = {"torch": lambda t: t, "numpy": lambda t: t.numpy(), "dlpack": Foreign}


RESULTS = {"torch": torch.Tensor, "numpy": np.ndarray, "dlpack": torch.Tensor}


WHO = {
    "tensor": ROWS,
    "tensor_strided": torch.stack([ROWS, ROWS], dim=1)[:, 0],
    "tensor_int32": ROWS.int(),
    "list": ROWS.tolist(),
    "tuple": tuple(ROWS.tolist()),
    "array": ROWS.numpy(),
    "array_strided": np.stack([ROWS.numpy()] * 2, axis=1)[:, 0],
    "array_backwards": ROWS.numpy()[::-1].copy()[::-1],
    "array_uint8": ROWS.numpy().astype(np.uint8),
    "array_big_endian": ROWS.numpy().astype(">i8"),
    "dlpack": Foreign(ROWS),
    "names": [NAMES[row] for row in ROWS],
    "names_tuple": tuple(NAMES[row] for row in ROWS),
    "names_array": np.array([NAMES[row] for row in ROWS]),
    "mixed_integers": [np.int64(2), 0, torch.tensor(1), 1, 0],
}


def together(*works) -> None:
    """Run works at once; what any of them raises is raised here."""
    errors: list[BaseException] = []

    def run(work):
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
