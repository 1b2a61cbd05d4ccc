"""The sealing keys of a bank's persons, made from the master key as they are needed, and kept nowhere but in memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from contextlib import suppress

import numpy as np
import torch

from veilkern.ops._checks import KEY_BYTES, NONCE_BYTES
from veilkern.veils import keyed
from veilkern.veils.bank import VeilBank

MasterKeys = bytes | Iterable[bytes]


class Keyring:
    """Sealing keys of a sealed bank, uint8 [P, 32] by row: HKDF of the person's master key, of whose id the bank knows.

    keys: the master keys, by id; ValueError where none is that of anybody here.
    """

    def __init__(self, op: str, bank: VeilBank, keys: dict[str, bytes]):
        self.op, self.master = op, keys
        self.ids, self.generations = bank.key_ids, bank.generations
        records = bank.records or [{}] * len(bank)
        # The name that keyed the start: a person who was renamed since keeps the key.
        self.persons = [record.get("keyed_as", name) for name, record in zip(bank.names, records, strict=True)]
        if len(bank) and not set(self.ids) & set(keys):
            raise ValueError(
                f"{op}: key must be the one that these veils were crafted with, key id {self.ids[0] or 'unknown'}, got "
                f"key id {', '.join(keys)}"
            )
        self.keys = torch.zeros(len(bank), KEY_BYTES, dtype=torch.uint8)
        self._known = np.zeros(len(bank), dtype=bool)
        self._copies: dict[torch.device, tuple[int, torch.Tensor]] = {}
        self._made, self._lock = 0, threading.Lock()

    def __repr__(self) -> str:
        return f"Keyring({len(self.persons)} persons)"  # never a key

    def of(self, rows: torch.Tensor, device: torch.device) -> torch.Tensor:
        """The keys [P, 32] on `device`, those of `rows` (int64 [N], on the host; others ignored) made. ValueError for a
        person whose master key is not here."""
        wanted = rows.numpy()
        wanted = wanted[(wanted >= 0) & (wanted < len(self._known))]  # the op says what is wrong with the others
        if not self._known[wanted].all():
            with self._lock:
                for row in np.unique(wanted[~self._known[wanted]]).tolist():
                    self._make(row)
        if device.type == "cpu":
            return self.keys
        made, found = self._copies.get(device, (-1, self.keys))
        if made != self._made:
            made = self._made
            found = self.keys.to(device)
            self._copies[device] = made, found
        return found

    def key_of(self, row: int, purpose: str) -> bytes:
        """32 bytes of one person for a purpose: `seal`, or `tag`."""
        master = self.master.get(self.ids[row])
        if master is None:
            raise ValueError(
                f"{self.op}: {self.persons[row]} needs the master key of id {self.ids[row]}, which is not given"
            )
        return keyed.derived(master, purpose, self.persons[row], self.generations[row])

    def _make(self, row: int) -> None:
        key = self.key_of(row, "seal")
        self.keys[row] = torch.frombuffer(bytearray(key), dtype=torch.uint8)
        self._made += 1
        self._known[row] = True  # the last of it: who sees this finds the key, and no older copy of the keys

    def wipe(self) -> None:
        """Overwrite the keys that are held here."""
        for keys in (self.keys, *(copy for _, copy in self._copies.values())):
            keys.zero_()
        self._known[:] = False
        self.master = {}

    def __del__(self) -> None:
        with suppress(Exception):  # at the end of the interpreter torch may be half gone
            self.wipe()


def fresh_nonces(count: int) -> torch.Tensor:
    """uint8 [count, 12] from the operating system: 96 random bits a photo. Of 2^32 photos under one key two have the
    same with a chance of 2^-33: no more than these should be sealed with one person's key."""
    drawn = bytearray(os.urandom(max(1, count) * NONCE_BYTES))  # torch takes no empty buffer
    return torch.frombuffer(drawn, dtype=torch.uint8).view(-1, NONCE_BYTES)[:count]


def master_keys(op: str, key: object) -> dict[str, bytes]:
    """Master keys by id, of one or several."""
    given = [key] if isinstance(key, (bytes, bytearray)) else key
    if not isinstance(given, Iterable) or isinstance(given, str):
        raise TypeError(f"{op}: key must be bytes, or several of them, got {type(key).__name__}")
    checked = [keyed.check_key(one) for one in given]
    return {keyed.key_id(one): one for one in checked}
