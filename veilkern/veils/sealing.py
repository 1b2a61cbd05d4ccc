"""The sealing keys of a bank's persons, made from the master key as they are needed, and kept nowhere but in memory."""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple, NoReturn

import numpy as np
import torch

from veilkern.ops._checks import KEY_BYTES, NONCE_BYTES
from veilkern.ops._library import is_watched
from veilkern.veils import keyed
from veilkern.veils.bank import VeilBank

MasterKeys = bytes | Iterable[bytes]


class Sealing(NamedTuple):
    """What the ops on sealed photos take beside photos, veils and rows: keys uint8 [P, 32] with the veils. owner: the
    keyring, which overwrites the keys when nobody has it any more."""

    keys: torch.Tensor
    levels: int
    rounds: int
    owner: Keyring

    def __repr__(self) -> str:
        return f"Sealing({len(self.keys)} keys, {self.levels} levels, {self.rounds} rounds)"  # never a key


class Keyring:
    """Sealing keys of a sealed bank, uint8 [P, 32] by row: HKDF of the master key of whose id the bank knows. They are
    made for the rows that are asked for, and overwritten when the keyring goes.

    op: of whom errors speak. keys: the master key, or several, as of a bank joined from several. TypeError and
    ValueError for what is no key; no message shows one.
    """

    def __init__(self, op: str, bank: VeilBank, keys: MasterKeys):
        self.op, self.bank, self.master = op, bank, _by_id(op, keys)
        # Written by NumPy alone: a torch op, when the collector takes a keyring while somebody traces, would be one of
        # the graph's.
        self._bytes = np.zeros((len(bank), KEY_BYTES), dtype=np.uint8)
        self.keys = torch.from_numpy(self._bytes)
        self._known = np.zeros(len(bank), dtype=bool)
        self._copies: dict[torch.device, tuple[int, torch.Tensor]] = {}
        self._made, self._lock = 0, threading.Lock()

    def __repr__(self) -> str:
        return f"Keyring({len(self.bank)} persons)"  # never a key

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Keyring is neither copied nor pickled: make another from the master key")

    def check(self) -> None:
        """ValueError where the master keys are those of nobody here."""
        wanted = dict.fromkeys(self.bank.key_ids)
        if wanted and not wanted.keys() & self.master.keys():
            raise self._wrong(next(iter(wanted)), "these veils were")

    def has_master(self, row: int) -> bool:
        """Whether the master key of the person at `row` is here."""
        return self._key_id(row) in self.master

    def sealing(self, rows: torch.Tensor, device: torch.device) -> Sealing:
        """Keys on `device` where those of rows (int64 [N], which nobody else may write to meanwhile: a key that is not
        made is all zeros) are right. ValueError for a person whose master key is not here. Rows on a GPU are read,
        which waits for it, unless all keys are made (`make_all`)."""
        if not self._known.all():
            if rows.is_cuda and torch.cuda.is_current_stream_capturing():
                raise RuntimeError("while a CUDA graph is captured sealed photos need a Protector, whose keys are made")
            self._make(rows.cpu().numpy())
        return Sealing(self._on(device), self.bank.levels, self.bank.rounds, self)

    def has_made(self, rows: array[int] | torch.Tensor) -> bool:
        """Whether the keys of all these rows (int64, on the host) are made; False for a row that is nobody's."""
        index = rows.numpy() if isinstance(rows, torch.Tensor) else np.frombuffer(rows, np.int64)
        try:
            return bool(self._known[index].all())
        except IndexError:
            return False

    def make_all(self) -> None:
        """Make the keys of everybody whose master key is here: no call has to look at its rows any more, where that is
        all."""
        ids = self.bank.key_ids
        self._make(np.array([row for row in range(len(self.bank)) if ids[row] in self.master], dtype=np.int64))

    def key_of(self, row: int, purpose: str) -> bytes:
        """32 bytes of one person for a purpose, `seal` or `tag`; ValueError when the master key is not here."""
        bank = self.bank
        own = bank.records[row] if bank.records else {}
        key_id = self._key_id(row)
        if key_id not in self.master:
            raise self._wrong(key_id, f"the veil of {bank.names[row]} was")
        # The name that keyed the start: a person who was renamed since keeps the key.
        return keyed.derived(
            self.master[key_id], purpose, own.get("keyed_as", bank.names[row]), own.get("generation", 0)
        )

    def _key_id(self, row: int) -> str:
        own = self.bank.records[row] if self.bank.records else {}
        return own.get("key_id", self.bank.key_id)

    def wipe(self) -> None:
        """Overwrite the keys that are held here, and forget the master keys. Copies on a GPU stay where torch's calls
        are being recorded: overwriting them would be recorded too."""
        self._bytes[:] = 0
        for _, copy in [] if is_watched() else self._copies.values():
            if copy.is_cuda:  # a kernel of any stream may still read them
                torch.cuda.synchronize(copy.device)
            copy.zero_()
        self._known[:] = False
        self.master = {}

    def __del__(self) -> None:
        with suppress(Exception):  # at the end of the interpreter torch may be half gone
            self.wipe()

    def _make(self, rows: np.ndarray) -> None:
        rows = rows[(rows >= 0) & (rows < len(self._known))]  # the op says what is wrong with the others
        if self._known[rows].all():
            return
        with self._lock:
            for row in np.unique(rows[~self._known[rows]]).tolist():
                self._bytes[row] = np.frombuffer(self.key_of(row, "seal"), np.uint8)
                self._made += 1
                self._known[row] = True  # last: who sees this finds the key, and takes no older copy for whole

    def _on(self, device: torch.device) -> torch.Tensor:
        if device.type == "cpu":
            return self.keys
        made, found = self._copies.get(device, (-1, self.keys))
        if made != self._made:
            made = self._made
            found = self.keys.to(device)
            if found.is_cuda:  # other streams may read them
                torch.cuda.current_stream(device).synchronize()
            self._copies[device] = made, found
        return found

    def _wrong(self, wanted: str, whose: str) -> ValueError:
        found = ", ".join(self.master) or "none"
        return ValueError(
            f"{self.op}: key must be the master key that {whose} crafted with, id {wanted or 'unknown'}, got id {found}"
        )


@torch.compiler.disable  # type: ignore[untyped-decorator]  # a compiled graph must not keep what it once drew
def fresh_nonces(count: int, device: torch.device) -> torch.Tensor:
    """uint8 [count, 12] from the operating system: 96 random bits a photo. Of 2^32 photos under one key two have the
    same with a chance of 2^-33: no more than these should be sealed with one person's key.

    RuntimeError while a CUDA graph is captured: each replay would seal with the same nonces.
    """
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "sealed photos need fresh nonces, which a CUDA graph would repeat: seal outside of the graph"
        )
    drawn = bytearray(os.urandom(max(1, count) * NONCE_BYTES))  # torch takes no empty buffer
    return torch.frombuffer(drawn, dtype=torch.uint8).view(-1, NONCE_BYTES)[:count].to(device)


def keyring_of(op: str, bank: VeilBank, key: MasterKeys | None) -> Keyring | None:
    """The keyring of a sealed bank, None for one that blends. ValueError when a key is missing, or is one too many."""
    if bank.levels == 0:
        if key is not None:
            raise ValueError(f"{op}: key must be None: this bank's veils are blended with, and are the keys themselves")
        return None
    if key is None:
        raise ValueError(f"{op}: key must be given, the master key of this sealed bank (id {bank.key_id or 'of each'})")
    return Keyring(op, bank, key)


def _by_id(op: str, keys: object) -> dict[str, bytes]:
    given = [keys] if isinstance(keys, (bytes, bytearray)) else keys
    if not isinstance(given, Iterable) or isinstance(given, str):
        raise TypeError(f"{op}: key must be bytes, or several of them, got {type(keys).__name__}")
    checked = [keyed.check_key(one) for one in given]
    return {keyed.key_id(one): one for one in checked}
