"""Folders in, folders out: nothing lost, nothing outside, bad photos passed over."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import veilkern as vk
from veilkern.errors import OutputError, PhotoError
from veilkern.folders import protect_folder, recover_folder
from veilkern.photos import read_photo, read_protected, write_png


@pytest.fixture
def faces(tmp_path, people):
    """The synthetic people on disk."""
    for image, file in zip(people.images, people.files, strict=True):
        path = tmp_path / "faces" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, image)
    return tmp_path / "faces"


def pixels(path):
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)


@pytest.mark.parametrize("lossless", [False, True])
def test_there_and_back(faces, tmp_path, small_bank, people, lossless):
    done = protect_folder(faces, small_bank, tmp_path / "hidden", lossless=lossless)
    assert (done.written, done.problems) == (24, [])
    back = recover_folder(tmp_path / "hidden", small_bank, tmp_path / "back")
    assert (back.written, back.problems) == (24, [])
    for p, name in enumerate(people.names):
        for i, image in enumerate(people.photos(p)):
            hidden = read_protected(tmp_path / "hidden" / name / f"{i:02d}.png", size=(112, 112))
            assert torch.equal(hidden, vk.protect(image[None], small_bank, [name], lossless=lossless)[0])
            error = (pixels(tmp_path / "back" / name / f"{i:02d}.png").int() - image.int()).abs().max()
            assert error == 0 if lossless else error <= 2


def test_gaussian(faces, tmp_path, small_bank, people):
    protect_folder(faces, small_bank, tmp_path / "hidden")
    recover_folder(tmp_path / "hidden", small_bank, tmp_path / "soft", gaussian_sigma=1.0)
    wanted = vk.recover(vk.protect(people.images[:1], small_bank, [0]), small_bank, [0], gaussian_sigma=1.0)[0]
    assert torch.equal(pixels(tmp_path / "soft" / "person-000" / "00.png"), wanted)


def test_bad_photos_and_strangers_are_passed_over(faces, tmp_path, small_bank):
    (faces / "person-001" / "00.png").write_bytes(b"broken")
    Image.new("L", (112, 112)).save(faces / "person-001" / "grey.png")
    (faces / "stranger").mkdir()
    Image.new("RGB", (112, 112)).save(faces / "stranger" / "a.png")
    done = protect_folder(faces, small_bank, tmp_path / "hidden")
    assert done.written == 23
    causes = {p.file.removeprefix(f"{faces}/"): p.cause for p in done.problems}
    assert set(causes) == {"person-001/00.png", "person-001/grey.png", "stranger"} and "no veil" in causes["stranger"]
    assert not (tmp_path / "hidden" / "stranger").exists()
    (tmp_path / "hidden" / "person-002" / "00.png").write_bytes(
        (tmp_path / "hidden" / "person-002" / "00.png").read_bytes()[:900]
    )
    Image.open(tmp_path / "hidden" / "person-002" / "01.png").save(tmp_path / "hidden" / "person-002" / "lossy.jpg")
    back = recover_folder(tmp_path / "hidden", small_bank, tmp_path / "back")
    assert back.written == 22 and sorted(p.file.rpartition("/")[2] for p in back.problems) == ["00.png", "lossy.jpg"]


def test_originals_are_never_overwritten(faces, tmp_path, small_bank):
    before = (faces / "person-000" / "00.png").read_bytes()
    for out in (faces, faces / ".." / "faces"):
        with pytest.raises(OutputError, match="the output folder is the input folder"):
            protect_folder(faces, small_bank, out, overwrite=True)
    (tmp_path / "link").symlink_to(faces)
    with pytest.raises(OutputError, match="the output folder is the input folder"):
        protect_folder(faces, small_bank, tmp_path / "link", overwrite=True)
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "person-000").symlink_to(faces / "person-000")
    done = protect_folder(faces, small_bank, tmp_path / "hidden", overwrite=True)
    assert done.written == 18 and all("out of the output folder" in p.cause for p in done.problems)
    assert (faces / "person-000" / "00.png").read_bytes() == before


def test_outputs_are_kept_unless_overwrite(faces, tmp_path, small_bank):
    protect_folder(faces, small_bank, tmp_path / "hidden")
    first = (tmp_path / "hidden" / "person-000" / "00.png").read_bytes()
    again = protect_folder(faces, small_bank, tmp_path / "hidden", lossless=True)
    assert again.written == 0 and len(again.problems) == 24 and "there already" in again.problems[0].cause
    assert (tmp_path / "hidden" / "person-000" / "00.png").read_bytes() == first
    assert protect_folder(faces, small_bank, tmp_path / "hidden", lossless=True, overwrite=True).written == 24


def test_photos_of_one_stem_do_not_collide(faces, tmp_path, small_bank):
    image = Image.open(faces / "person-000" / "00.png")
    image.save(faces / "person-000" / "00.jpg", quality=95)
    done = protect_folder(faces, small_bank, tmp_path / "hidden")
    names = {p.name for p in (tmp_path / "hidden" / "person-000").iterdir()}
    assert done.written == 25 and {"00.png.png", "00.jpg.png", "01.png"} <= names


def test_a_full_disk_in_the_middle(faces, tmp_path, small_bank, monkeypatch):
    import os

    count, sync = [0], os.fsync

    def full_at_the_end(handle):
        count[0] += 1
        if count[0] > 20:
            raise OSError(28, "No space left on device")
        sync(handle)

    monkeypatch.setattr("veilkern.files.os.fsync", full_at_the_end)
    done = protect_folder(faces, small_bank, tmp_path / "hidden")
    monkeypatch.undo()
    assert 0 < done.written < 24 and done.written + len(done.problems) == 24
    assert all("No space left on device" in p.cause for p in done.problems)
    found = [p for p in (tmp_path / "hidden").rglob("*") if p.is_file()]
    for path in found:  # whole files only
        read_photo(path)
    assert not any(p.suffix == ".tmp" for p in found)


def test_no_input_and_no_output(faces, tmp_path, small_bank):
    with pytest.raises(PhotoError, match="not a folder"):
        protect_folder(tmp_path / "absent", small_bank, tmp_path / "hidden")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be made"):
        protect_folder(faces, small_bank, tmp_path / "file" / "out")


def test_sizes_that_do_not_fit(small_bank):
    photos = torch.zeros((1, 3, 64, 64), dtype=torch.uint8)
    with pytest.raises(ValueError, match="the bank's veils are 112 x 112, the photos 64 x 64"):
        vk.protect(photos, small_bank, [0])
    with pytest.raises(ValueError, match="the bank's veils are 112 x 112"):
        vk.recover(photos, small_bank, [0])
    with pytest.raises(TypeError, match="bank must be a VeilBank"):
        vk.protect(photos, None, [0])
    with pytest.raises(KeyError, match="no veil for nobody"):
        vk.protect(torch.zeros((1, 3, 112, 112), dtype=torch.uint8), small_bank, ["nobody"])
