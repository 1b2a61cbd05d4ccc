"""Where a craft's veils go: the bank to write, the one it goes on with, the journal beside it. Nothing gets lost.

The bank that is written is locked for the whole craft. Programs that do not ask for the lock may still have written it
in the meantime: only the file that was there at the beginning is ever replaced, anything else is joined or left alone.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import typer

import veilkern as vk
from veilkern.crafting.journal import Journal
from veilkern.crafting.run import key_of_before
from veilkern.crafting.stream import Stream
from veilkern.errors import BankError, OutputError
from veilkern.veils.compatibility import begun_as, refuse_differences


class Target:
    """One craft's output.

    out: the bank to write; locked already. base: the bank that it goes on with (resume: `out` itself; rotate: the old
    one), or None. renewed: the persons of base who get a new veil, each with its generation. book: the journal at
    `journal`, where one was begun.
    """

    def __init__(self, out: Path, resume: bool, overwrite: bool, old: Path | None, rotate: list[str] | None):
        """Looks before any work: OutputError, BankError and BadParameter name what stands in the way."""
        self.out, self.overwrite, self.rotates = out, overwrite, old is not None
        self.journal = out.with_name(f"{out.name}.journal")
        self.seen = _identity(out)
        self.book = Journal.take_up(self.journal, resume)
        if self.seen is not None and not overwrite and (self.rotates or not resume):
            raise OutputError(
                f"{out}: there already, and without its veils the photos they protect are lost; --resume adds to it, "
                "--overwrite replaces it"
            )
        source = old if old is not None else out if self.seen is not None and not overwrite else None
        self.base = None if source is None else vk.VeilBank.load(source)
        self.where = str(source)
        self.renewed = self._renewed(rotate) if self.rotates else {}

    def _renewed(self, rotate: list[str] | None) -> dict[str, int]:
        bank = self.base
        assert bank is not None  # rotating has one
        if unknown := [name for name in rotate or [] if name not in bank]:
            raise typer.BadParameter(f"--rotate: no veil in {self.where} for {', '.join(unknown[:10])}")
        after, taken = bank.next_generations(), rotate or bank.names
        return {name: max(bank.record(name)["generation"] + 1, after.get(name, 0)) for name in taken}

    def generations(self, names: Iterable[str]) -> dict[str, int]:
        """Of whoever is crafted now: whom the bank already has a start of under this name (a person renamed since) gets
        another, so that no two veils come from the same noise."""
        after = {} if self.base is None else self.base.next_generations()
        return {name: after.get(name, 0) for name in names} | self.renewed

    def _begun_as(self) -> list[tuple[str, dict[str, Any]]]:
        """What the veils that are there were begun with, as in a journal's header, and the file that says so."""
        found = []
        if self.base is not None:
            part = self.base.take(list(self.renewed)) if self.renewed else self.base
            if not part.key_id and len(part):
                raise ValueError(f"{self.where}: its veils come from several keys; craft one key's persons at a time")
            begun = begun_as(self.base) | {"key_id": part.key_id, "key": part.key}
            found.append((self.where, begun))
        if self.book is not None:
            found.append((str(self.journal), self.book.header))
        return found

    def key(self, key: bytes | None, config: vk.CraftConfig) -> tuple[bytes | None, vk.CraftConfig]:
        """Key and configuration to craft with: those given, or those that the veils there were begun with."""
        for where, begun in self._begun_as()[:1]:
            return key_of_before(where, begun, key, config)
        return key, config

    def refuse_differences(self, now: dict[str, Any]) -> None:
        """ValueError, before any work, unless bank and journal were begun as `now` says (see craft.describe)."""
        for where, begun in self._begun_as():
            refuse_differences(where, begun, now)

    def missing(self, names: Collection[str]) -> list[str]:
        """Who of these has no veil in the bank yet. OutputError when the journal has veils that would find no place."""
        known = set() if self.base is None or self.rotates else set(self.base.names)
        if absent := [name for name in self.renewed if name not in names]:
            raise vk.PhotoError(f"no photos of {', '.join(absent[:10])}, who cannot be given a new veil without them")
        wanted = set(self.renewed or names) - known
        kept = [name for name in names if name in wanted]
        for name in [] if self.book is None else self.book.entries:
            if name in known:
                raise OutputError(
                    f"{self.out} and {self.journal} both have a veil of {name}: --resume --overwrite goes on with the "
                    "journal and replaces the bank; or move the journal away"
                )
            if name not in wanted:
                raise OutputError(
                    f"{self.journal}: has a veil of {name}, who is not among the people to craft now; go on with the "
                    "same people, or move the journal away"
                )
        return kept

    def save(self, made: Stream) -> Path:
        """Write the veils, all of which are in the journal; returns where: `out`, or a new file beside it when `out`
        became another and they cannot be joined."""
        try:
            return self._write(made)
        except OutputError as error:
            raise OutputError(
                f"{error}; the {len(made.finished)} finished veils are in {self.journal}: mend that, then --resume"
            ) from error

    def _write(self, made: Stream) -> Path:
        now = _identity(self.out)
        if now is None or now == self.seen:
            try:
                self._save(made, self.out, replace=now is not None)
                return self.out
            except OutputError:
                if _identity(self.out) == now:
                    raise  # not because it came into being a moment ago
        if not self.overwrite and not self.rotates:
            try:
                vk.VeilBank.load(self.out).join(made.bank()).save(self.out)
                return self.out
            except (BankError, ValueError):
                pass  # not a bank that these veils may join
        return self._write_beside(made)

    def _save(self, made: Stream, path: Path, *, replace: bool) -> None:
        """The veils, with those of the bank that they go on with; where there is none, no two are in memory."""
        if self.base is None:
            made.write(path, replace=replace)
        else:
            self.base.join(made.bank(), replace=self.rotates).save(path, replace=replace)

    def _write_beside(self, made: Stream) -> Path:
        for number in itertools.count(1):
            path = self.out.with_name(f"{self.out.stem}.crafted-{number}{self.out.suffix}")
            if not os.path.lexists(path):
                self._save(made, path, replace=False)
                return path
        raise AssertionError  # count never ends


def _identity(path: Path) -> tuple[int, ...] | None:
    """Tells whether a file is still the one it was; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
