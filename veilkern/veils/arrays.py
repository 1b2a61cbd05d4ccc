"""Photos and outputs of whatever kind of array as tensors [N, 3, H, W] on the same memory, and results as they came."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch

Photos = TypeVar("Photos", torch.Tensor, np.ndarray)
LAYOUTS = ("NCHW", "NHWC")
_KINDS = "a tensor or a NumPy array, or have __dlpack__"


def as_tensor(op: str, name: str, value: object) -> object:
    """A tensor on the memory of an object with __dlpack__; tensors, NumPy arrays and all else as they are. TypeError
    where its owner does not give the memory away (read-only, of no dtype of torch's)."""
    if isinstance(value, (torch.Tensor, np.ndarray)) or not hasattr(value, "__dlpack__"):
        return value
    try:
        return torch.from_dlpack(value)  # type: ignore[attr-defined]
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        owner = value.owner if isinstance(value, _Plain) else value
        raise TypeError(f"{op}: {name}, {type(owner).__name__}, cannot be shared by DLPack ({error})") from error


class _Plain:
    """An object's memory by DLPack without a version. Newer capsules may say "read-only", which torch does not heed
    (2.13); of an older one the owner has to refuse."""

    def __init__(self, owner: Any):
        self.owner = owner

    def __dlpack__(self, **options: Any) -> Any:
        return self.owner.__dlpack__(**{name: value for name, value in options.items() if name != "max_version"})

    def __dlpack_device__(self) -> Any:
        return self.owner.__dlpack_device__()


def photos_of(op: str, name: str, images: object, layout: str, size: tuple[int, int]) -> torch.Tensor:
    """The photos as a tensor [N, 3, H, W] on the same memory, where H x W is `size`, that of the bank's veils."""
    if layout not in LAYOUTS:
        raise ValueError(f"{op}: layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    images = as_tensor(op, name, images)
    if not isinstance(images, (torch.Tensor, np.ndarray)):
        raise TypeError(f"{op}: {name} must be {_KINDS}, got {type(images).__name__}")
    if images.ndim == 4:
        _check_channels(op, name, tuple(images.shape), layout)
    photos = channels_second(_readable(op, name, images), layout)
    if photos.ndim == 4 and tuple(photos.shape[2:]) != size:
        raise ValueError(
            f"{op}: the bank's veils are {size[0]} x {size[1]}, the photos {photos.shape[2]} x {photos.shape[3]}"
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
    """Whether torch can share this memory; it looks at the strides of sides of 1 too, where NumPy leaves anything."""
    size = array.dtype.itemsize
    return array.flags.writeable and array.dtype.isnative and all(s >= 0 and s % size == 0 for s in array.strides)


def output_of(op: str, out: object, layout: str) -> torch.Tensor | None:
    """`out` as a tensor [N, 3, H, W] on the same memory."""
    if not isinstance(out, (torch.Tensor, np.ndarray)) and hasattr(out, "__dlpack__"):
        out = _Plain(out)
    out = as_tensor(op, "out", out)
    if isinstance(out, np.ndarray):
        if not _shared(out):
            raise ValueError(
                f"{op}: out must be writable, of this machine's byte order and without negative strides or odd ones"
            )
        out = _readable(op, "out", out)
    elif out is not None and not isinstance(out, torch.Tensor):
        raise TypeError(f"{op}: out must be {_KINDS}, got {type(out).__name__}")
    return None if out is None else channels_second(out, layout)


def channels_second(photos: torch.Tensor, layout: str) -> torch.Tensor:
    """Photos [N, 3, H, W], a view, of photos in a layout."""
    return photos.permute(0, 3, 1, 2) if layout == "NHWC" and photos.ndim == 4 else photos


def like(images: Photos, found: torch.Tensor, layout: str) -> Photos:
    """The result in the layout and kind of array of the photos; a tensor where they came by DLPack."""
    photos = found.permute(0, 2, 3, 1) if layout == "NHWC" else found
    return photos.numpy() if isinstance(images, np.ndarray) else photos
