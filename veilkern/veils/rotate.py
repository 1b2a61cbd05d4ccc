"""rotate: protected photos from one bank and key to another, photo by photo; no original is written anywhere."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from veilkern.data.people import Problem
from veilkern.data.photos import read_mark, read_protected
from veilkern.errors import OutputError, PhotoError
from veilkern.progress import progress_bar
from veilkern.veils.bank import VeilBank
from veilkern.veils.folder_plan import Outcome, Person, listed, open_folders, place, plan, write
from veilkern.veils.marking import TRY, Marking
from veilkern.veils.protect import protect, recover
from veilkern.veils.sealing import MasterKeys, keyring_of


def rotate_folder(
    protected: str | os.PathLike[str],
    bank: VeilBank,
    new_bank: VeilBank,
    out: str | os.PathLike[str] | None = None,
    *,
    key: MasterKeys | None = None,
    new_key: MasterKeys | None = None,
    force: bool = False,
    progress: bool | None = None,
) -> Outcome:
    """DIR/<person>/<photo>.png from under `bank` and key to under new_bank and new_key: recovered and protected anew in
    one go, each photo replaced whole or not at all, in OUT where it is given.

    Photos that are under the new bank and key already are skipped: after an interruption the same call goes on. From 8
    bit to 8 bit of as many levels nothing is lost, nor from 16 bit. Photos under neither, damaged ones, and (without
    force, which takes them for photos under `bank`) photos without a mark are listed and left alone. Raises ValueError
    for wrong keys and banks that differ in size, PhotoError and OutputError as protect_folder does.
    """
    if bank.size != new_bank.size:
        raise ValueError(f"rotate_folder: new_bank must be of {bank.size} photos like bank, got {new_bank.size}")
    turn = _Turn(bank, new_bank, key, new_key, force)
    if out is None:
        root = target = Path(protected)
        outcome = Outcome()
        if not root.is_dir():
            raise PhotoError(f"{root}: not a folder; wanted one folder per person with protected photos inside")
    else:
        root, target, outcome = open_folders(protected, out)
    persons = plan(root, target, bank, lambda file: file.name, outcome, in_place=out is None)
    with progress_bar(progress, sum(len(person.photos) for person in persons), "rotating") as bar:
        for person in persons:
            if person.folder.name not in new_bank:
                outcome.problems.append(Problem(str(person.folder), "no veil of this person in the new bank"))
                continue
            for file, name in person.photos:
                with listed(file, outcome):
                    path = file if out is None else place(target, person, name)
                    done = turn(person, file, path)
                    outcome.written, outcome.skipped = outcome.written + done, outcome.skipped + (not done)
                bar.advance()
    return outcome


class _Turn:
    """One photo from the old to the new."""

    def __init__(self, bank: VeilBank, new_bank: VeilBank, key, new_key, force: bool):
        self.bank, self.new_bank, self.key, self.new_key, self.force = bank, new_bank, key, new_key, force
        self.old = Marking(bank, keyring_of("rotate_folder", bank, key))
        self.new = Marking(new_bank, keyring_of("rotate_folder", new_bank, new_key))
        for marking in (self.old, self.new):
            if marking.keyring is not None:
                marking.keyring.check()

    def __call__(self, person: Person, file: Path, path: Path) -> bool:
        """Whether the photo was written to `path`: not where it is under the new already."""
        row = self.new_bank.row_of(person.folder.name)
        assert row is not None
        hidden, mark = read_protected(file, size=self.bank.size), read_mark(file)
        lossless = hidden.dtype == torch.uint16
        if path != file and os.path.lexists(path):
            found = read_mark(path)
            if found is None or found != self.new.wanted(row, lossless):
                raise OutputError(f"{path}: there already, and not this photo under the new bank; kept")
            return False
        if mark is not None and mark == self.new.wanted(row, lossless):
            self.new.check(mark, row, hidden)
            if path == file:
                return False
            write(path, hidden, mark, False)
            return True
        self._check(mark, person.row, hidden)
        image = recover(hidden[None], self.bank, [person.row], key=self.key)
        again = protect(image, self.new_bank, [row], key=self.new_key, lossless=lossless)[0]
        write(path, again, self.new.made(row, again), path == file)
        return True

    def _check(self, mark, row: int, hidden: torch.Tensor) -> None:
        if self.force:
            return
        if mark is None:
            raise PhotoError(f"no mark of veilkern's on it: whether it was rotated already cannot be told {TRY}")
        self.old.check(mark, row, hidden)
