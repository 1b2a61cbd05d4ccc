"""Damaged photos through every reader of photos: `fuzz(seed, count, folder)`, for the tests and for a fuzz target."""

from __future__ import annotations

import io
import random
import struct
import time
import warnings
from pathlib import Path

import numpy as np
import png as pypng
import torch
from PIL import Image

from veilkern.data.marks import Mark
from veilkern.data.photos import encode_png, read_mark, read_photo, read_protected
from veilkern.data.png import SIGNATURE, chunk
from veilkern.errors import PhotoError

SIDE = 12
SLOWEST = 5.0  # seconds for one reader and one file, of a processor: 64 million pixels need about 1
MARK = Mark("0123456789abcdef", 51, False, "bank")


def good_photos() -> list[bytes]:
    """One file of every kind that the readers know, or know to refuse."""
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    image, found = Image.fromarray(pixels), []

    def keep(picture: Image.Image, kind: str, **options) -> None:
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        found.append(buffer.getvalue())

    turned = Image.Exif()
    turned[0x0112] = 6
    for mode in ("RGB", "L", "LA", "P", "RGBA", "1"):
        keep(image.convert(mode), "PNG")
    keep(image, "PNG", exif=turned)
    keep(image, "PNG", transparency=(1, 2, 3))
    keep(image, "PNG", save_all=True, append_images=[image.rotate(90)])
    keep(Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257), "PNG")
    for options in ({"quality": 90, "exif": turned}, {"progressive": True}, {"quality": 30, "subsampling": 2}):
        keep(image, "JPEG", **options)
    keep(image.convert("CMYK"), "JPEG")
    for options in ({"lossless": True}, {"quality": 80, "exif": turned}):
        keep(image, "WEBP", **options)
    keep(image.convert("RGBA"), "WEBP")
    keep(image, "WEBP", save_all=True, append_images=[image.rotate(90)])
    deep = np.random.default_rng(1).integers(0, 65536, (SIDE, SIDE, 3), dtype=np.uint16)
    found.append(encode_png(torch.from_numpy(pixels).permute(2, 0, 1), MARK))
    found.append(encode_png(torch.from_numpy(deep).permute(2, 0, 1), MARK))
    for kind, planes in (({"greyscale": False}, 3), ({"greyscale": False, "alpha": True}, 4), ({"greyscale": True}, 1)):
        for interlace in (False, True):
            values = np.random.default_rng(2).integers(0, 65536, SIDE * SIDE * planes)
            buffer = io.BytesIO()
            pypng.Writer(SIDE, SIDE, bitdepth=16, interlace=interlace, **kind).write_array(buffer, values.tolist())
            found.append(buffer.getvalue())
    return found


def _flip(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _cut(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data)) :]


def _number(rng: random.Random, data: bytearray) -> None:
    """A length, size or offset that lies."""
    place, size = rng.randrange(min(len(data), 300)), rng.choice((2, 4))
    value = rng.choice((0, 1, 127, 255, 256, 8000, 65535, 2**31 - 1, 2**32 - 1)) % 2 ** (8 * size)
    data[place : place + size] = value.to_bytes(size, rng.choice(("little", "big")))


def _splice(rng: random.Random, data: bytearray) -> None:
    a, b = sorted(rng.randrange(len(data)) for _ in range(2))
    place = rng.randrange(len(data))
    data[place:place] = rng.choice((bytes(data[a:b]), rng.randbytes(b - a), b""))
    if rng.random() < 0.5:
        del data[a:b]


def _chunks(rng: random.Random, data: bytearray) -> None:
    """Chunks of a PNG changed, doubled, swapped, dropped or cut, all with their lengths and checksums right."""
    parts, place = [], len(SIGNATURE)
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        parts.append((kind, bytearray(data[place + 8 : place + 8 + length])))
        place += 12 + length
    for _ in range(rng.randint(1, 3)):
        i = rng.randrange(len(parts))
        kind, body = parts[i]
        what = rng.randrange(7)
        if what < 3 and body:
            rng.choice((_flip, _cut, _number))(rng, body)
        elif what == 3:
            parts.insert(rng.randrange(len(parts) + 1), (kind, bytearray(body)))
        elif what == 4 and len(parts) > 1:
            del parts[i]
        elif what == 5:
            parts[i] = (rng.choice((b"IDAT", b"tRNS", b"PLTE", b"acTL", b"fcTL", b"eXIf", b"iCCP", b"zTXt")), body)
        else:
            parts.insert(i, parts.pop(rng.randrange(len(parts))))
    data[:] = SIGNATURE + b"".join(chunk(kind, bytes(body)) for kind, body in parts)


def damaged(rng: random.Random, data: bytes) -> bytes:
    """`data` with one to three kinds of damage."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        if changed.startswith(SIGNATURE) and len(changed) > 20 and rng.random() < 0.5:
            _chunks(rng, changed)
        elif changed:
            rng.choice((_flip, _cut, _number, _splice))(rng, changed)
    return bytes(changed)


def read_every_way(path: Path) -> int:
    """How many readers take the file; AssertionError for any error but PhotoError, or a wrong result, or too long."""
    size, taken = (SIDE, SIDE), 0
    readers = (
        lambda: read_photo(path, size=size)[0],
        lambda: read_photo(path, size=size, resize=True, convert=True, protected=True)[0],
        lambda: read_protected(path, size=size),
        lambda: read_mark(path),
    )
    for reader in readers:
        started = time.process_time()
        try:
            found = reader()
        except PhotoError as error:
            assert str(error).startswith(f"{path}: ") and str(error).isprintable(), error
        except Exception as error:
            raise AssertionError(f"{path}: {type(error).__name__} instead of PhotoError: {error}") from error
        else:
            taken += 1
            assert found is None or isinstance(found, Mark) or found.shape == (3, *size), found
        assert time.process_time() - started < SLOWEST, f"{path}: {time.process_time() - started:.1f} s"
    return taken


def fuzz(seed: int, count: int, folder: Path) -> int:
    """Read `count` damaged photos made from `seed`; returns how many readers took one. The file at fault stays."""
    rng, photos, taken = random.Random(seed), good_photos(), 0
    path = Path(folder) / "photo"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on damaged EXIF data
        for _ in range(count):
            path.write_bytes(damaged(rng, rng.choice(photos)))
            taken += read_every_way(path)
    return taken
