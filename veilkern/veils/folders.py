"""Whole folders of photos, person by person: protect and recover files, going on past what is bad.

How outputs are called is told in folder_plan.py.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import torch

from veilkern.data.marks import Mark
from veilkern.data.people import Problem
from veilkern.data.photos import read_mark, read_marked, read_photo
from veilkern.errors import OutputError, PhotoError
from veilkern.progress import progress_bar
from veilkern.veils.bank import VeilBank
from veilkern.veils.folder_plan import (
    Outcome,
    Person,
    listed,
    open_folders,
    place,
    plan,
    protected_name,
    recovered_name,
    to_write,
    write,
)
from veilkern.veils.marking import TRY, Marking, difference
from veilkern.veils.protect import protect, recover
from veilkern.veils.sealing import MasterKeys, keyring_of

_KEPT = "kept (overwrite=True, --overwrite to replace it)"


def protect_folder(
    faces: str | os.PathLike[str],
    bank: VeilBank,
    out: str | os.PathLike[str],
    *,
    key: MasterKeys | None = None,
    lossless: bool = False,
    resize: bool = False,
    convert: bool = False,
    overwrite: bool = False,
    force: bool = False,
    people: Collection[str] | None = None,
    progress: bool | None = None,
) -> Outcome:
    """FACES/<person>/<photo>.* -> OUT/<person>/<photo>.png, 8-bit, or 16-bit RGB with lossless; names as folder_plan.py
    tells. key: the master key of a sealed bank.

    Photos whose protected file is there, with this person's veil on it, are skipped; whatever else is in the place of
    an output is kept and listed. overwrite: write all anew. force: protect photos that are protected already, which are
    listed otherwise. people: the names of the only folders that count. A photo that cannot be read or written, a person
    without a veil, and outputs that would have the same name are listed and passed over. Raises PhotoError when FACES
    is not a folder of persons' folders, and OutputError when OUT cannot be made, or lies in FACES.
    """
    marking = Marking(bank, keyring_of("protect_folder", bank, key))
    if marking.keyring is not None:
        marking.keyring.check()
    root, target, outcome = open_folders(faces, out)
    persons = with_keys(plan(root, target, bank, protected_name, outcome, people=people), marking, outcome)
    with progress_bar(progress, sum(len(person.photos) for person in persons), "protecting") as bar:
        for person in persons:
            newer = 0
            for file, name in person.photos:
                with listed(file, outcome):
                    path = place(target, person, name)
                    if to_write(path, file, overwrite):
                        image, remarks = read_photo(
                            file, size=bank.size, resize=resize, convert=convert, protected=force
                        )
                        outcome.notices += [Problem(str(file), remark) for remark in remarks]
                        hidden = protect(image[None], bank, [person.row], key=marking.key, lossless=lossless)[0]
                        write(path, hidden, marking.made(person.row, hidden), overwrite)
                        outcome.written += 1
                    else:
                        _check_done(path, marking.wanted(person.row, lossless))
                        outcome.skipped += 1
                        newer += file.stat().st_mtime > path.stat().st_mtime
                bar.advance()
            if newer:
                cause = f"{newer} photos are newer than what was protected of them; --overwrite protects them again"
                outcome.notices.append(Problem(str(person.folder), cause))
    return outcome


def recover_folder(
    protected: str | os.PathLike[str],
    bank: VeilBank,
    out: str | os.PathLike[str],
    *,
    key: MasterKeys | None = None,
    gaussian_sigma: float | None = None,
    overwrite: bool = False,
    force: bool = False,
    progress: bool | None = None,
) -> Outcome:
    """DIR/<person>/<photo>.png, 8-bit or 16-bit, as `protect_folder` wrote them -> OUT/<person>/<photo>.png, 8-bit.

    key: the master key of a sealed bank. A photo that was protected with another veil or key than its folder's is
    listed and passed over, unless force: recovered, it would be noise; so is a sealed one that is damaged, that nobody
    with the key made (its tag does not match), or that has no mark. Blended photos without one (of an older version, or
    saved again) are recovered with a notice. Photos that are in OUT already, pixel for pixel, are skipped. Lists and
    raises else as `protect_folder` does.
    """
    marking = Marking(bank, keyring_of("recover_folder", bank, key))
    if marking.keyring is not None:
        marking.keyring.check()
    root, target, outcome = open_folders(protected, out)
    persons = with_keys(plan(root, target, bank, recovered_name, outcome), marking, outcome)
    with progress_bar(progress, sum(len(person.photos) for person in persons), "recovering") as bar:
        for person in persons:
            unmarked = 0
            for file, name in person.photos:
                with listed(file, outcome):
                    hidden, mark = read_marked(file, size=bank.size, force=force)
                    if mark is None and marking.keyring is not None and not force:
                        raise PhotoError(f"no mark of veilkern's on it: not sealed, or saved again {TRY}")
                    if mark is not None:
                        marking.check(mark, person.row, hidden)
                    image = recover(hidden[None], bank, [person.row], key=marking.key, gaussian_sigma=gaussian_sigma)[0]
                    path = place(target, person, name)
                    if to_write(path, file, overwrite):
                        write(path, image, None, overwrite)
                        outcome.written += 1
                    else:
                        _check_same(path, image)
                        outcome.skipped += 1
                    unmarked += mark is None
                bar.advance()
            if unmarked and not force:
                cause = (
                    f"{_photos(unmarked)} without veilkern's mark (older, or saved again): not checked for their veil"
                )
                outcome.notices.append(Problem(str(person.folder), cause))
    return outcome


def with_keys(persons: list[Person], marking: Marking, outcome: Outcome) -> list[Person]:
    """The persons whose master keys are there; the others are listed."""
    causes = {person.folder: marking.why_not(person.row) for person in persons}
    outcome.problems += [Problem(str(folder), cause) for folder, cause in causes.items() if cause is not None]
    return [person for person in persons if causes[person.folder] is None]


def _photos(count: int) -> str:
    return "1 photo" if count == 1 else f"{count} photos"


def _check_done(path: Path, mark: Mark) -> None:
    """OutputError unless `path` is a whole PNG protected with the same veil in the same way."""
    try:
        found = read_mark(path)
    except PhotoError as error:
        raise OutputError(f"{error}; there already, {_KEPT}") from error
    if found is None:
        raise OutputError(f"{path}: there already, and no photo that veilkern protected; {_KEPT}")
    if found != mark:
        raise OutputError(f"{path}: there already, protected with {difference(found, mark)}; {_KEPT}")


def _check_same(path: Path, image: torch.Tensor) -> None:
    """OutputError unless `path` is a photo of just these pixels."""
    try:
        there, _ = read_photo(path, size=(image.shape[1], image.shape[2]))
    except PhotoError as error:
        raise OutputError(f"{error}; there already, {_KEPT}") from error
    if not torch.equal(there, image):
        raise OutputError(f"{path}: there already, and another picture; {_KEPT}")
