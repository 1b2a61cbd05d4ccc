"""blend_normalize: the network's input, channel order and statistics folded in."""

from __future__ import annotations

import pytest
import torch

from veilkern import ops


@pytest.mark.parametrize("bgr", [False, True])
@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 1e-6), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_values(bgr, dtype, tolerance, generator):
    images = torch.randint(0, 256, (4, 3, 6, 5), dtype=torch.uint8, generator=generator)
    veils = torch.rand(2, 3, 6, 5, generator=generator)
    rows, mean, std = torch.tensor([1, 0, 1, 1]), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    found = ops.blend_normalize(images, veils, rows, 51, mean=mean, std=std, bgr=bgr, dtype=dtype)
    assert found.dtype == dtype and found.is_contiguous(memory_format=torch.channels_last)
    for i in range(4):
        for c in range(3):
            source = 2 - c if bgr else c
            wanted = (0.2 * images[i, source].double() / 255 + 0.8 * veils[rows[i], source].double() - mean[c]) / std[c]
            torch.testing.assert_close(found[i, c].double(), wanted, atol=tolerance, rtol=tolerance)


def test_empty_and_wrong_arguments():
    images, veils = torch.zeros(0, 3, 4, 4, dtype=torch.uint8), torch.rand(1, 3, 4, 4)
    none = torch.zeros(0, dtype=torch.int64)
    assert ops.blend_normalize(images, veils, none, 51, mean=(0,) * 3, std=(1,) * 3).shape == (0, 3, 4, 4)
    with pytest.raises(ValueError, match="mean must be three numbers"):
        ops.blend_normalize(images, veils, none, 51, mean=(0,), std=(1,) * 3)
    with pytest.raises(ValueError, match="std must not be zero"):
        ops.blend_normalize(images, veils, none, 51, mean=(0,) * 3, std=(1, 0, 1))
    with pytest.raises(TypeError, match="dtype must be float32"):
        ops.blend_normalize(images, veils, none, 51, mean=(0,) * 3, std=(1,) * 3, dtype=torch.int32)
    with pytest.raises(ValueError, match="rows must lie in"):
        ops.blend_normalize(
            torch.zeros(1, 3, 4, 4, dtype=torch.uint8), veils, torch.tensor([3]), 51, mean=(0,) * 3, std=(1,) * 3
        )
