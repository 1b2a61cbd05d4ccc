"""unseal: what comes back, how near, and that anything wrong gives noise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from veilkern import ops
from veilkern.testing.making import bytes8, sealable_photos


@pytest.mark.parametrize("levels,rounds", list(itertools.product((16, 32, 64, 128), (12, 20))))
def test_what_comes_back(path, levels, rounds):
    """Within 128 / levels, at the first 96 values twice that; exactly from 16 bit; and 8 bit is 16 bit cut short."""
    made = sealable_photos(4, 3, 10, 11, levels=levels)
    how = {"levels": levels, "rounds": rounds}
    again = {name: made[name] for name in ("veils", "rows", "keys")} | how
    wide = ops.seal(**made, **how, lossless=True)
    assert torch.equal(ops.unseal(wide, **again), made["images"])
    hidden = ops.seal(**made, **how)
    assert torch.equal(hidden, (wide.to(torch.int32) >> 8).to(torch.uint8))
    error = (ops.unseal(hidden, **again).int() - made["images"].int()).abs().flatten(1)
    assert error[:, 96:].max() <= 128 // levels and error.max() <= 256 // levels
    assert error[:, 96:].max() == 128 // levels  # the bound is reached


def test_the_least_of_all_errors_is_made():
    """Every value, at every level: what comes back is the middle of all that it may have been."""
    for levels in (16, 32, 64, 128):
        x = torch.arange(256, dtype=torch.uint8).repeat(3)[None, :, None].reshape(1, 3, 16, 16)
        made = sealable_photos(1, 1, 16, 16, levels=levels) | {"images": x}
        back = ops.unseal(ops.seal(**made, levels=levels), made["veils"], made["rows"], made["keys"], levels=levels)
        wide = 256 // levels
        wanted = x.int() // wide * wide + wide // 2
        assert torch.equal(back.flatten()[96:].int(), wanted.flatten()[96:])


@pytest.mark.parametrize("change", ["keys", "veils", "nonce"])
def test_anything_wrong_gives_noise(change):
    """Another key, veil or a changed bit of the carried nonce: not an error, and nothing of the photo either."""
    made = sealable_photos(2, 2, 24, 24)
    made["images"][:] = torch.arange(24 * 8, 24 * 16, 8, dtype=torch.uint8)
    hidden = ops.seal(**made)
    again = {name: made[name].clone() for name in ("veils", "rows", "keys")}
    if change == "nonce":
        hidden[:, 0, 0, 5] = made["veils"][made["rows"], 0, 0, 5] + (
            (hidden - made["veils"][made["rows"]])[:, 0, 0, 5] ^ 1
        )
    else:
        again[change] = bytes8(*again[change].shape, seed=99)
    found = ops.unseal(hidden, **again).double().flatten(1)
    truth = made["images"].double().flatten(1)
    for a, b in zip(found, truth, strict=True):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.1


def test_in_place_in_any_layout(path):
    """Each photo's nonce is read before anything of it is overwritten."""
    for layout in (torch.contiguous_format, torch.channels_last):
        made = sealable_photos(6, 3, 16, 20)
        again = {name: made[name] for name in ("veils", "rows", "keys")}
        hidden = ops.seal(**made).contiguous(memory_format=layout)
        wanted = ops.unseal(hidden.clone(memory_format=torch.preserve_format), **again)
        assert ops.unseal(hidden, **again, out=hidden) is hidden and torch.equal(hidden, wanted)
