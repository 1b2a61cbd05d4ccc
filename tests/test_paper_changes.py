"""What protected photos meet on their way: each change is what it says, and nobody's depends on who else is there."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import median_filter

from veilkern.experiments.changes import LEVELS, change, jpeg

KINDS = [(kind, level) for kind, (_, levels) in LEVELS.items() for level in levels]


def photos(count: int = 3, height: int = 40, width: int = 36, seed: int = 0) -> torch.Tensor:
    """Smooth photos, uint8 [count, 3, height, width]."""
    coarse = torch.rand((count, 3, 5, 5), generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    return (fine * 255).round().to(torch.uint8)


MARKS = ["a", "b", "c"]


@pytest.mark.parametrize("kind,level", KINDS)
def test_the_same_again_and_whoever_else_is_there(kind, level):
    given = photos()
    kept = given.clone()
    found = change(given, kind, level, MARKS, 7)
    assert found.dtype == torch.uint8 and found.shape == given.shape and torch.equal(given, kept)
    assert torch.equal(found, change(given, kind, level, MARKS, 7))
    assert torch.equal(found[1:2], change(given[1:2], kind, level, MARKS[1:2], 7))
    assert torch.equal(found, change(given.to(memory_format=torch.channels_last), kind, level, MARKS, 7))
    assert change(given[:0], kind, level, [], 7).shape == (0, 3, 40, 36)
    if kind != "none":
        assert not torch.equal(found, given)
    drawn = kind in ("Gaussian noise", "salt and pepper")
    assert drawn == (not torch.equal(found, change(given, kind, level, MARKS, 8)))
    assert drawn == (not torch.equal(found, change(given, kind, level, ["x", "y", "z"], 7)))


@pytest.mark.parametrize("sigma", [5, 20, 60])
def test_gaussian_noise_has_that_sigma(sigma):
    grey = torch.full((2, 3, 112, 112), 128, dtype=torch.uint8)
    off = change(grey, "Gaussian noise", sigma, ["a", "b"], 0).double() - 128
    clipped = torch.distributions.Normal(0.0, float(sigma)).sample((1_000_000,)).round().clamp(-128, 127)
    assert abs(off.mean()) < 0.03 * sigma and off.std().item() == pytest.approx(clipped.std().item(), rel=0.02)
    assert abs(torch.corrcoef(off.flatten(1))[0, 1]) < 0.02


def test_more_noise_is_the_same_noise_larger():
    grey = torch.full((1, 3, 30, 30), 128, dtype=torch.uint8)
    small, large = (change(grey, "Gaussian noise", sigma, ["a"], 0).double() - 128 for sigma in (10, 30))
    assert (large - 3 * small).abs().max() <= 2


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 1.0])
def test_salt_and_pepper_hits_that_share_of_whole_pixels(share):
    grey = torch.full((2, 3, 112, 112), 128, dtype=torch.uint8)
    found = change(grey, "salt and pepper", share, ["a", "b"], 0)
    hit = (found != 128).all(1)
    assert torch.equal(hit, (found != 128).any(1)) and hit.double().mean().item() == pytest.approx(share, abs=0.01)
    assert set(found.unique().tolist()) <= {0, 128, 255}
    if share:
        assert (found[:, 0][hit] == 255).double().mean().item() == pytest.approx(0.5, abs=0.03 / share**0.5)


@pytest.mark.parametrize("side", [3, 5, 7])
def test_median_is_scipys(side):
    given = photos()
    wanted = np.stack([[median_filter(p, side, mode="nearest") for p in photo] for photo in given.numpy()])
    assert np.array_equal(change(given, "median filter", side, MARKS, 0).numpy(), wanted)


@pytest.mark.parametrize("quality,chroma", [(90, "4:2:0"), (50, "4:4:4"), (30, "4:2:2")])
def test_jpeg_is_pillows(quality, chroma):
    given = photos()
    found = jpeg(given, quality, chroma)
    for photo, back in zip(given, found, strict=True):
        file = io.BytesIO()
        image = Image.fromarray(photo.permute(1, 2, 0).numpy())
        image.save(file, "JPEG", quality=quality, subsampling=chroma)
        assert np.array_equal(np.array(Image.open(file)), back.permute(1, 2, 0).numpy())
    if chroma == "4:2:0":
        assert torch.equal(found, change(given, "JPEG", quality, MARKS, 0))


def test_resizing_keeps_what_is_flat_and_loses_what_is_fine():
    flat = torch.full((1, 3, 32, 32), 77, dtype=torch.uint8)
    assert torch.equal(change(flat, "resize", 0.5, ["a"], 0), flat)
    board = torch.zeros((1, 3, 32, 32), dtype=torch.uint8)
    board[:, :, ::2, ::2] = board[:, :, 1::2, 1::2] = 200
    assert (change(board, "resize", 0.5, ["a"], 0) == 100).all()


@pytest.mark.parametrize("by", [1, 2, 4])
def test_a_shift_moves_right_and_down(by):
    given = photos()
    found = change(given, "shift", by, MARKS, 0)
    assert torch.equal(found[:, :, by:, by:], given[:, :, :-by, :-by])
    assert torch.equal(found[:, :, :by, by:], given[:, :, :1, :-by].expand(-1, -1, by, -1))


@pytest.mark.parametrize(
    "kind,level,words",
    [
        ("blur", 1, "kind must be one of none"),
        ("none", 1, "level of none"),
        ("median filter", 4, "level of median filter"),
        ("median filter", 0, "level of median filter"),
        ("median filter", -1, "level of median filter"),
        ("resize", 1.1, "level of resize"),
        ("JPEG", 96, "level of JPEG"),
        ("shift", -1, "level of shift"),
        ("salt and pepper", -0.1, "level of salt and pepper"),
        ("JPEG", 0, "level of JPEG"),
        ("JPEG", 50.5, "level of JPEG"),
        ("resize", 0, "level of resize"),
        ("salt and pepper", 1.5, "level of salt and pepper"),
        ("Gaussian noise", -1, "level of Gaussian noise"),
        ("shift", 0.5, "level of shift"),
    ],
)
def test_levels_that_mean_nothing_are_refused(kind, level, words):
    with pytest.raises(ValueError, match=words):
        change(photos(), kind, level, MARKS, 0)


def test_marks_are_one_a_photo():
    with pytest.raises(ValueError, match="marks must have 3 entries"):
        change(photos(), "none", 0, ["a"], 0)


@pytest.mark.parametrize(
    "kind,level", [("Gaussian noise", 0), ("salt and pepper", 0), ("median filter", 1), ("resize", 1), ("shift", 0)]
)
def test_the_least_level_changes_nothing(kind, level):
    assert torch.equal(change(photos(), kind, level, MARKS, 0), photos())


@pytest.mark.parametrize(
    "kind,level",
    [("Gaussian noise", 0.5), ("salt and pepper", 1), ("JPEG", 1), ("JPEG", 95), ("resize", 0.001), ("shift", 40)],
)
def test_levels_up_to_the_last_that_means_something(kind, level):
    found = change(photos(), kind, level, MARKS, 0)
    assert not torch.equal(found, photos())
    if kind == "resize":  # to one pixel
        assert all(len(plane.unique()) == 1 for photo in found for plane in photo)
    if kind == "shift":  # the corner alone is left
        assert torch.equal(found, photos()[:, :, :1, :1].expand(-1, -1, 40, 36))


def test_the_levels_of_the_paper_are_tried():
    """Fig. 7's sigmas, and the shares and sides that the issue names."""
    tried = {kind: levels for kind, (_, levels) in LEVELS.items()}
    assert tried["Gaussian noise"] == tuple(range(20, 161, 20)) and tried["none"] == (0,)
    assert tried["salt and pepper"] == (0.05, 0.10, 0.15, 0.20, 0.25, 0.30) and tried["median filter"] == (3, 5, 7)
    assert tried["JPEG"] == (90, 75, 50, 30) and tried["resize"] == (0.75, 0.5, 0.375) and tried["shift"] == (1, 2, 4)
