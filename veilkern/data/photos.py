"""One photo at a time: reading with every check, writing 8-bit and 16-bit PNG."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from veilkern.data import png
from veilkern.data.files import atomic_write
from veilkern.data.marks import KEYWORD, Mark
from veilkern.errors import PhotoError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MAX_FILE_BYTES = 256 << 20  # larger than any photo; read whole into memory
_UPRIGHT = {  # by EXIF orientation, which says where the photo's first row and column belong
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MAX_SCANS = 100  # of a progressive JPEG of MAX_PIXELS, and in proportion: each goes over the whole picture


def read_photo(
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = (112, 112),
    resize: bool = False,
    convert: bool = False,
    protected: bool = False,
) -> tuple[torch.Tensor, list[str]]:
    """Read one aligned face photo: uint8 [3, H, W] RGB, and notices (for instance "turned by its EXIF orientation").

    size: (height, width) wanted, None for whatever it has. resize: bring another size to it (bicubic) instead of
    refusing. convert: turn greyscale, palette, RGBA, CMYK and 16-bit photos into 8-bit RGB instead of refusing; what
    that changes cannot be recovered later. protected: take also what veilkern has protected already. Whatever is wrong
    with the file, the error is a PhotoError that names it and the cause; memory and time are bounded before anything is
    decoded.
    """
    with _one_error(path):
        return _decoded(_read_bytes(path), None if size is None else tuple(size), resize, convert, protected)


def decode_photo(
    data: bytes,
    name: str,
    *,
    size: tuple[int, int] = (112, 112),
    resize: bool = False,
    convert: bool = False,
    protected: bool = False,
    pixels: int = png.MAX_PIXELS,
) -> tuple[torch.Tensor, list[str]]:
    """As `read_photo`, of the bytes of a file that errors call `name`. pixels: more than that are refused, before they
    are decoded."""
    with _one_error(name):
        _check_length(data)
        return _decoded(data, tuple(size), resize, convert, protected, pixels)


def read_protected(path: str | os.PathLike[str], *, size: tuple[int, int]) -> torch.Tensor:
    """Read what `protect` wrote: uint8 [3, H, W], or uint16 [3, H, W] from a lossless 16-bit PNG.

    Raises PhotoError naming the file and the cause; a JPEG is refused, because its loss ruins the recovery.
    """
    return read_marked(path, size=size)[0]


def read_marked(
    path: str | os.PathLike[str], *, size: tuple[int, int], force: bool = False
) -> tuple[torch.Tensor, Mark | None]:
    """As `read_protected`, and the photo's mark (None if it has none), of one reading of the file. force: take no mark
    from it, which may be one that cannot be read."""
    with _one_error(path):
        return _marked(_read_bytes(path), size, force)


def decode_marked(
    data: bytes, name: str, *, size: tuple[int, int], force: bool = False
) -> tuple[torch.Tensor, Mark | None]:
    """As `read_marked`, of the bytes of a file that errors call `name`."""
    with _one_error(name):
        _check_length(data)
        return _marked(data, size, force)


def read_mark(path: str | os.PathLike[str]) -> Mark | None:
    """The mark of a protected photo, None if it has none. The PNG around it is checked, not decoded (PhotoError)."""
    with _one_error(path):
        return _mark_of(_read_bytes(path))


def decode_mark(data: bytes, name: str) -> Mark | None:
    """As `read_mark`, of the bytes of a file that errors call `name`."""
    with _one_error(name):
        return _mark_of(data)


def encode_png(pixels: torch.Tensor, mark: Mark | None = None) -> bytes:
    """PNG bytes of uint8 [3, H, W] (8-bit RGB) or uint16 [3, H, W] (16-bit RGB), with the mark of a protected photo."""
    # By NumPy: torch would share so small a copy out to threads, and wait for them longer than it copies.
    array = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
    if mark is None and array.dtype == np.uint8:
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()
    data = png.encode_stored(array)
    return data if mark is None else png.with_text(data, KEYWORD, mark.text())


def write_png(
    path: str | os.PathLike[str], pixels: torch.Tensor, mark: Mark | None = None, *, replace: bool = True
) -> None:
    """Write uint8 or uint16 [3, H, W] as PNG, whole or not at all (OutputError); see `encode_png`, `atomic_write`."""
    atomic_write(path, encode_png(pixels, mark), replace=replace)


def printable(text: object) -> str:
    """`text` with line breaks, terminal escapes and half characters written out: names come from anywhere."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


@contextlib.contextmanager
def _one_error(path: str | os.PathLike[str]) -> Iterator[None]:
    """Whatever goes wrong inside is a PhotoError that names the file: decoders raise errors of every class."""
    name = printable(os.fspath(path))
    try:
        yield
    except PhotoError as error:
        raise PhotoError(f"{name}: {error}") from error
    except MemoryError as error:
        raise PhotoError(f"{name}: not enough memory to read it") from error
    except Exception as error:
        cause = printable(error) or type(error).__name__
        raise PhotoError(f"{name}: corrupt or truncated: {cause}") from error


def _read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a regular file, without ever waiting for one (a FIFO, a device)."""
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise PhotoError("not a file (a folder, device or pipe)")
        with open(path, "rb", opener=lambda p, flags: os.open(p, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise PhotoError(
            "not a file: a link that leads nowhere" if Path(path).is_symlink() else "not a file"
        ) from error
    except OSError as error:
        raise PhotoError(f"cannot be read: {error.strerror or error}") from error
    _check_length(data)
    return data


def _check_length(data: bytes) -> None:
    if not data:
        raise PhotoError("the file is empty")
    if len(data) > MAX_FILE_BYTES:
        raise PhotoError(f"larger than {MAX_FILE_BYTES >> 20} MiB, not a face photo")


def _marked(data: bytes, size: tuple[int, int], force: bool) -> tuple[torch.Tensor, Mark | None]:
    header = _protected_header(data)
    text = header.texts.get(KEYWORD)
    mark = None if text is None or force else Mark.parse(text)
    if header.colour != png.RGB or header.transparent or header.animated:
        raise PhotoError(f"{_png_kind(header) or 'an animation'}, wanted a plain RGB photo of 8 or 16 bit")
    if (header.height, header.width) != tuple(size):
        raise PhotoError(f"{header.height} x {header.width} pixels, wanted {size[0]} x {size[1]}")
    return _channels_first(png.decode_rgb16(data) if header.depth == 16 else np.array(_open(data))), mark


def _mark_of(data: bytes) -> Mark | None:
    text = _protected_header(data).texts.get(KEYWORD)
    return None if text is None else Mark.parse(text)


def _decoded(
    data: bytes,
    size: tuple[int, ...] | None,
    resize: bool,
    convert: bool,
    protected: bool,
    pixels: int = png.MAX_PIXELS,
) -> tuple[torch.Tensor, list[str]]:
    """Pixels and notices of `read_photo`."""
    header = png.parse(data) if data.startswith(png.SIGNATURE) else None
    if header is not None and KEYWORD in header.texts and not protected:
        raise PhotoError("protected already, so it is no original")
    return _photo(data, header, size, resize, convert, pixels)


def _protected_header(data: bytes) -> png.Png:
    if not data.startswith(png.SIGNATURE):
        raise PhotoError("not a PNG; protected photos are PNG, since lossy compression ruins the recovery")
    return png.parse(data)


def _photo(
    data: bytes, header: png.Png | None, size: tuple[int, ...] | None, resize: bool, convert: bool, pixels: int
) -> tuple[torch.Tensor, list[str]]:
    """Pixels and notices; everything that can be refused is refused before it is decoded."""
    image = _open(data)
    png.check_pixels(image.height, image.width, pixels)
    kind = _kind(image, header)
    if header is not None and header.depth == 16 and (header.colour not in (png.GREY, png.RGB) or header.transparent):
        raise PhotoError(f"{kind}, which is not read at all; save it as 8-bit RGB")
    if kind and not convert:
        raise PhotoError(f"{kind}, wanted 8-bit RGB; convert it, or ask for conversion (convert=True, --convert)")
    if (frames := getattr(image, "n_frames", 1)) > 1 or (header is not None and header.animated):
        raise PhotoError(f"an animation of {frames} frames, wanted one photo")
    if not resize:  # which way is up is known only after decoding
        _check_size(image, size, turned_too=True)
    if data.count(b"\xff\xda") * image.height * image.width > MAX_SCANS * pixels:
        raise PhotoError("far too many scans for a photo")
    return _upright_rgb(data, image, header, kind, size, resize)


def _open(data: bytes) -> Image.Image:
    """Pillow's reader by the first bytes, without its limits on pixels, which are warnings: ours are errors."""
    file = io.BytesIO(data)
    if data.startswith(png.SIGNATURE):
        return PngImagePlugin.PngImageFile(file)
    if data.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile(file)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile(file)
    raise PhotoError("not a PNG, JPEG or WebP photo, or its header is corrupt")


def _upright_rgb(
    data: bytes, image: Image.Image, header: png.Png | None, kind: str | None, size: Any, resize: bool
) -> tuple[torch.Tensor, list[str]]:
    """Decode, turn upright, convert, resize: uint8 [3, H, W] and the notices."""
    notices = [f"{header.trailing} bytes after the end of the picture, not read"] if header and header.trailing else []
    image.load()
    upright = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    if header is not None and header.depth == 16:
        image = _to_8_bit(data, image, header)
    if upright is not None:
        image = image.transpose(upright)
        notices.append("turned upright by its EXIF orientation")
    if kind:
        image = image.convert("RGB")
        notices.append(f"{kind}, converted to 8-bit RGB")
    if not resize:
        _check_size(image, size)
    if size is not None and image.size != size[::-1]:
        notices.append(f"resized from {image.height} x {image.width} to {size[0]} x {size[1]}")
        image = image.resize(size[::-1], Image.Resampling.BICUBIC)
    return _channels_first(np.array(image, dtype=np.uint8)), notices


def _check_size(image: Image.Image, size: tuple[int, ...] | None, turned_too: bool = False) -> None:
    got = image.size[::-1]
    if size is not None and got != size and not (turned_too and got == size[::-1]):
        raise PhotoError(
            f"{got[0]} x {got[1]} pixels (height x width), wanted {size[0]} x {size[1]}; align and crop it, or ask for "
            "resizing (resize=True, --resize)"
        )


def _kind(image: Image.Image, header: png.Png | None) -> str | None:
    """What the photo is when it is not plain 8-bit RGB."""
    if header is not None:
        return _png_kind(header)
    names = {"L": "greyscale photo", "RGBA": "RGBA photo (with transparency)", "CMYK": "CMYK photo"}
    return None if image.mode == "RGB" else names.get(image.mode, f"photo of mode {image.mode}")


def _png_kind(header: png.Png) -> str | None:
    """From the header: Pillow reads 16-bit RGB as 8-bit, and drops a transparent colour, without a word."""
    name = {
        png.GREY: "black-and-white photo" if header.depth == 1 else "greyscale photo",
        png.RGB: "RGB photo",
        png.PALETTE: "palette photo",
        png.GREY_ALPHA: "greyscale photo with transparency",
        png.RGBA: "RGBA photo (with transparency)",
    }[header.colour]
    name += " with transparency" if header.transparent else ""
    if header.depth == 16:
        return f"16-bit photo ({name.replace(' photo', '', 1)})"
    return None if name == "RGB photo" else name


def _to_8_bit(data: bytes, image: Image.Image, header: png.Png) -> Image.Image:
    """16-bit greyscale or RGB by its nearest 8-bit value (65535 / 257 = 255); Pillow would clip, or cut off."""
    deep = np.asarray(image, dtype=np.uint16) if header.colour == png.GREY else png.decode_rgb16(data)
    small = np.empty(deep.shape, np.uint8)
    for i in range(0, deep.size, 1 << 16):  # in pieces that stay in the cache
        part = deep.ravel()[i : i + (1 << 16)].astype(np.uint32)
        small.ravel()[i : i + (1 << 16)] = (part + 128) // 257
    return Image.fromarray(small)


def _channels_first(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def photo_id(image: torch.Tensor) -> str:
    """A short hash of a photo's pixels, uint8 [3, H, W]: tells later which photos a veil was crafted on."""
    return hashlib.sha256(f"{list(image.shape)}".encode() + image.contiguous().numpy().tobytes()).hexdigest()[:16]
