"""Tags: whether a sealed photo is whole and ours. BLAKE2b (RFC 7693), keyed per person, over the pixels as they are
sealed. Without the key nobody can make one; a photo that was damaged, saved again with loss, or is under another
person's key, does not match its own."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import numpy as np
import torch

from veilkern.data.marks import veil_id
from veilkern.veils.arrays import Photos, photos_of
from veilkern.veils.bank import VeilBank
from veilkern.veils.rows import Rows, rows_of
from veilkern.veils.sealing import Keyring, MasterKeys, keyring_of

TAG_BYTES = 16


def tag_of(keyring: Keyring, row: int, veil: str, sealed: torch.Tensor) -> bytes:
    """The tag of one sealed photo, uint8 or uint16 [3, H, W] on any device, of the person at `row`, whose veil has the
    id `veil`: recovered with another, it would be noise."""
    bank = keyring.bank
    about = f"{sealed.dtype} {list(sealed.shape)} {bank.levels} {bank.rounds} {veil}\n".encode()
    digest = hashlib.blake2b(about, key=keyring.key_of(row, "tag"), digest_size=TAG_BYTES, person=b"veilkern tag 1")
    pixels = np.ascontiguousarray(sealed.cpu().numpy())
    digest.update(pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).data)
    return digest.digest()


def tags(protected: Photos, bank: VeilBank, rows: Rows, *, key: MasterKeys, layout: str = "NCHW") -> torch.Tensor:
    """Tags, uint8 [N, 16], of sealed photos, to be kept beside them; arguments and errors as of `recover`.

    `veilkern protect` writes them into its PNG files, and `veilkern recover` checks them there."""
    found = [tag_of(*one) for one in _each("tags", protected, bank, rows, key, layout)]
    return torch.tensor([list(tag) for tag in found], dtype=torch.uint8).view(-1, TAG_BYTES)


def check_tags(
    protected: Photos, tags: torch.Tensor, bank: VeilBank, rows: Rows, *, key: MasterKeys, layout: str = "NCHW"
) -> torch.Tensor:
    """Whether each photo is whole and sealed for its person under this key, bool [N]: tags as `tags` made them, uint8
    [N, 16]. ValueError for another shape, and errors as of `recover`."""
    photos = list(_each("check_tags", protected, bank, rows, key, layout))
    if not isinstance(tags, torch.Tensor) or tags.dtype != torch.uint8 or tags.shape != (len(photos), TAG_BYTES):
        got = f"{tags.dtype} {list(tags.shape)}" if isinstance(tags, torch.Tensor) else type(tags).__name__
        raise ValueError(f"check_tags: tags must be uint8 [{len(photos)}, {TAG_BYTES}], got {got}")
    given = [bytes(tag) for tag in tags.tolist()]
    same = [hmac.compare_digest(tag_of(*one), tag) for one, tag in zip(photos, given, strict=True)]
    return torch.tensor(same, dtype=torch.bool)


def _each(
    op: str, protected: Photos, bank: VeilBank, rows: Any, key: MasterKeys, layout: str
) -> list[tuple[Keyring, int, str, Any]]:
    """Keyring, row, veil id and photo [3, H, W] of each."""
    if bank.scheme != "sealed":
        raise ValueError(f"{op}: bank must be a sealed one: photos that are blended have no tag")
    keyring = keyring_of(op, bank, key)
    assert keyring is not None
    photos = photos_of(op, "protected", protected, layout, bank.size)
    if photos.ndim != 4 or photos.dtype not in (torch.uint8, torch.uint16):
        raise ValueError(f"{op}: protected must be uint8 or uint16 photos, got {photos.dtype} {list(photos.shape)}")
    wanted = rows_of(op, rows, bank, len(photos), torch.device("cpu")).tolist()
    if len(wanted) != len(photos):
        raise ValueError(f"{op}: rows must have one entry per photo, {len(photos)}, got {len(wanted)}")
    if bad := [row for row in wanted if not 0 <= row < len(bank)]:
        raise ValueError(f"{op}: rows must lie in 0..{len(bank) - 1} (there are {len(bank)} veils), got {bad[0]}")
    veils = {row: veil_id(bank.veils[row]) for row in set(wanted)}
    return [(keyring, row, veils[row], photo) for row, photo in zip(wanted, photos, strict=True)]
