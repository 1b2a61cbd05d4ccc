"""Reading and writing one photo: everything that users get wrong, and everything that a file can do to its reader."""

from __future__ import annotations

import io
import os
import resource
import socket
import struct
import time
import zlib

import numpy as np
import png as pypng
import pytest
import torch
from photo_cases import file, picture, tensor
from photo_fuzz import MARK, fuzz, good_photos
from PIL import Image

from veilkern.data.photos import SUFFIXES, encode_png, printable, read_mark, read_photo, read_protected
from veilkern.data.png import SIGNATURE, chunk
from veilkern.errors import PhotoError


def deep_png(values, **options):
    """A 16-bit PNG of uint16 [H, W, planes] by a writer that is not ours."""
    height, width, _ = values.shape
    buffer = io.BytesIO()
    pypng.Writer(width, height, bitdepth=16, **options).write_array(buffer, values.ravel().tolist())
    return buffer.getvalue()


def raw_png(*parts, end=True):
    return SIGNATURE + b"".join(chunk(*part) for part in parts) + (chunk(b"IEND", b"") if end else b"")


def header(width, height, depth=8, colour=2, interlace=0):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)


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
    assert torch.equal(image, tensor(picture())) and notices == []


@pytest.mark.parametrize(
    "change,name,words",
    [
        (lambda p: p.convert("L"), "grey.png", "greyscale photo"),
        (lambda p: p.convert("L"), "grey.jpg", "greyscale photo"),
        (lambda p: p.convert("RGBA"), "alpha.png", "RGBA photo"),
        (lambda p: p.putalpha(9) or p, "alpha.webp", "RGBA photo"),
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


def test_a_transparent_colour_is_not_dropped_without_a_word(photo):
    path = photo(transparency=(1, 2, 3))  # Pillow calls it RGB
    with pytest.raises(PhotoError, match="RGB photo with transparency"):
        read_photo(path)
    image, notices = read_photo(path, convert=True)
    assert torch.equal(image, tensor(picture())) and "converted" in notices[0]


def every_value():
    """Each 16-bit value, in three planes of its own order: uint16 [256, 256, 3]."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    return np.stack([values, values[::-1], values.T], 2)


@pytest.mark.parametrize("interlace", [False, True])
def test_16_bits_become_8_by_257(file, interlace):
    """The nearest one: neither by 256, nor cut off as Pillow does, nor floored."""
    values = every_value()
    wanted = np.rint(values / 257).astype(np.uint8)
    for others in (values >> 8, np.rint(values / 256).clip(0, 255), values // 257):
        assert (wanted != others).mean() > 0.2
    grey = read_photo(
        file(deep_png(values[:, :, :1], greyscale=True, interlace=interlace)), size=(256, 256), convert=True
    )
    assert torch.equal(grey[0], tensor(np.repeat(wanted[:, :, :1], 3, 2)))
    colour = file(deep_png(values, greyscale=False, interlace=interlace))
    assert torch.equal(read_photo(colour, size=(256, 256), convert=True)[0], tensor(wanted))
    with pytest.raises(PhotoError, match="16-bit photo"):  # which Pillow reads as 8-bit without a word
        read_photo(colour, size=(256, 256))


@pytest.mark.parametrize("interlace", [False, True])
@pytest.mark.parametrize("side", [(256, 256), (1, 1), (5, 3), (7, 9)])
def test_16_bit_rgb_is_read_exactly(file, side, interlace):
    values = np.ascontiguousarray(every_value()[: side[0], : side[1]]) + np.uint16(40000)
    found = read_protected(file(deep_png(values, greyscale=False, interlace=interlace)), size=side)
    assert found.dtype == torch.uint16 and (found.permute(1, 2, 0).numpy() == values).all()


def test_16_bit_with_every_filter(file):
    """pypng writes rows without filters; a file saved by others has all five."""
    values = np.random.default_rng(0).integers(0, 65536, (5, 4, 3), dtype=np.uint16)
    rows = values.astype(">u2").view(np.uint8).reshape(5, 24).astype(int)
    stream = b""
    for number, row in enumerate(rows):
        left = np.concatenate([np.zeros(6, int), row[:-6]])
        up = rows[number - 1] if number else np.zeros(24, int)
        corner = np.concatenate([np.zeros(6, int), up[:-6]])
        near = [abs(left + up - corner - other) for other in (left, up, corner)]
        paeth = np.where((near[0] <= near[1]) & (near[0] <= near[2]), left, np.where(near[1] <= near[2], up, corner))
        guess = (0, left, up, (left + up) // 2, paeth)[number]
        stream += bytes([number]) + ((row - guess) % 256).astype(np.uint8).tobytes()
    path = file(raw_png(header(4, 5, 16), (b"IDAT", zlib.compress(stream))))
    assert (read_protected(path, size=(5, 4)).permute(1, 2, 0).numpy() == values).all()


@pytest.mark.parametrize("planes,options", [(4, {"greyscale": False}), (2, {"greyscale": True})])
def test_16_bit_with_transparency_is_refused(file, planes, options):
    path = file(deep_png(np.zeros((112, 112, planes), np.uint16), alpha=True, **options))
    for convert in (False, True):
        with pytest.raises(PhotoError, match="16-bit photo .*transparency.*not read at all"):
            read_photo(path, convert=convert)
    with pytest.raises(PhotoError, match="wanted a plain RGB photo"):
        read_protected(path, size=(112, 112))


def test_size(photo):
    path = photo(lambda p: p.resize((100, 90)))
    with pytest.raises(PhotoError, match=r"90 x 100 pixels \(height x width\), wanted 112 x 112"):
        read_photo(path)
    image, notices = read_photo(path, resize=True)
    assert image.shape == (3, 112, 112) and "resized from 90 x 100" in notices[0]
    assert read_photo(path, size=(90, 100))[0].shape == (3, 90, 100)


A, B, C, D, E, F = range(0, 240, 40)
UPRIGHT = [[A, B, C], [D, E, F]]
STORED = {  # by the EXIF standard: where row 0 and column 0 of what is stored belong in the upright photo
    1: [[A, B, C], [D, E, F]],  # top, left
    2: [[C, B, A], [F, E, D]],  # top, right
    3: [[F, E, D], [C, B, A]],  # bottom, right
    4: [[D, E, F], [A, B, C]],  # bottom, left
    5: [[A, D], [B, E], [C, F]],  # left, top
    6: [[C, F], [B, E], [A, D]],  # right, top
    7: [[F, C], [E, B], [D, A]],  # right, bottom
    8: [[D, A], [E, B], [F, C]],  # left, bottom
}


@pytest.mark.parametrize("name,options", [("a.png", {}), ("a.webp", {"lossless": True}), ("a.jpg", {"quality": 100})])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation(tmp_path, orientation, name, options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.array(STORED[orientation], np.uint8).repeat(8, 0).repeat(8, 1)  # JPEG keeps flat blocks of 8
    Image.fromarray(np.stack([stored] * 3, 2)).save(tmp_path / name, exif=exif, **options)
    image, notices = read_photo(tmp_path / name, size=(16, 24))
    wanted = torch.tensor(UPRIGHT, dtype=torch.int).repeat_interleave(8, 0).repeat_interleave(8, 1)
    assert image.shape == (3, 16, 24) and (image.int() - wanted).abs().max() <= (1 if name == "a.jpg" else 0)
    assert notices == ([] if orientation == 1 else ["turned upright by its EXIF orientation"])
    if orientation > 4:  # what the size is said to be, too
        with pytest.raises(PhotoError, match="16 x 24 pixels"):
            read_photo(tmp_path / name, size=(24, 16))


def test_exif_orientation_of_16_bits(file):
    values = np.random.default_rng(0).integers(0, 65536, (2, 3, 3), dtype=np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = deep_png(np.ascontiguousarray(values[:, ::-1].transpose(1, 0, 2)), greyscale=False)
    data = data[:33] + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + data[33:]
    found, _ = read_photo(file(data), size=(2, 3), convert=True)
    assert torch.equal(found, tensor(np.rint(values / 257).astype(np.uint8)))


def test_damaged_files(photo, tmp_path):
    for name, options in (("a.png", {}), ("a.jpg", {"quality": 95}), ("a.webp", {"lossless": True})):
        whole = photo(name=name, **options).read_bytes()
        for part in (b"", whole[:10], whole[: len(whole) // 2], b"not a picture at all"):
            path = tmp_path / f"broken-{name}"
            path.write_bytes(part)
            with pytest.raises(PhotoError, match="empty|not a PNG|corrupt|truncated") as caught:
                read_photo(path)
            assert str(path) in str(caught.value)


def test_every_flipped_bit_of_a_png_is_noticed(file):
    """Pillow does not look at the checksums of the picture data."""
    whole = encode_png(tensor(picture(size=(4, 4))), MARK)
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        with pytest.raises(PhotoError):
            read_protected(file(bytes(data)), size=(4, 4))


def filled(width, height, depth=8, colour=2, planes=3):
    return header(width, height, depth, colour), (
        b"IDAT",
        zlib.compress(bytes(height * (1 + width * planes * depth // 8))),
    )


@pytest.mark.parametrize(
    "parts,words",
    [
        ([header(4, 4, 16), (b"IDAT", b"no deflate")], "corrupt|16-bit photo"),  # was zlib.error
        ([header(4, 4, 16), (b"IDAT", zlib.compress(bytes(60))[:-9])], "corrupt|16-bit photo"),
        ([(b"IDAT", zlib.compress(bytes(60)))], "does not begin with a header"),  # was AttributeError
        ([filled(4, 4)[1], filled(4, 4)[0]], "does not begin with a header"),
        ([header(4, 4)], "no picture data"),
        ([header(4, 4), *filled(4, 4)], "two headers"),
        ([*filled(4, 4), header(4, 4)], "two headers"),
        ([header(0, 4), filled(4, 4)[1]], "no PNG can be"),
        ([header(4, 4, 7), filled(4, 4)[1]], "no PNG can be"),
        ([header(4, 4, 8, 5), filled(4, 4)[1]], "no PNG can be"),
        ([header(4, 4, 16, 3), filled(4, 4)[1]], "no PNG can be"),
        ([header(4, 4, 8, 2, 2), filled(4, 4)[1]], "no PNG can be"),
        ([filled(4, 4, 8, 3, 1)[0], filled(4, 4, 8, 3, 1)[1]], "no palette"),
        ([filled(4, 4)[0], (b"acTL", struct.pack(">II", 2, 0)), filled(4, 4)[1]], "animation|RGB photo"),
        ([header(4, 4), *[(b"teXt", b"")] * 100_001, filled(4, 4)[1]], "more than 100,000 chunks"),
        ([header(9000, 8000), filled(4, 4)[1]], "far too many pixels"),
        ([header(66000, 1), filled(4, 4)[1]], "far too many pixels"),
        ([header(60000, 60000, 16), filled(4, 4)[1]], "far too many pixels"),
    ],
)
def test_png_that_is_none(file, parts, words):
    path = file(raw_png(*parts))
    for read in (
        lambda: read_photo(path, size=(4, 4)),
        lambda: read_photo(path, size=(8, 8), resize=True, convert=True),
        lambda: read_protected(path, size=(4, 4)),
    ):
        with pytest.raises(PhotoError, match=words):
            read()


def test_what_follows_the_end_is_told(file):
    path = file(encode_png(tensor(picture())) + b"trailing")
    assert read_photo(path)[1] == ["8 bytes after the end of the picture, not read"]


def test_a_picture_of_more_data_than_it_needs(file):
    """200 MB of zeros behind a small photo are not inflated."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = file(raw_png(header(4, 4, 16), (b"IDAT", zlib.compress(bytes(200_000_000), 9))))
    assert not read_protected(path, size=(4, 4)).any()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 260_000  # KB; compressing takes 200,000


@pytest.mark.parametrize("depth", [8, 16])
def test_large_photos_are_refused_before_they_are_decoded(file, depth):
    """3 MB that inflate to 384 MB and took 10.7 GB and 101 s."""
    path = file(raw_png(*filled(8000, 8000, depth)))
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    for read in (read_photo, read_protected):
        with pytest.raises(PhotoError, match="8000 x 8000 pixels|16-bit photo"):
            read(path, size=(112, 112))
    assert time.process_time() - started < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_a_jpeg_of_very_many_scans(file):
    buffer = io.BytesIO()
    Image.new("RGB", (2000, 2000)).save(buffer, "JPEG", progressive=True, quality=5)
    data = buffer.getvalue()
    scan = data[data.rindex(b"\xff\xda") : -2]
    assert read_photo(file(data, "few.jpg"), resize=True)[0].shape == (3, 112, 112)
    started = time.process_time()
    with pytest.raises(PhotoError, match="far too many scans"):
        read_photo(file(data[:-2] + scan * 3000 + data[-2:], "many.jpg"), resize=True)
    assert time.process_time() - started < 1


def test_animations(tmp_path):
    for name, options in (("a.webp", {"lossless": True}), ("a.png", {})):
        picture().save(tmp_path / name, save_all=True, append_images=[picture(1)], **options)
        with pytest.raises(PhotoError, match="an animation of 2 frames"):
            read_photo(tmp_path / name)
    with pytest.raises(PhotoError, match="animation"):
        read_protected(tmp_path / "a.png", size=(112, 112))


@pytest.mark.skipif(os.name != "posix", reason="needs what POSIX file systems have")
def test_what_is_no_file(tmp_path, monkeypatch):
    """None of them may be waited for."""
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "locked.png").write_bytes(b"x")
    (tmp_path / "locked.png").chmod(0)
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
    causes = {
        "fifo": "not a file",
        "folder": "not a file",
        "dangling": "a link that leads nowhere",
        "self": "cannot be read",
        "device": "not a file",
        "socket": "not a file",
        "absent": "not a file",
        "locked": "cannot be read: Permission denied" if os.geteuid() else "not a PNG",
    }
    for name, words in causes.items():
        for read in (read_photo, lambda path: read_protected(path, size=(112, 112)), read_mark):
            with pytest.raises(PhotoError, match=words):
                read(tmp_path / f"{name}.png")


def test_a_huge_file_is_not_read(tmp_path):
    with open(tmp_path / "huge.png", "wb") as huge:
        huge.truncate(10 << 30)  # a hole: it takes no room
    with pytest.raises(PhotoError, match="larger than 256 MiB"):
        read_photo(tmp_path / "huge.png")


def test_reader_errors_of_every_class_are_photo_errors(photo, monkeypatch):
    path = photo()
    for error in (
        ZeroDivisionError("x"),
        RecursionError(),
        MemoryError(),
        struct.error("y"),
        OverflowError(),
        KeyError(1),
    ):

        def broken(self, error=error):
            raise error

        monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", broken)
        for read in (read_photo, read_protected):
            with pytest.raises(PhotoError, match="corrupt or truncated|not enough memory") as caught:
                read(path, size=(112, 112))
            assert str(caught.value).startswith(f"{path}: ")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda self: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        read_photo(path)
    with pytest.raises(TypeError):  # a wrong call is no bad photo
        read_photo(None)


@pytest.mark.parametrize("seed", range(3))
def test_damaged_photos_of_every_kind(tmp_path, seed):
    assert fuzz(seed, 200, tmp_path) > 5


def test_the_fuzzed_photos_are_good_before_they_are_damaged(tmp_path):
    kinds = set()
    for data in good_photos():
        (tmp_path / "photo").write_bytes(data)
        try:
            read_photo(tmp_path / "photo", size=(12, 12), convert=True, protected=True)
            kinds.add("read")
        except PhotoError as error:
            assert "corrupt" not in str(error)
            kinds.add(str(error).rpartition(": ")[2][:12])
    assert kinds == {"read", "an animation", "16-bit photo"}


def test_names_are_printed_on_one_line(tmp_path):
    name = "a\nb\x1b[31m\u202e\udcff.png"
    assert printable(name) == "a\\nb\\x1b[31m\\u202e\\udcff.png" and printable("ä 李.png") == "ä 李.png"
    (tmp_path / name).write_bytes(b"no photo")
    with pytest.raises(PhotoError) as caught:
        read_photo(tmp_path / name)
    assert str(caught.value).isprintable() and str(caught.value).startswith(printable(tmp_path / name))
    assert SUFFIXES[0] == ".png"


def test_any_size(tmp_path):
    picture(size=(33, 70)).save(tmp_path / "a.png")
    image, remarks = read_photo(tmp_path / "a.png", size=None)
    assert image.shape == (3, 33, 70) and remarks == []
    torch.testing.assert_close(image, tensor(Image.open(tmp_path / "a.png")))
