"""The bank that is served, read anew when its file is another one; requests keep the bank that they met."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from pathlib import Path

import torch

from veilkern.data.marks import Mark
from veilkern.errors import PhotoError, VeilkernError
from veilkern.serving.history import by_person, keyed_as, load_old, old_path
from veilkern.serving.metrics import METRICS
from veilkern.serving.settings import Settings
from veilkern.veils import keyed
from veilkern.veils.bank import VeilBank
from veilkern.veils.marking import Marking
from veilkern.veils.protector import Protector
from veilkern.veils.sealing import keyring_of

log = logging.getLogger("veilkern.serving")


class Served:
    """One reading of a bank, whole and never changed: whoever holds it protects, marks, checks and recovers with one
    bank, whatever happens to the file. The Protector's own swap serves callers for whom that does not matter."""

    def __init__(self, bank: VeilBank, key: list[bytes] | None, device: str, max_batch: int, old: Served | None = None):
        self.protector = Protector(bank, device, max_batch, key=key)
        self.bank, self.key, self.old = bank, key, old
        self.marking = Marking(bank, keyring_of("serve", bank, key))

    def __repr__(self) -> str:
        return f"Served({self.bank!r})"  # never a key

    def row_of(self, name: str) -> int | None:
        """The row of a person; None for whoever has no veil."""
        return self.bank.row_of(name)

    def marked(self, name: str, hidden: torch.Tensor) -> Mark:
        """The mark of a protected photo [3, H, W] of this person."""
        return self.marking.made(self._row(name), hidden)

    def whose(self, name: str, mark: Mark | None, hidden: torch.Tensor) -> tuple[Served, str]:
        """With which bank, and under which name there, a protected photo [3, H, W] of this person is recovered: this
        one, or that of the veils that were rotated away. PhotoError where its mark says that it cannot be."""
        if mark is None:
            if self.marking.keyring is not None:
                raise PhotoError("no mark of veilkern's on it: not sealed, or saved again (force=true tries it)")
            return self, name
        before = None if self.old is None else self._before(name, mark.veil)
        if before is not None:
            assert self.old is not None
            self.old.marking.check(mark, self.old._row(before), hidden)
            return self.old, before
        try:
            self.marking.check(mark, self._row(name), hidden)
        except PhotoError as error:
            raise PhotoError(str(error).replace("--force", "force=true")) from error
        return self, name

    def _before(self, name: str, veil: str) -> str | None:
        """Under which name of the old bank a person's earlier veil of this id is."""
        assert self.old is not None
        if veil == self.marking.id_of(self._row(name)):
            return None
        own = self._earlier.get(keyed_as(self.bank, name), [])
        return next((found for found in own if self.old.marking.id_of(self.old._row(found)) == veil), None)

    @functools.cached_property
    def _earlier(self) -> dict[str, list[str]]:
        return {} if self.old is None else by_person(self.old.bank)

    def _row(self, name: str) -> int:
        row = self.bank.row_of(name)
        assert row is not None  # looked up before
        return row


class Source:
    """The bank in use (`now`), and where it comes from. `refresh` reads the file again where it is another one."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._reading = threading.Lock()
        self._seen: tuple[object, ...] = ()
        self.now = self._read()

    def refresh(self, *, force: bool = False) -> bool:
        """Whether another bank is in use now. One that cannot be read is told in the log and counted; the one in use
        stays, and the file is tried again once it is another. Takes as long as reading it: not for the event loop."""
        with self._reading:
            if not force and self._identities() == self._seen:
                return False
            try:
                self.now = self._read()
            except (VeilkernError, OSError, ValueError, MemoryError) as error:
                METRICS.reloads.labels("failed").inc()
                log.error("the bank is not read again, the one before stays in use: %s", error)
                return False
            METRICS.reloads.labels("read").inc()
            log.info("the bank is read again: %d veils", len(self.now.bank))
            return True

    def _read(self) -> Served:
        s = self._settings
        self._seen = self._identities()
        bank = VeilBank.load(s.bank)
        # Of a bank that blends, the key is for crafting alone.
        key = [keyed.read_key(file) for file in s.key_files] if bank.scheme == "sealed" else None
        served = Served(bank, key, s.device, s.max_batch, self._earlier(bank, key))
        METRICS.bank.set(len(bank))
        return served

    def _earlier(self, bank: VeilBank, key: list[bytes] | None) -> Served | None:
        """The veils that were rotated away, where the keys for them are given."""
        s = self._settings
        before = load_old(s.bank, bank)
        if before is None or not len(before):
            return None
        if key is not None and not {keyed.key_id(one) for one in key} & set(before.key_ids):
            log.warning("%s: its veils need another key (--key-file), and are not used", old_path(s.bank).name)
            return None
        return Served(before, key, s.device, s.max_batch)

    def _identities(self) -> tuple[object, ...]:
        return tuple(_identity(path) for path in (self._settings.bank, old_path(self._settings.bank)))


def _identity(path: Path) -> tuple[int, ...] | None:
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
    return None
