"""Sheets of photos: rows with a word beside each."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

_LABEL, _GAP = 96, 2  # pixels


def sheet(lines: Mapping[str, Sequence[torch.Tensor | None] | torch.Tensor], heads: list[str] | None = None) -> bytes:
    """PNG of uint8 photos [3, H, W], a row each, its name at the left; None is left blank. heads: words above the
    columns."""
    first = next(iter(lines.values()))[0]
    assert first is not None  # an original
    height, width = first.shape[1:]
    columns, head = max(len(photos) for photos in lines.values()), 14 if heads else 0
    size = (_LABEL + columns * (width + _GAP), head + len(lines) * (height + _GAP))
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    for column, word in enumerate(heads or []):
        draw.text((_LABEL + column * (width + _GAP) + 2, 1), word[: width // 6], fill="black")
    for line, (name, photos) in enumerate(lines.items()):
        top = head + line * (height + _GAP)
        for number, word in enumerate(_wrapped(name)):
            draw.text((2, top + 2 + 12 * number), word, fill="black")
        for column, photo in enumerate(photos):
            if photo is None:
                continue
            pixels = np.ascontiguousarray(photo.permute(1, 2, 0).numpy())
            page.paste(Image.fromarray(pixels), (_LABEL + column * (width + _GAP), top))
    file = io.BytesIO()
    page.save(file, "PNG")
    return file.getvalue()


def _wrapped(name: str) -> list[str]:
    """A name in lines of at most 15 characters, as far as its words allow."""
    lines = [""]
    for word in name.split():
        if lines[-1] and len(lines[-1]) + len(word) + 1 > 15:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
