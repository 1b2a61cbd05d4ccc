"""What protected photos meet on their way (Fig. 7): noise, filters, JPEG, sizes and shifts, on values 0..255.

Each takes uint8 [N, 3, H, W] and gives the same back. What is drawn is drawn for each photo by itself, from the seed
and the photo's mark: a photo meets the same noise whichever others are there, at every level the same one, larger.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageFilter

# kind: (what its level is, the levels that are tried)
LEVELS: dict[str, tuple[str, tuple[float, ...]]] = {
    "none": ("", (0,)),
    "Gaussian noise": ("sigma, levels of 255", (20, 40, 60, 80, 100, 120, 140, 160)),
    "salt and pepper": ("share of the pixels", (0.05, 0.10, 0.15, 0.20, 0.25, 0.30)),
    "median filter": ("side, pixels", (3, 5, 7)),
    "JPEG": ("quality", (90, 75, 50, 30)),
    "resize": ("side, share of the photo's", (0.75, 0.5, 0.375)),
    "shift": ("pixels to the right and down", (1, 2, 4)),
}


def change(photos: torch.Tensor, kind: str, level: float, marks: Sequence[str], seed: int) -> torch.Tensor:
    """`photos` after this change. kind, level: of LEVELS (any level of the kind's unit). marks: what tells the photos
    apart, such as their ids, one each. ValueError for an unknown kind or a level that means nothing."""
    if kind not in _KINDS:
        raise ValueError(f"change: kind must be one of {', '.join(_KINDS)}, got {kind!r}")
    if len(marks) != len(photos):
        raise ValueError(f"change: marks must have {len(photos)} entries, one a photo, got {len(marks)}")
    check, made = _KINDS[kind]
    if not check(level):
        raise ValueError(f"change: level of {kind} ({LEVELS[kind][0] or 'none has one'}) cannot be {level}")
    if not len(photos):
        return photos.clone()
    return torch.stack([made(photo, level, f"{seed} {kind} {mark}") for photo, mark in zip(photos, marks, strict=True)])


def jpeg(photos: torch.Tensor, quality: int, chroma: str = "4:2:0") -> torch.Tensor:
    """Written as JPEG by Pillow and read again. chroma: `4:4:4` keeps the colours' size, `4:2:0` (customary) halves
    their sides."""
    subsampling = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}[chroma]
    made = []
    for photo in photos:
        file = io.BytesIO()
        _image(photo).save(file, "JPEG", quality=quality, subsampling=subsampling)
        with Image.open(file) as image:
            made.append(_tensor(image))
    return torch.stack(made) if made else photos.clone()


def _drawn(stream: str) -> np.random.Generator:
    return np.random.Generator(
        np.random.Philox(key=int.from_bytes(hashlib.sha256(stream.encode()).digest()[:16], "big"))
    )


def _noise(photo: torch.Tensor, sigma: float, stream: str) -> torch.Tensor:
    normal = torch.from_numpy(_drawn(stream).standard_normal(photo.shape, dtype=np.float32))
    return (photo + sigma * normal).round().clamp(0, 255).to(torch.uint8)


def _salt_and_pepper(photo: torch.Tensor, share: float, stream: str) -> torch.Tensor:
    """Whole pixels, black or white with even chance: the same ones at every share, and more."""
    drawn = _drawn(stream).random((2, *photo.shape[1:]))
    hit, white = torch.from_numpy(drawn[0] < share), torch.from_numpy(drawn[1] < 0.5)
    return torch.where(hit, torch.where(white, 255, 0).to(torch.uint8), photo)


def _median(photo: torch.Tensor, side: float, _: str) -> torch.Tensor:
    return _tensor(_image(photo).filter(ImageFilter.MedianFilter(int(side))))


def _resize(photo: torch.Tensor, share: float, _: str) -> torch.Tensor:
    """Down by area to that share of each side, and bilinear up again."""
    image = _image(photo)
    small = [max(1, round(side * share)) for side in image.size]
    return _tensor(image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BILINEAR))


def _shift(photo: torch.Tensor, pixels: float, _: str) -> torch.Tensor:
    """Cropped so many pixels further to the left and up; at the border the outermost pixel goes on."""
    by = int(pixels)
    rows, columns = (torch.arange(side).sub(by).clamp(0, side - 1) for side in photo.shape[1:])
    return photo[:, rows][:, :, columns]


def _image(photo: torch.Tensor) -> Image.Image:
    return Image.fromarray(photo.permute(1, 2, 0).contiguous().numpy())


def _tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


Change = Callable[[torch.Tensor, float, str], torch.Tensor]
_KINDS: dict[str, tuple[Callable[[float], bool], Change]] = {
    "none": (lambda level: level == 0, lambda photo, _, __: photo),
    "Gaussian noise": (lambda level: level >= 0, _noise),
    "salt and pepper": (lambda level: 0 <= level <= 1, _salt_and_pepper),
    "median filter": (lambda level: level >= 1 and level % 2 == 1, _median),
    "JPEG": (lambda level: 1 <= level <= 95 and level == int(level), lambda p, level, _: jpeg(p[None], int(level))[0]),
    "resize": (lambda level: 0 < level <= 1, _resize),
    "shift": (lambda level: level >= 0 and level == int(level), _shift),
}
