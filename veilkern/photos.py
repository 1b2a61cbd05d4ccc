"""One photo at a time: reading with every check, writing 8-bit and 16-bit PNG."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from veilkern.errors import PhotoError
from veilkern.files import atomic_write

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MAX_FILE_BYTES = 256 << 20  # larger than any photo; read whole into memory
_PNG = b"\x89PNG\r\n\x1a\n"


def read_photo(
    path: str | os.PathLike[str], *, size: tuple[int, int] = (112, 112), resize: bool = False, convert: bool = False
) -> tuple[torch.Tensor, list[str]]:
    """Read one aligned face photo: uint8 [3, H, W] RGB, and notices (for instance "turned by its EXIF orientation").

    size: (height, width) wanted. resize: bring another size to it (bicubic) instead of refusing. convert: turn
    greyscale, palette, RGBA, CMYK and 16-bit photos into 8-bit RGB instead of refusing; what that changes cannot be
    recovered later. Raises PhotoError naming the file and the cause.
    """
    data = _read_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
                return _checked(path, data, image, size, resize, convert)
    except UnidentifiedImageError as error:
        raise PhotoError(f"{path}: not a PNG, JPEG or WebP photo, or its header is corrupt") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoError(f"{path}: far too many pixels for a face crop ({error})") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow's decoders raise on damaged data
        raise PhotoError(f"{path}: corrupt or truncated: {error}") from error


def _read_bytes(path: str | os.PathLike[str]) -> bytes:
    try:
        if not Path(path).is_file():
            raise PhotoError(f"{path}: not a file")
        if os.path.getsize(path) > MAX_FILE_BYTES:
            raise PhotoError(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB, not a face photo")
        data = Path(path).read_bytes()
    except OSError as error:
        raise PhotoError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not data:
        raise PhotoError(f"{path}: the file is empty")
    return data


def _checked(path, data, image, size, resize, convert):
    notices = []
    kind = _kind(image, data)
    if kind and not convert:
        raise PhotoError(
            f"{path}: {kind}, wanted 8-bit RGB; convert it, or ask for conversion (convert=True, --convert)"
        )
    if getattr(image, "n_frames", 1) > 1:
        raise PhotoError(f"{path}: an animation of {image.n_frames} frames, wanted one photo")
    turned = image.getexif().get(0x0112, 1) in range(2, 9)
    got = image.size[::-1]
    if turned and image.getexif()[0x0112] >= 5:
        got = got[::-1]
    if got != size and not resize:
        raise PhotoError(
            f"{path}: {got[0]} x {got[1]} pixels (height x width), wanted {size[0]} x {size[1]}; align and "
            "crop it, or ask for resizing (resize=True, --resize)"
        )
    image.load()
    if turned:
        image = ImageOps.exif_transpose(image)
        notices.append("turned upright by its EXIF orientation")
    if kind:
        image = _to_rgb(image)
        notices.append(f"{kind}, converted to 8-bit RGB")
    if image.size != size[::-1]:
        image = image.resize(size[::-1], Image.Resampling.BICUBIC)
        notices.append(f"resized from {got[0]} x {got[1]} to {size[0]} x {size[1]}")
    pixels = np.array(image, dtype=np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), notices


def _kind(image: Image.Image, data: bytes) -> str | None:
    """What the photo is when it is not plain 8-bit RGB."""
    if _png_depth(data) == 16 or image.mode.startswith(("I", "F")):
        return "16-bit photo"
    names = {
        "1": "black-and-white photo",
        "L": "greyscale photo",
        "LA": "greyscale photo with transparency",
        "P": "palette photo",
        "PA": "palette photo with transparency",
        "RGBA": "RGBA photo (with transparency)",
        "CMYK": "CMYK photo",
        "YCCK": "CMYK photo",
    }
    return None if image.mode == "RGB" else names.get(image.mode, f"photo of mode {image.mode}")


def _png_depth(data: bytes) -> int:
    """Bit depth from a PNG's header: Pillow reads 16-bit RGB as 8-bit without a word."""
    return data[24] if data.startswith(_PNG) and len(data) > 24 else 0


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # 16-bit greyscale: Pillow would clip, not scale
        return Image.fromarray(
            (np.asarray(image, dtype=np.float64) / 257).round().clip(0, 255).astype(np.uint8)
        ).convert("RGB")
    return image.convert("RGB")


def read_protected(path: str | os.PathLike[str], *, size: tuple[int, int]) -> torch.Tensor:
    """Read what `protect` wrote: uint8 [3, H, W], or uint16 [3, H, W] from a lossless 16-bit PNG.

    Raises PhotoError naming the file and the cause; a JPEG is refused, because its loss ruins the recovery.
    """
    data = _read_bytes(path)
    if not data.startswith(_PNG):
        raise PhotoError(f"{path}: not a PNG; protected photos are PNG, since lossy compression ruins the recovery")
    if _png_depth(data) != 16:
        return read_photo(path, size=size)[0]
    import png  # pypng: the one maintained reader and writer of 16-bit RGB PNG that needs no compiled code

    try:
        width, height, rows, info = png.Reader(bytes=data).read()
        if (height, width) != tuple(size) or info["planes"] != 3:
            raise PhotoError(
                f"{path}: {height} x {width} x {info['planes']} 16-bit PNG, wanted {size[0]} x {size[1]} x 3"
            )
        pixels = np.vstack([np.asarray(row, dtype=np.uint16) for row in rows]).reshape(height, width, 3)
    except (png.Error, ValueError, EOFError, OSError, IndexError, MemoryError) as error:
        raise PhotoError(f"{path}: corrupt or truncated: {error}") from error
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def encode_png(pixels: torch.Tensor) -> bytes:
    """PNG bytes of uint8 [3, H, W] (8-bit RGB) or uint16 [3, H, W] (16-bit RGB)."""
    array = pixels.permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    if array.dtype == np.uint8:
        Image.fromarray(array).save(buffer, "PNG", compress_level=1)
    else:
        import png

        height, width, _ = array.shape
        png.Writer(width, height, greyscale=False, bitdepth=16, compression=1).write(buffer, array.reshape(height, -1))
    return buffer.getvalue()


def write_png(path: str | os.PathLike[str], pixels: torch.Tensor) -> None:
    """Write uint8 or uint16 [3, H, W] as PNG, whole or not at all (OutputError)."""
    atomic_write(path, encode_png(pixels))
