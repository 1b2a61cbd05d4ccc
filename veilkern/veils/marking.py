"""Marking: the marks of one bank's protected photos, made and checked."""

from __future__ import annotations

import dataclasses
import hmac

import torch

from veilkern.data.marks import BLEND, SEALED, Mark, veil_id
from veilkern.errors import PhotoError
from veilkern.veils.bank import VeilBank
from veilkern.veils.sealing import Keyring
from veilkern.veils.tags import tag_of

TRY = "(--force tries it)"


class Marking:
    """Marks of the photos that are protected with a bank. Veils are hashed when they are first asked for, all of them
    only to name a stranger. keyring: of a sealed bank."""

    def __init__(self, bank: VeilBank, keyring: Keyring | None):
        self.bank, self.keyring = bank, keyring
        self.key_ids = bank.key_ids
        self.ids: dict[int, str] = {}

    @property
    def key(self) -> list[bytes] | None:
        """The master keys, as protect and recover take them."""
        return None if self.keyring is None else list(self.keyring.master.values())

    def why_not(self, row: int) -> str | None:
        """Why nothing can be done for the person at `row`, if so."""
        if self.keyring is None or self.keyring.has_master(row):
            return None
        return f"needs the master key of id {self.key_ids[row] or 'unknown'}, which is not given"

    def wanted(self, row: int, lossless: bool) -> Mark:
        """The mark of a photo of the person at `row`, without a tag."""
        bank, key_id = self.bank, self.key_ids[row]
        mark = Mark(self.id_of(row), bank.blend, lossless, key_id)
        if self.keyring is None:
            return mark
        return dataclasses.replace(mark, scheme=SEALED, levels=bank.levels, rounds=bank.rounds, key_id=key_id)

    def made(self, row: int, hidden: torch.Tensor) -> Mark:
        """The mark of a protected photo [3, H, W]."""
        mark = self.wanted(row, hidden.dtype == torch.uint16)
        if self.keyring is None:
            return mark
        return dataclasses.replace(mark, tag=tag_of(self.keyring, row, mark.veil, hidden).hex())

    def check(self, mark: Mark, row: int, hidden: torch.Tensor) -> None:
        """PhotoError unless this photo with this mark was protected with the veil and key of `row`, as they are now,
        and is whole."""
        wanted, name = self.wanted(row, hidden.dtype == torch.uint16), self.bank.names[row]
        if mark.scheme != wanted.scheme:
            raise PhotoError(f"protected with {difference(mark, wanted)} of the bank {TRY}")
        if mark.veil != wanted.veil:
            owner = next((n for r, n in enumerate(self.bank.names) if self.id_of(r) == mark.veil), None)
            whose = "a veil that is not in this bank" if owner is None else f"the veil of {owner}"
            raise PhotoError(f"protected with {whose}, not with that of {name} {TRY}")
        if mark.lossless != wanted.lossless:
            now = "saved again since, so it will not come back exactly"
            raise PhotoError(f"protected with {difference(mark, wanted)}: {now} {TRY}")
        if mark != wanted:
            raise PhotoError(f"protected with {difference(mark, wanted)} of the bank {TRY}")
        if self.keyring is not None and not self._is_whole(mark, row, hidden):
            raise PhotoError(f"its tag does not match: damaged, changed or not sealed by the holder of this key {TRY}")

    def _is_whole(self, mark: Mark, row: int, hidden: torch.Tensor) -> bool:
        assert self.keyring is not None
        wanted = tag_of(self.keyring, row, self.id_of(row), hidden).hex()
        return hmac.compare_digest(wanted.encode(), mark.tag.encode(errors="surrogatepass"))

    def id_of(self, row: int) -> str:
        """`veil_id` of the veil at `row`."""
        if row not in self.ids:
            self.ids[row] = veil_id(self.bank.veils[row])
        return self.ids[row]


def difference(found: Mark, wanted: Mark) -> str:
    """In which way a photo was protected otherwise than wanted."""
    schemes = {BLEND: "blended", SEALED: "sealed"}
    if found.scheme != wanted.scheme:
        return f"another scheme, {schemes[found.scheme]} instead of {schemes[wanted.scheme]}"
    if found.veil != wanted.veil:
        return "another veil"
    if found.blend != wanted.blend:
        return f"another blend, {found.blend!r} instead of {wanted.blend}"
    if found.key_id != wanted.key_id:
        return f"another key, id {found.key_id!r} instead of {wanted.key_id}"
    if (found.levels, found.rounds) != (wanted.levels, wanted.rounds):
        return f"{found.levels!r} levels and {found.rounds!r} rounds instead of {wanted.levels} and {wanted.rounds}"
    return "16 bits instead of 8" if found.lossless else "8 bits instead of 16"
