"""Pictures, and files of any bytes, for the tests of photos."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image


def picture(seed=0, size=(112, 112)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.fixture
def file(tmp_path):
    """A file of these bytes."""

    def make(data, name="photo.png"):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return make
