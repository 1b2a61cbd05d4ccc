"""Sealed banks, photos and their folders, for the tests of folders and of rotate; the fixtures are taken by import."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import veilkern as vk
from veilkern.cli import app
from veilkern.data.photos import read_photo, write_png
from veilkern.veils import keyed
from veilkern.veils.folders import protect_folder, recover_folder

KEY, OTHER = b"the master key of the tests, no secret", b"another master key of the tests"
NAMES, SIDE, PHOTOS = ["Ada", "Bill"], 24, 3


def bank_of(seed: int = 0, key: bytes = KEY, levels: int = 64) -> vk.VeilBank:
    veils = np.random.default_rng(seed).integers(0, 257 - levels, (2, 3, SIDE, SIDE), dtype=np.uint8)
    return vk.VeilBank(torch.from_numpy(veils), NAMES, 0, key_id=keyed.key_id(key), levels=levels)


@pytest.fixture(scope="module")
def bank() -> vk.VeilBank:
    return bank_of()


@pytest.fixture
def faces(tmp_path):
    rng = np.random.default_rng(7)
    for name in NAMES:
        (tmp_path / "faces" / name).mkdir(parents=True)
        for i in range(PHOTOS):
            pixels = torch.from_numpy(rng.integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8))
            write_png(tmp_path / "faces" / name / f"{i}.png", pixels)
    return tmp_path / "faces"


def photos_in(folder) -> dict:
    return {p.relative_to(folder).as_posix(): p for p in sorted(folder.glob("*/*.png"))}


def pixels_of(path) -> torch.Tensor:
    return read_photo(path, size=(SIDE, SIDE))[0]


@pytest.fixture
def hidden(faces, bank, tmp_path):
    """Sealed in 16 bit, so that what is recovered is what was there."""
    outcome = protect_folder(faces, bank, tmp_path / "hidden", key=KEY, lossless=True)
    assert (outcome.written, outcome.problems) == (6, [])
    return tmp_path / "hidden"


def require_recovered(folder, faces, bank, key, tmp_path) -> None:
    out = tmp_path / f"back-{len(list(tmp_path.iterdir()))}"
    outcome = recover_folder(folder, bank, out, key=key)
    assert (outcome.written, outcome.problems, outcome.notices) == (6, [], [])
    for name, path in photos_in(faces).items():
        assert torch.equal(pixels_of(out / name), pixels_of(path))


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture
def on_disk(bank, tmp_path):
    """A bank as craft leaves it: its key beside it."""
    path = tmp_path / "veils.safetensors"
    bank.save(path)
    for name, key in (("veils.safetensors.key", KEY), ("other.key", OTHER)):
        (tmp_path / name).write_bytes(key)
        (tmp_path / name).chmod(0o600)
    return path
