"""What the commands on whole folders share: who and what is to be done, known before anything is written; names of
outputs; and what becomes of each file.

Names. Of a photo `a.png` the protected one is `a.png`; any other name keeps its ending in front: `a.jpg` becomes
`a.jpg.png` (and so that nothing collides, `a.jpg.png` becomes `a.jpg.png.png`). No name depends on which other photos
there are, so it stays when some are added. A recovered photo has the name of the protected one.
"""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from veilkern.data.files import inside, is_plain_name, make_folder
from veilkern.data.marks import Mark
from veilkern.data.people import Problem, person_folders, photo_files, why_not_plain
from veilkern.data.photos import SUFFIXES, printable, write_png
from veilkern.errors import OutputError, PhotoError
from veilkern.veils.bank import VeilBank


@dataclass(repr=False)
class Outcome:
    """What became of a folder: files written, files skipped as done already, and what was left out and why."""

    written: int = 0
    skipped: int = 0
    problems: list[Problem] = field(default_factory=list)
    notices: list[Problem] = field(default_factory=list)

    def __repr__(self) -> str:
        return (
            f"Outcome({self.written} written, {self.skipped} done already, {len(self.problems)} problems, "
            f"{len(self.notices)} notices)"
        )


class Person(NamedTuple):
    """One person's part of a run: where, the veil's row, and source and output name of each photo."""

    folder: Path
    row: int
    photos: list[tuple[Path, str]]


def open_folders(source: str | os.PathLike[str], out: str | os.PathLike[str]) -> tuple[Path, Path, Outcome]:
    """Both folders, checked to be apart, and an empty outcome."""
    root, target = Path(os.path.realpath(source)), Path(os.path.realpath(out))
    if not os.path.isdir(root):
        raise PhotoError(
            f"{printable(source)}: not a folder; wanted one folder per person with that person's photos inside"
        )
    if target == root or _same_folder(target, root):
        raise OutputError(f"{out}: the output folder is the input folder; the photos there would be lost")
    if target.is_relative_to(root):
        raise OutputError(
            f"{out}: the output folder lies in the input folder, as if it were a person's; put it elsewhere"
        )
    return Path(source), make_folder(out), Outcome()


def plan(
    root: Path,
    target: Path,
    bank: VeilBank | None,
    rename: Callable[[Path], str],
    outcome: Outcome,
    *,
    in_place: bool = False,
    people: Collection[str] | None = None,
) -> list[Person]:
    """Who and what is to be done, with all names known before anything is written; the rest is listed in `outcome`.
    bank: whose persons count, None for everybody (row 0). in_place: outputs are to replace the photos. people: the only
    folders that count, which saves looking for others."""
    persons: list[Person] = []
    found = person_folders(root, outcome.problems) if people is None else [root / name for name in sorted(people)]
    if not found and not outcome.problems:
        raise PhotoError(
            f"{printable(root)}: no person's folder in it; wanted one folder per person with photos inside"
        )
    rows = (
        {name: row for row, name in enumerate(bank.names)} if bank is not None else {folder.name: 0 for folder in found}
    )
    outcome.problems += [Problem(str(f), "no veil of this person in the bank") for f in found if f.name not in rows]
    for folder, name in distinct([(f, f.name) for f in found if f.name in rows], outcome):
        if not in_place and _same_folder(folder, target / name):
            outcome.problems.append(Problem(str(folder), "its output folder is this folder itself; left alone"))
            continue
        before = len(outcome.problems)
        files = photo_files(folder, outcome.problems, outcome.notices)
        if not files and len(outcome.problems) == before:
            outcome.problems.append(Problem(str(folder), "no photo in this folder"))
        photos = distinct([(file, rename(file)) for file in files], outcome)
        bad = [Problem(str(file), why_not_plain(name)) for file, name in photos if not is_plain_name(name)]
        outcome.problems += bad
        persons.append(Person(folder, rows[name], [(f, n) for f, n in photos if is_plain_name(n)]))
    return persons


def _same_folder(a: Path, b: Path) -> bool:
    with contextlib.suppress(OSError):
        return a.samefile(b)
    return False


def distinct(names: list[tuple[Path, str]], outcome: Outcome) -> list[tuple[Path, str]]:
    """Those whose output name is theirs alone, on systems too that ignore case or ways to write a letter in Unicode."""
    groups = defaultdict(list)
    for file, name in names:
        groups[_key(name)].append((file, name))
    for group in groups.values():
        for file, name in group if len(group) > 1 else []:
            others = ", ".join(other.name for other, _ in group if other is not file)
            cause = (
                f"not written: its output {name} would be one file with that of {others} on some systems; rename one"
            )
            outcome.problems.append(Problem(str(file), cause))
    return [group[0] for group in groups.values() if len(group) == 1]


def _key(name: str) -> str:
    """Equal for names that are the same file where case, or composed and decomposed letters, are not told apart."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def protected_name(file: Path) -> str:
    """See the top of this file: no two names of photos give the same one."""
    plain = file.suffix == ".png" and Path(file.stem).suffix.lower() not in SUFFIXES
    return file.name if plain else f"{file.name}.png"


def recovered_name(file: Path) -> str:
    return file.name if file.suffix.lower() == ".png" else f"{file.name}.png"


@contextlib.contextmanager
def listed(file: Path, outcome: Outcome) -> Iterator[None]:
    """What goes wrong with one file is listed, and the next one's turn comes."""
    try:
        yield
    except PhotoError as error:
        outcome.problems.append(Problem.of(file, error))
    except OutputError as error:
        outcome.problems.append(Problem(str(file), f"not written: {error}"))
    except OSError as error:
        outcome.problems.append(Problem(str(file), f"left out: {error.strerror or error}"))


def place(target: Path, person: Person, name: str) -> Path:
    try:
        return inside(target, person.folder.name, name)
    except (OSError, RuntimeError) as error:  # RuntimeError: how Path.resolve reports a link to itself before 3.13
        raise OutputError(f"{target / person.folder.name}: cannot be followed (a link to itself?)") from error


def to_write(path: Path, source: Path, overwrite: bool) -> bool:
    """Whether `path` is free, or may be replaced; OutputError if it may never be."""
    if not os.path.lexists(path):
        return True
    if overwrite and (path.is_symlink() or path.samefile(source)):
        raise OutputError(f"{path}: a link, or the photo itself; never replaced")
    return overwrite


def write(path: Path, pixels: torch.Tensor, mark: Mark | None, overwrite: bool) -> None:
    make_folder(path.parent)
    write_png(path, pixels, mark, replace=overwrite)
