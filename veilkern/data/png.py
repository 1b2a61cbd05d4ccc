"""PNG as a container: every chunk checked, a text chunk put in, and 16-bit RGB, which Pillow has no mode for."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import PngImagePlugin

from veilkern.errors import PhotoError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PIXELS, MAX_SIDE = 8192**2, 65_535  # decoded, they take 256 MB; whatever a bank's size is, its photos fit
MAX_CHUNKS = 100_000  # as many pixels in the small chunks of libpng are 25,000
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
_DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGBA: (8, 16)}
_IHDR = struct.Struct(">IIBBBBB")


@dataclass(frozen=True)
class Png:
    """What a PNG says of itself. colour: GREY, RGB ...; transparent: a tRNS chunk makes a colour or palette entries
    transparent; animated: an APNG; trailing: bytes after the end; texts: its tEXt chunks, the first of each keyword."""

    width: int
    height: int
    depth: int
    colour: int
    transparent: bool = False
    animated: bool = False
    trailing: int = 0
    texts: dict[str, str] = field(default_factory=dict)


def parse(data: bytes) -> Png:
    """Check header, lengths, order and checksums of all chunks, decoding nothing. Raises PhotoError with the cause."""
    width, height, depth, colour = _header(data)
    seen: set[bytes] = set()
    texts: dict[str, str] = {}
    end = 0
    for kind, body, place in _chunks(data):
        if kind == b"IHDR" and kind in seen:
            raise PhotoError("corrupt: it has two headers")
        if kind == b"tEXt":
            keyword, _, text = bytes(body).decode("latin-1").partition("\0")
            texts.setdefault(keyword, text)
        seen.add(kind)
        end = place
    if b"IDAT" not in seen or (colour == PALETTE and b"PLTE" not in seen):
        raise PhotoError("corrupt: it has no picture data, or no palette for them")
    return Png(width, height, depth, colour, b"tRNS" in seen, b"acTL" in seen, len(data) - end, texts)


def _header(data: bytes) -> tuple[int, int, int, int]:
    """Width, height, bit depth and colour type, within limits."""
    if data[12:16] != b"IHDR" or data[8:12] != b"\0\0\0\x0d" or len(data) < 33:
        raise PhotoError("corrupt or truncated: it does not begin with a header (IHDR)")
    width, height, depth, colour, compression, filtering, interlace = _IHDR.unpack_from(data, 16)
    if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlace > 1 or not width or not height:
        raise PhotoError(
            f"corrupt: its header says {height} x {width} pixels, bit depth {depth}, colour type {colour}, compression "
            f"{compression}, filter {filtering}, interlace {interlace}, which no PNG can be"
        )
    check_pixels(height, width)
    return width, height, depth, colour


def check_pixels(height: int, width: int, most: int = MAX_PIXELS) -> None:
    """PhotoError for more pixels than `most`, or a side above MAX_SIDE; to be called before anything is decoded."""
    if height * width > most or max(height, width) > MAX_SIDE:
        raise PhotoError(f"far too many pixels for a face crop: {height} x {width}, at most {most:,} are read")


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, int]]:
    """Type, content and end of each chunk up to IEND."""
    place, view = len(SIGNATURE), memoryview(data)
    for _ in range(MAX_CHUNKS):
        if place + 12 > len(data):
            raise PhotoError("corrupt or truncated: it stops before its end (IEND)")
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if end > len(data):
            raise PhotoError(f"corrupt or truncated: it stops within a chunk ({kind.decode('latin-1')!r})")
        if zlib.crc32(view[place + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise PhotoError(f"corrupt or truncated: a chunk ({kind.decode('latin-1')!r}) has a wrong checksum")
        yield kind, view[place + 8 : end - 4], end
        if kind == b"IEND":
            return
        place = end
    raise PhotoError(f"corrupt: more than {MAX_CHUNKS:,} chunks")


def chunk(kind: bytes, body: bytes) -> bytes:
    """The bytes of one chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_text(data: bytes, keyword: str, text: str) -> bytes:
    """The PNG `data` with a tEXt chunk right behind its header."""
    after = len(SIGNATURE) + 12 + _IHDR.size
    return data[:after] + chunk(b"tEXt", f"{keyword}\0{text}".encode("latin-1")) + data[after:]


def encode_stored(pixels: np.ndarray) -> bytes:
    """PNG of uint8 or uint16 [H, W, 3], neither filtered nor compressed. For protected photos: noise has nothing to
    compress, and looking for it takes Pillow, which cannot write 16-bit RGB at all, many times as long."""
    height, width, _ = pixels.shape
    depth = 8 * pixels.itemsize
    values = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder(">"), copy=False)).view(np.uint8)
    rows = np.zeros((height, 1 + 3 * width * pixels.itemsize), dtype=np.uint8)  # each begins with its filter, 0: none
    rows[:, 1:] = values.reshape(height, -1)
    header = _IHDR.pack(width, height, depth, RGB, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows.data, 0)), (b"IEND", b"")
    return SIGNATURE + b"".join(chunk(kind, body) for kind, body in parts)


def decode_rgb16(data: bytes) -> np.ndarray:
    """uint16 [H, W, 3] of a 16-bit RGB PNG that `parse` has passed. Raises what Pillow's decoder raises.

    Pillow decodes it to 8 bit, taking the upper byte of each value; told that the file is little-endian, it takes the
    lower one. Both together are the value, at Pillow's speed and in bounded memory.
    """
    pixels = _decoded_as(data, "RGB;16B").astype(np.uint16)
    pixels <<= 8
    pixels |= _decoded_as(data, "RGB;16L")
    return pixels


def _decoded_as(data: bytes, raw: str) -> np.ndarray:
    image = PngImagePlugin.PngImageFile(io.BytesIO(data))
    (codec, extents, offset, found), *others = image.tile
    if (codec, found, others, image.mode) != ("zip", "RGB;16B", [], "RGB"):
        raise PhotoError(f"16-bit RGB, which this Pillow reads in a way that veilkern does not know ({found})")
    image.tile = [(codec, extents, offset, raw)]  # type: ignore[list-item]
    image.load()
    return np.asarray(image)
