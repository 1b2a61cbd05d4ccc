"""Reading photos and folders of them: everything that users get wrong."""

from __future__ import annotations

import io
import os
import stat
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

import veilkern as vk
from veilkern.errors import OutputError, PhotoError
from veilkern.files import atomic_write, inside
from veilkern.photos import encode_png, read_photo, read_protected, write_png


def picture(seed=0, size=(112, 112)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


@pytest.fixture
def photo(tmp_path):
    """Save a picture made by `change` and return its path."""

    def make(change=lambda p: p, name="photo.png", **options):
        path = tmp_path / name
        change(picture()).save(path, **options)
        return path

    return make


def test_a_good_photo_comes_as_it_is(photo):
    image, notices = read_photo(photo())
    assert torch.equal(image, torch.from_numpy(np.array(picture())).permute(2, 0, 1)) and notices == []


@pytest.mark.parametrize(
    "change,name,words",
    [
        (lambda p: p.convert("L"), "grey.png", "greyscale photo"),
        (lambda p: p.convert("RGBA"), "alpha.png", "RGBA photo"),
        (lambda p: p.convert("P"), "palette.png", "palette photo"),
        (lambda p: p.convert("CMYK"), "print.jpg", "CMYK photo"),
        (lambda p: p.convert("LA"), "la.png", "greyscale photo with transparency"),
        (lambda p: p.convert("1"), "bits.png", "black-and-white photo"),
        (lambda p: Image.fromarray(np.full((112, 112), 40000, np.uint16)), "deep.png", "16-bit photo"),
    ],
)
def test_other_kinds_are_refused_or_converted(photo, change, name, words):
    path = photo(change, name)
    with pytest.raises(PhotoError, match=words) as caught:
        read_photo(path)
    assert str(path) in str(caught.value) and "convert" in str(caught.value)
    image, notices = read_photo(path, convert=True)
    assert image.shape == (3, 112, 112) and image.dtype == torch.uint8 and "converted" in notices[0]
    if name == "deep.png":
        assert (image == round(40000 / 257)).all()


def test_16_bit_colour_is_noticed_although_pillow_is_silent(tmp_path):
    path = tmp_path / "deep.png"
    write_png(path, (torch.arange(3 * 112 * 112).view(3, 112, 112) % 65026).to(torch.uint16))
    with pytest.raises(PhotoError, match="16-bit photo"):
        read_photo(path)


def test_size(photo):
    path = photo(lambda p: p.resize((100, 90)))
    with pytest.raises(PhotoError, match=r"90 x 100 pixels \(height x width\), wanted 112 x 112"):
        read_photo(path)
    image, notices = read_photo(path, resize=True)
    assert image.shape == (3, 112, 112) and "resized from 90 x 100" in notices[0]


def test_exif_orientation_is_applied(tmp_path):
    original = picture()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    original.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    image, notices = read_photo(tmp_path / "turned.png")
    assert torch.equal(image, torch.from_numpy(np.array(original)).permute(2, 0, 1))
    assert notices == ["turned upright by its EXIF orientation"]


def test_damaged_files(photo, tmp_path):
    for name, options in (("a.png", {}), ("a.jpg", {"quality": 95}), ("a.webp", {"lossless": True})):
        whole = photo(name=name, **options).read_bytes()
        for part in (b"", whole[:10], whole[: len(whole) // 2], b"not a picture at all"):
            path = tmp_path / f"broken-{name}"
            path.write_bytes(part)
            with pytest.raises(PhotoError, match="empty|not a PNG|corrupt|truncated") as caught:
                read_photo(path)
            assert str(path) in str(caught.value)
    flipped = bytearray(photo(name="b.png").read_bytes())
    flipped[len(flipped) // 2] ^= 0xFF
    (tmp_path / "flipped.png").write_bytes(bytes(flipped))
    with pytest.raises(PhotoError):
        read_photo(tmp_path / "flipped.png")
    with pytest.raises(PhotoError, match="not a file"):
        read_photo(tmp_path / "absent.png")
    with pytest.raises(PhotoError, match="not a file"):
        read_photo(tmp_path)


def test_a_bomb_and_an_animation(tmp_path):
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", 0)
        + b"IDAT"
        + struct.pack(">I", zlib.crc32(b"IDAT"))
    )
    with pytest.raises(PhotoError, match="far too many pixels"):
        read_photo(tmp_path / "bomb.png")
    picture().save(tmp_path / "moving.webp", save_all=True, append_images=[picture(1)], lossless=True)
    with pytest.raises(PhotoError, match="animation"):
        read_photo(tmp_path / "moving.webp")


@pytest.mark.parametrize("dtype,top", [(torch.uint8, 256), (torch.uint16, 65026)])
def test_png_round_trip(tmp_path, dtype, top):
    pixels = torch.randint(0, top, (3, 20, 30)).to(dtype)
    write_png(tmp_path / "p.png", pixels)
    assert torch.equal(read_protected(tmp_path / "p.png", size=(20, 30)), pixels)
    with pytest.raises(PhotoError, match="wanted 30 x 20"):
        read_protected(tmp_path / "p.png", size=(30, 20))


def test_protected_must_be_whole_png(tmp_path):
    picture().save(tmp_path / "lossy.jpg")
    with pytest.raises(PhotoError, match="lossy compression ruins"):
        read_protected(tmp_path / "lossy.jpg", size=(112, 112))
    whole = encode_png(torch.zeros((3, 112, 112), dtype=torch.uint16))
    for cut in (30, len(whole) // 2, len(whole) - 20):
        (tmp_path / "cut.png").write_bytes(whole[:cut])
        with pytest.raises(PhotoError, match="corrupt or truncated"):
            read_protected(tmp_path / "cut.png", size=(112, 112))


def make_folder_with_mistakes(root):
    """Two good persons among everything that can go wrong; returns how many usable photos there are."""
    for name, count, first in (("ann", 3, 20), ("bob", 2, 30)):
        (root / name).mkdir(parents=True)
        for i in range(count):
            picture(first + i).save(root / name / f"{i}.png")
    (root / "ann" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n truncated")
    picture().convert("L").save(root / "ann" / "grey.png")
    picture().resize((50, 50)).save(root / "bob" / "small.png")
    (root / "bob" / "notes.txt").write_text("not a photo")
    (root / "bob" / "Thumbs").mkdir()
    (root / "empty").mkdir()
    (root / "only-bad").mkdir()
    (root / "only-bad" / "x.jpg").write_bytes(b"")
    (root / "single").mkdir()
    picture(7).save(root / "single" / "one.png")
    picture(8).save(root / "loose.png")
    picture(9).save(root / "bob" / "twin-a.png")
    picture(9).save(root / "bob" / "twin-b.png")
    (root / ".hidden").mkdir()
    (root / "a:b").mkdir()
    return 3 + 4 + 1


def test_a_folder_with_mistakes(tmp_path):
    usable = make_folder_with_mistakes(tmp_path)
    people = vk.read_people(tmp_path)
    assert people.names == ["ann", "bob", "single"] and len(people.images) == usable
    causes = {problem.file.removeprefix(f"{tmp_path}/"): problem.cause for problem in people.problems}
    assert set(causes) == {
        "ann/broken.png",
        "ann/grey.png",
        "bob/small.png",
        "bob/Thumbs",
        "empty",
        "only-bad",
        "only-bad/x.jpg",
        "loose.png",
        repr(f"{tmp_path}/a:b"),
    }
    assert "greyscale" in causes["ann/grey.png"] and "50 x 50" in causes["bob/small.png"]
    notices = "\n".join(map(str, people.notices))
    assert "one photo only" in notices and "the same picture as twin-a.png" in notices and "notes.txt" in notices
    more = vk.read_people(tmp_path, resize=True, convert=True)
    assert len(more.images) == usable + 2


def test_no_folder_and_no_photo(tmp_path):
    with pytest.raises(PhotoError, match="not a folder"):
        vk.read_people(tmp_path / "absent")
    (tmp_path / "ann").mkdir()
    with pytest.raises(PhotoError, match="no usable photo"):
        vk.read_people(tmp_path)


def test_people_take_and_split():
    images = [torch.full((n, 3, 4, 4), n, dtype=torch.uint8) for n in (3, 1, 5)]
    people = vk.People.from_images(images, ["a", "b", "c"])
    assert people.counts.tolist() == [3, 1, 5] and people.rows.tolist() == [0] * 3 + [1] + [2] * 5
    first, last = people.split(2)
    assert first.counts.tolist() == [1, 1, 3] and last.names == ["a", "c"] and last.counts.tolist() == [2, 2]
    assert people.take([0, 8]).names == ["a", "c"] and len(people.photos("c")) == 5
    with pytest.raises(ValueError, match="held_out must be 0 or more"):
        people.split(-1)


@pytest.mark.parametrize(
    "change,words",
    [
        ({"images": torch.zeros(2, 3, 4, 4)}, "images must be uint8"),
        ({"offsets": torch.tensor([0, 1])}, "offsets must rise from 0 to 2"),
        ({"names": ["a", "b"]}, "offsets must be int64 \\[3\\]"),
        ({"files": []}, "files must have 2 entries"),
    ],
)
def test_people_refuse_nonsense(change, words):
    good = {
        "images": torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
        "offsets": torch.tensor([0, 2]),
        "names": ["a"],
        "files": ["x", "y"],
    }
    with pytest.raises(ValueError, match=words):
        vk.People(**(good | change))


def test_atomic_write_keeps_the_old_file_when_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic_write(path, b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("veilkern.files.os.fsync", full)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        atomic_write(path, b"new")
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_modes_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "photo", b"x")
        atomic_write(tmp_path / "veil", b"x", mode=0o600)
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("photo", "veil")] == [0o640, 0o600]


def test_atomic_write_cleans_up_on_interrupt(tmp_path, monkeypatch):
    def stop(handle):
        raise KeyboardInterrupt

    monkeypatch.setattr("veilkern.files.os.fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_no_such_output_folder(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        atomic_write(tmp_path / "file" / "x", b"")


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "a\\b", "/etc", "c:x", "nul\0", "x" * 300])
def test_names_that_leave_the_folder(tmp_path, name):
    with pytest.raises(OutputError, match="not a plain file name"):
        inside(tmp_path, name, "photo.png")


def test_links_that_leave_the_folder(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ann").symlink_to(tmp_path)
    with pytest.raises(OutputError, match="out of the output folder"):
        inside(tmp_path / "out", "ann", "photo.png")


def test_bytes_of_16_bit_png_are_what_other_readers_see():
    import png

    pixels = torch.tensor([0, 255, 256, 65025], dtype=torch.int32).view(1, 2, 2).repeat(3, 1, 1).to(torch.uint16)
    _, _, rows, info = png.Reader(file=io.BytesIO(encode_png(pixels))).read()
    assert info["bitdepth"] == 16 and [list(r)[::3] for r in rows] == [[0, 255], [256, 65025]]
