"""rotate: protected photos from one bank and key to another, photo by photo; no original is written anywhere."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from veilkern.data.people import Problem
from veilkern.data.photos import read_marked
from veilkern.errors import OutputError, PhotoError
from veilkern.progress import progress_bar
from veilkern.veils.bank import VeilBank
from veilkern.veils.folder_plan import Outcome, Person, listed, open_folders, place, plan, write
from veilkern.veils.folders import with_keys
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
    bit to 8 bit of as many levels nothing is lost, nor from 16 bit; where bits would be lost a photo is not replaced,
    only written to OUT. Photos under neither, damaged ones, links, and photos without a mark (force takes these for
    photos under `bank`) are listed and left alone. Raises ValueError for wrong keys and banks that differ in size,
    PhotoError and OutputError as protect_folder does.
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
    persons = with_keys(persons, turn.old, outcome)
    with progress_bar(progress, sum(len(person.photos) for person in persons), "rotating") as bar:
        for person in persons:
            if person.folder.name not in new_bank:
                outcome.problems.append(Problem(str(person.folder), "no veil of this person in the new bank"))
                continue
            if (cause := turn.new.why_not(new_bank.rows([person.folder.name]).tolist()[0])) is not None:
                outcome.problems.append(Problem(str(person.folder), f"in the new bank: {cause}"))
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

    def __init__(
        self, bank: VeilBank, new_bank: VeilBank, key: MasterKeys | None, new_key: MasterKeys | None, force: bool
    ) -> None:
        self.bank, self.new_bank, self.force = bank, new_bank, force
        self.old = Marking(bank, keyring_of("rotate_folder", bank, key))
        self.new = Marking(new_bank, keyring_of("rotate_folder", new_bank, new_key))
        for marking in (self.old, self.new):
            if marking.keyring is not None:
                marking.keyring.check()

    def __call__(self, person: Person, file: Path, path: Path) -> bool:
        """Whether the photo was written to `path`: not where it is under the new already."""
        row, in_place = self.new_bank.rows([person.folder.name]).tolist()[0], path == file
        if in_place and file.is_symlink():
            raise OutputError(f"{file}: a link; never replaced")
        hidden, mark = read_marked(file, size=self.bank.size)
        lossless = hidden.dtype == torch.uint16
        if mark is not None and mark == self.new.wanted(row, lossless):
            self.new.check(mark, row, hidden)
            if in_place:
                return False
            again = hidden
        else:
            if mark is not None:
                self.old.check(mark, person.row, hidden)
            elif not self.force:
                raise PhotoError(f"no mark of veilkern's on it: whether it was rotated already cannot be told {TRY}")
            if in_place and not lossless and self.new_bank.error_bound > self.bank.error_bound:
                raise OutputError("8 bits under the new bank hold less of it than under the old; --out keeps both")
            image = recover(hidden[None], self.bank, [person.row], key=self.old.key)
            again = protect(image, self.new_bank, [row], key=self.new.key, lossless=lossless)[0]
        if not in_place and os.path.lexists(path):
            self._check_same(path, row, again)
            return False
        write(path, again, self.new.made(row, again), in_place)
        return True

    def _check_same(self, path: Path, row: int, again: torch.Tensor) -> None:
        """OutputError unless `path` is this photo, protected anew already: the same pixels once recovered."""
        there, mark = read_marked(path, size=self.bank.size)
        same = mark is not None and mark == self.new.wanted(row, again.dtype == torch.uint16)
        if same:
            found, wanted = (recover(one[None], self.new_bank, [row], key=self.new.key) for one in (there, again))
            same = torch.equal(found, wanted)
        if not same:
            raise OutputError(f"{path}: there already, and not this photo under the new bank; kept")
