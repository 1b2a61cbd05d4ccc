"""Small pictures for the report: the photo with the faces that were found, and beside it the crop."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from veilkern.aligning.detectors import Face

TILE = 144  # pixels; a picture is two of them side by side
MOST = 2000  # pictures of crops, and as many of photos that were left out: a few kB each, in one page
_TAKEN, _OTHER = (46, 204, 113), (230, 126, 34)


class Album:
    """Makes pictures until there are enough for a page."""

    def __init__(self, most: int = MOST):
        self.room = {True: most, False: most}

    def picture(
        self, rgb: np.ndarray | None, faces: Sequence[Face], chosen: int | None, crop: torch.Tensor | None
    ) -> bytes:
        """JPEG of photo, uint8 [H, W, 3], with boxes and points, and of crop, uint8 [3, h, w]; empty when there are
        enough. What is not there is grey."""
        if not self.room[crop is None]:
            return b""
        self.room[crop is None] -= 1
        strip = Image.new("RGB", (2 * TILE, TILE), (128, 128, 128))
        if rgb is not None:
            strip.paste(_with_faces(rgb, faces, chosen), (0, 0))
        if crop is not None:
            face = Image.fromarray(crop.permute(1, 2, 0).contiguous().numpy())
            strip.paste(face.resize((TILE, TILE), Image.Resampling.BICUBIC), (TILE, 0))
        buffer = io.BytesIO()
        strip.save(buffer, "JPEG", quality=85)
        return buffer.getvalue()


def _with_faces(rgb: np.ndarray, faces: Sequence[Face], chosen: int | None) -> Image.Image:
    """The photo within a tile, boxes and points drawn: green of the face that was taken, orange of the others."""
    height, width = rgb.shape[:2]
    by = TILE / max(height, width)
    size = (max(1, round(width * by)), max(1, round(height * by)))
    tile = Image.fromarray(rgb).resize(size, Image.Resampling.BOX if by < 1 else Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(tile)
    for number, face in enumerate(faces):
        colour = _TAKEN if number == chosen else _OTHER
        left, top, right, bottom = (x * by for x in face.box)
        draw.rectangle((min(left, right), min(top, bottom), max(left, right), max(top, bottom)), outline=colour)
        for x, y in face.points * by:
            draw.ellipse((x - 1, y - 1, x + 1, y + 1), fill=colour)
    return tile


def tiles(picture: bytes) -> torch.Tensor:
    """Photo and crop of a picture, uint8 [2, 3, TILE, TILE]."""
    strip = np.array(Image.open(io.BytesIO(picture)).convert("RGB"))
    return torch.from_numpy(strip.reshape(TILE, 2, TILE, 3)).permute(1, 3, 0, 2)


def address(picture: bytes) -> str:
    """A picture as an address that holds it."""
    return "data:image/jpeg;base64," + base64.b64encode(picture).decode()
