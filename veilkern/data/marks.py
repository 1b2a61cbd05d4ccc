"""The mark of a protected photo, in a text chunk of its PNG: which veil took it, so that no other is tried on it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

import torch

from veilkern.errors import PhotoError

KEYWORD = "veilkern"
BLEND = "blend-1"  # x' = (a x + (255 - a) v + 127) div 255, or the numerator itself in 16 bit
SEALED = "sealed-1"  # ops.seal
_OF_ALL = ("veil", "blend", "lossless", "bank", "scheme")
_OF_SEALED = ("levels", "rounds", "key_id", "tag")
_KINDS = {
    **dict.fromkeys(("veil", "bank", "scheme", "key_id", "tag"), str),
    **dict.fromkeys(("blend", "levels", "rounds"), int),
    "lossless": bool,
}


@dataclass(frozen=True)
class Mark:
    """veil: veil_id of the person's veil. blend: a, 0 of a sealed photo. lossless: 16 bit. bank: the bank's key_id, for
    information; it does not count when marks are compared, since banks are merged. scheme: BLEND or SEALED.

    Of a sealed photo: levels, rounds; key_id: of the person's master key; tag: in hex, over the photo's pixels, keyed
    (veils/tags.py), which does not count when marks are compared. Nothing in a mark tells anything of the photo, the
    veil or a key."""

    veil: str
    blend: int
    lossless: bool
    bank: str = field(default="", compare=False)
    scheme: str = BLEND
    levels: int = 0
    rounds: int = 0
    key_id: str = ""
    tag: str = field(default="", compare=False)

    def text(self) -> str:
        """For the text chunk: one line of JSON, ASCII."""
        names = _OF_ALL + (_OF_SEALED if self.scheme == SEALED else ())
        return json.dumps({name: getattr(self, name) for name in names}, sort_keys=True)

    @classmethod
    def parse(cls, text: str) -> Mark:
        """The opposite of text(); PhotoError for what is none, or of a later version."""
        try:
            values = json.loads(text)
            names = _OF_ALL + (_OF_SEALED if values["scheme"] == SEALED else ())
            mark = cls(**{name: values[name] for name in names})
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise PhotoError("protected, but its mark cannot be read: changed, or of another version") from error
        if not all(type(getattr(mark, name)) is kind for name, kind in _KINDS.items()):
            raise PhotoError("protected, but its mark cannot be read: changed, or of another version")
        if mark.scheme not in (BLEND, SEALED):
            raise PhotoError(f"protected by another scheme or version than this veilkern's ({BLEND}, {SEALED})")
        return mark


def veil_id(veil: torch.Tensor) -> str:
    """16 hex digits that tell veils, uint8 [3, H, W], apart. No way back: a veil is far too random to be guessed."""
    digest = hashlib.sha256(f"veilkern veil id {list(veil.shape)}\n".encode())
    digest.update(veil.cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]
