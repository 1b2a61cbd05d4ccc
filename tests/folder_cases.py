"""People of noise on disk and a bank of random veils, for the tests of folders; the fixtures are taken by import."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import veilkern as vk
from veilkern.data.photos import write_png


@pytest.fixture(scope="module")
def people():
    """Four people of 6 random photos: what is told here has nothing to do with faces."""
    images = np.random.default_rng(0).integers(0, 256, (4, 6, 3, 112, 112), dtype=np.uint8)
    return vk.People.from_images(list(torch.from_numpy(images)), [f"person-{i:03d}" for i in range(4)])


@pytest.fixture(scope="module")
def small_bank(people):
    """Random veils."""
    veils = np.random.default_rng(1).integers(0, 256, (4, 3, 112, 112), dtype=np.uint8)
    return vk.VeilBank(torch.from_numpy(veils), people.names, 51)


@pytest.fixture
def faces(tmp_path, people):
    """The people on disk."""
    for image, file in zip(people.images, people.files, strict=True):
        path = tmp_path / "faces" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, image)
    return tmp_path / "faces"


def contents(folder):
    """The bytes of every file."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def pixels(path):
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
