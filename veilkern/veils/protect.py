"""protect and recover: a bank's veils on photos and off again, at memory speed."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch

from veilkern import ops
from veilkern.veils.bank import VeilBank

Photos = TypeVar("Photos", torch.Tensor, np.ndarray)
Rows = torch.Tensor | np.ndarray | Sequence[int] | Sequence[str] | str
LAYOUTS = ("NCHW", "NHWC")


def protect(
    images: Photos,
    bank: VeilBank,
    rows: Rows,
    *,
    out: Photos | None = None,
    lossless: bool = False,
    layout: str = "NCHW",
) -> Photos:
    """Protected photos x' = (a x + (255 - a) v + 127) div 255 of uint8 photos [N, 3, H, W].

    images: a tensor, or a NumPy array, and then so is the result. layout: NHWC for photos [N, H, W, 3], as decoders
    give them; the result lies like them and nothing is copied. rows: the veil of each photo, as integer bank rows [N]
    (on any device) or as N names; one name alone is the person of every photo. Returns uint8, or with lossless uint16
    (recovered exactly), in the shape of images; out: where to write (that dtype, shape and layout). Raises TypeError,
    ValueError, or KeyError for a name without a veil.
    """
    photos, target = _photos("protect", "images", images, bank, layout), _out("protect", out, layout)
    index = _rows("protect", rows, bank, photos)
    found = ops.blend(photos, bank.veils.to(photos.device), index, bank.blend, lossless=lossless, out=target)
    return _like(images, found, layout) if out is None else out


def recover(
    protected: Photos,
    bank: VeilBank,
    rows: Rows,
    *,
    out: Photos | None = None,
    gaussian_sigma: float | None = None,
    layout: str = "NCHW",
) -> Photos:
    """Originals, uint8 [N, 3, H, W], of protected uint8 or uint16 photos; exact from uint16, within (a + 254) div (2 a)
    levels (2 at a = 51) from uint8. gaussian_sigma: smooth the result, in pixels. rows, layout, out, kind of array and
    errors as of `protect`."""
    photos, target = _photos("recover", "protected", protected, bank, layout), _out("recover", out, layout)
    index = _rows("recover", rows, bank, photos)
    found = ops.recover(
        photos, bank.veils.to(photos.device), index, bank.blend, gaussian_sigma=gaussian_sigma, out=target
    )
    return _like(protected, found, layout) if out is None else out


def _photos(op: str, name: str, images: object, bank: VeilBank, layout: str) -> torch.Tensor:
    """The photos as a tensor [N, 3, H, W] on the same memory, of the size of the bank's veils."""
    if not isinstance(bank, VeilBank):
        raise TypeError(f"{op}: bank must be a VeilBank, got {type(bank).__name__}")
    if layout not in LAYOUTS:
        raise ValueError(f"{op}: layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if not isinstance(images, (torch.Tensor, np.ndarray)):
        raise TypeError(f"{op}: {name} must be a tensor or a NumPy array, got {type(images).__name__}")
    if images.ndim == 4:
        _check_channels(op, name, tuple(images.shape), layout)
    photos = _channels_second(_readable(op, name, images), layout)
    if photos.ndim == 4 and tuple(photos.shape[2:]) != bank.size:
        raise ValueError(
            f"{op}: the bank's veils are {bank.size[0]} x {bank.size[1]}, the photos "
            f"{photos.shape[2]} x {photos.shape[3]}"
        )
    return photos


def _check_channels(op: str, name: str, shape: tuple[int, ...], layout: str) -> None:
    second, last = shape[1] == 3, shape[3] == 3
    if layout == "NCHW" and last and not second:
        raise ValueError(f'{op}: {name} {list(shape)} look like [N, H, W, 3]: pass layout="NHWC" for such photos')
    if layout == "NHWC" and not last:
        raise ValueError(f"{op}: {name} must be [N, H, W, 3] with layout NHWC, got {list(shape)}")


def _readable(op: str, name: str, images: torch.Tensor | np.ndarray) -> torch.Tensor:
    """The tensor of an array on the same memory; of an array that torch cannot share (written backwards, read-only, of
    another byte order), of a copy."""
    if isinstance(images, torch.Tensor):
        return images
    if images.dtype.kind != "u" or images.dtype.itemsize > 2:
        raise TypeError(f"{op}: {name} must be uint8 or uint16, got {images.dtype} {list(images.shape)}")
    return torch.from_numpy(images if _shared(images) else np.array(images, images.dtype.newbyteorder("="), order="C"))


def _shared(array: np.ndarray) -> bool:
    return array.flags.writeable and array.dtype.isnative and all(step >= 0 for step in array.strides)


def _out(op: str, out: object, layout: str) -> torch.Tensor | None:
    """`out` as a tensor [N, 3, H, W] on the same memory."""
    if isinstance(out, np.ndarray):
        if not _shared(out):
            raise ValueError(f"{op}: out must be writable, of this machine's byte order and without negative strides")
        out = _readable(op, "out", out)
    elif out is not None and not isinstance(out, torch.Tensor):
        raise TypeError(f"{op}: out must be a tensor or a NumPy array, got {type(out).__name__}")
    return None if out is None else _channels_second(out, layout)


def _channels_second(photos: torch.Tensor, layout: str) -> torch.Tensor:
    return photos.permute(0, 3, 1, 2) if layout == "NHWC" and photos.ndim == 4 else photos


def _like(images: Photos, found: torch.Tensor, layout: str) -> Photos:
    """The result in the layout and kind of array of the photos."""
    photos = found.permute(0, 2, 3, 1) if layout == "NHWC" else found
    return photos if isinstance(images, torch.Tensor) else photos.numpy()


def _rows(op: str, rows: Rows, bank: VeilBank, photos: torch.Tensor) -> torch.Tensor:
    """Bank rows, int64 [N] where the photos are."""
    if isinstance(rows, str):
        return bank.rows([rows]).to(photos.device).expand(len(photos))
    if isinstance(rows, torch.Tensor):
        if rows.dtype.is_floating_point or rows.dtype.is_complex or rows.dtype == torch.bool:
            raise TypeError(f"{op}: rows must be {_WANTED}, got a tensor of {rows.dtype}")
        return rows.to(photos.device, torch.int64)
    if isinstance(rows, np.ndarray) and rows.dtype.kind in "iu":
        return torch.from_numpy(rows.astype(np.int64)).to(photos.device)
    if not isinstance(rows, (Sequence, np.ndarray)) or isinstance(rows, (bytes, bytearray)):
        raise TypeError(f"{op}: rows must be {_WANTED}, got {type(rows).__name__}")
    if len(rows) and all(isinstance(row, str) for row in rows):
        return bank.rows([str(row) for row in rows]).to(photos.device)
    return torch.tensor([_row(op, row, len(bank)) for row in rows], dtype=torch.int64, device=photos.device)


_WANTED = "int64 bank rows, names, or one name for all photos"


def _row(op: str, row: object, people: int) -> int:
    """A row as an integer; nothing is rounded to one, and a truth value is none."""
    try:
        found = operator.index(row)  # type: ignore[arg-type]
    except TypeError:
        found = None
    if found is None or (row.dtype if isinstance(row, torch.Tensor) else type(row)) in (bool, np.bool_, torch.bool):
        raise TypeError(f"{op}: rows must be {_WANTED}, got {row!r} among them")
    if not 0 <= found < people:
        raise ValueError(f"{op}: rows must lie in 0..{people - 1} (there are {people} veils), got {found}")
    return found
