"""The mark of a protected photo, in a text chunk of its PNG: which veil took it, so that no other is tried on it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field

import torch

from veilkern.errors import PhotoError

KEYWORD = "veilkern"
SCHEME = "blend-1"  # x' = (a x + (255 - a) v + 127) div 255, or the numerator itself in 16 bit


@dataclass(frozen=True)
class Mark:
    """veil: veil_id of the person's veil. blend: a. lossless: 16 bit. bank: the bank's key_id, for information; it does
    not count when marks are compared, since banks are merged. Nothing in it tells anything of the photo or the veil."""

    veil: str
    blend: int
    lossless: bool
    bank: str = field(default="", compare=False)
    scheme: str = SCHEME

    def text(self) -> str:
        """For the text chunk: one line of JSON, ASCII."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def parse(cls, text: str) -> Mark:
        """The opposite of text(); PhotoError for what is none, or of a later version."""
        try:
            values = json.loads(text)
            mark = cls(**{name: values[name] for name in ("veil", "blend", "lossless", "bank", "scheme")})
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise PhotoError("protected, but its mark cannot be read: changed, or of another version") from error
        if mark.scheme != SCHEME:
            raise PhotoError(f"protected by another scheme or version than this veilkern's ({SCHEME})")
        return mark


def veil_id(veil: torch.Tensor) -> str:
    """16 hex digits that tell veils, uint8 [3, H, W], apart. No way back: a veil is far too random to be guessed."""
    digest = hashlib.sha256(f"veilkern veil id {list(veil.shape)}\n".encode())
    digest.update(veil.cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]
