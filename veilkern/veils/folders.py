"""Whole folders of photos, person by person: protect and recover files, going on past what is bad.

Names. Of a photo `a.png` the protected one is `a.png`; any other name keeps its ending in front: `a.jpg` becomes
`a.jpg.png` (and so that nothing collides, `a.jpg.png` becomes `a.jpg.png.png`). No name depends on which other photos
there are, so it stays when some are added. A recovered photo has the name of the protected one.
"""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from veilkern.data.files import inside, is_plain_name, make_folder
from veilkern.data.marks import Mark, veil_id
from veilkern.data.people import Problem, person_folders, photo_files, why_not_plain
from veilkern.data.photos import SUFFIXES, printable, read_mark, read_photo, read_protected, write_png
from veilkern.errors import OutputError, PhotoError
from veilkern.progress import progress_bar
from veilkern.veils.bank import VeilBank
from veilkern.veils.protect import protect, recover

_KEPT = "kept (overwrite=True, --overwrite to replace it)"


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


class _Person(NamedTuple):
    """One person's part of a run: where, the veil's row, and source and output name of each photo."""

    folder: Path
    row: int
    photos: list[tuple[Path, str]]


def protect_folder(
    faces: str | os.PathLike[str],
    bank: VeilBank,
    out: str | os.PathLike[str],
    *,
    lossless: bool = False,
    resize: bool = False,
    convert: bool = False,
    overwrite: bool = False,
    force: bool = False,
    progress: bool | None = None,
) -> Outcome:
    """FACES/<person>/<photo>.* -> OUT/<person>/<photo>.png, 8-bit, or 16-bit RGB with lossless; names as told above.

    Photos whose protected file is there, with this person's veil on it, are skipped; whatever else is in the place of
    an output is kept and listed. overwrite: write all anew. force: protect photos that are protected already, which are
    listed otherwise. A photo that cannot be read or written, a person without a veil, and outputs that would have the
    same name are listed and passed over. Raises PhotoError when FACES is not a folder of persons' folders, and
    OutputError when OUT cannot be made, or lies in FACES.
    """
    root, target, outcome = _open(faces, out)
    persons = _plan(root, target, bank, _protected_name, outcome)
    with progress_bar(progress, sum(len(person.photos) for person in persons), "protecting") as bar:
        for person in persons:
            mark, newer = Mark(veil_id(bank.veils[person.row]), bank.blend, lossless, bank.key_ids[person.row]), 0
            for file, name in person.photos:
                with _listed(file, outcome):
                    path = _place(target, person, name)
                    if _to_write(path, file, overwrite):
                        image, remarks = read_photo(
                            file, size=bank.size, resize=resize, convert=convert, protected=force
                        )
                        outcome.notices += [Problem(str(file), remark) for remark in remarks]
                        _write(path, protect(image[None], bank, [person.row], lossless=lossless)[0], mark, overwrite)
                        outcome.written += 1
                    else:
                        _check_done(path, mark)
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
    gaussian_sigma: float | None = None,
    overwrite: bool = False,
    force: bool = False,
    progress: bool | None = None,
) -> Outcome:
    """DIR/<person>/<photo>.png, 8-bit or 16-bit, as `protect_folder` wrote them -> OUT/<person>/<photo>.png, 8-bit.

    A photo that was protected with another veil than its folder's is listed and passed over, unless force: recovered,
    it would be noise. Photos without a mark (of an older version, or saved again) are recovered with a notice. Photos
    that are in OUT already, pixel for pixel, are skipped. Lists and raises else as `protect_folder` does.
    """
    root, target, outcome = _open(protected, out)
    persons = _plan(root, target, bank, _recovered_name, outcome)
    known = _Known(bank)
    with progress_bar(progress, sum(len(person.photos) for person in persons), "recovering") as bar:
        for person in persons:
            unmarked = 0
            for file, name in person.photos:
                with _listed(file, outcome):
                    mark = None if force else read_mark(file)
                    hidden = read_protected(file, size=bank.size)
                    if mark is not None:
                        known.check(mark, person.row, lossless=hidden.dtype == torch.uint16)
                    image = recover(hidden[None], bank, [person.row], gaussian_sigma=gaussian_sigma)[0]
                    path = _place(target, person, name)
                    if _to_write(path, file, overwrite):
                        _write(path, image, None, overwrite)
                        outcome.written += 1
                    else:
                        _check_same(path, image)
                        outcome.skipped += 1
                    unmarked += mark is None
                bar.advance()
            if unmarked and not force:
                cause = f"{unmarked} photos without veilkern's mark (older, or saved again): not checked for their veil"
                outcome.notices.append(Problem(str(person.folder), cause))
    return outcome


def _open(source: str | os.PathLike[str], out: str | os.PathLike[str]) -> tuple[Path, Path, Outcome]:
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


def _plan(root: Path, target: Path, bank: VeilBank, rename: Callable[[Path], str], outcome: Outcome) -> list[_Person]:
    """Who and what is to be done, with all names known before anything is written; the rest is listed in `outcome`."""
    rows = {name: row for row, name in enumerate(bank.names)}
    persons, found = [], person_folders(root, outcome.problems)
    if not found and not outcome.problems:
        raise PhotoError(
            f"{printable(root)}: no person's folder in it; wanted one folder per person with photos inside"
        )
    outcome.problems += [Problem(str(f), "no veil of this person in the bank") for f in found if f.name not in rows]
    for folder, name in _distinct([(f, f.name) for f in found if f.name in rows], outcome):
        if _same_folder(folder, target / name):
            outcome.problems.append(Problem(str(folder), "its output folder is this folder itself; left alone"))
            continue
        before = len(outcome.problems)
        files = photo_files(folder, outcome.problems, outcome.notices)
        if not files and len(outcome.problems) == before:
            outcome.problems.append(Problem(str(folder), "no photo in this folder"))
        photos = _distinct([(file, rename(file)) for file in files], outcome)
        bad = [Problem(str(file), why_not_plain(name)) for file, name in photos if not is_plain_name(name)]
        outcome.problems += bad
        persons.append(_Person(folder, rows[name], [(f, n) for f, n in photos if is_plain_name(n)]))
    return persons


def _same_folder(a: Path, b: Path) -> bool:
    with contextlib.suppress(OSError):
        return a.samefile(b)
    return False


def _distinct(names: list[tuple[Path, str]], outcome: Outcome) -> list[tuple[Path, str]]:
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


def _protected_name(file: Path) -> str:
    """See the top of this file: no two names of photos give the same one."""
    plain = file.suffix == ".png" and Path(file.stem).suffix.lower() not in SUFFIXES
    return file.name if plain else f"{file.name}.png"


def _recovered_name(file: Path) -> str:
    return file.name if file.suffix.lower() == ".png" else f"{file.name}.png"


@contextlib.contextmanager
def _listed(file: Path, outcome: Outcome) -> Iterator[None]:
    """What goes wrong with one file is listed, and the next one's turn comes."""
    try:
        yield
    except PhotoError as error:
        outcome.problems.append(Problem.of(file, error))
    except OutputError as error:
        outcome.problems.append(Problem(str(file), f"not written: {error}"))
    except OSError as error:
        outcome.problems.append(Problem(str(file), f"left out: {error.strerror or error}"))


def _place(target: Path, person: _Person, name: str) -> Path:
    try:
        return inside(target, person.folder.name, name)
    except (OSError, RuntimeError) as error:  # RuntimeError: how Path.resolve reports a link to itself before 3.13
        raise OutputError(f"{target / person.folder.name}: cannot be followed (a link to itself?)") from error


def _to_write(path: Path, source: Path, overwrite: bool) -> bool:
    """Whether `path` is free, or may be replaced; OutputError if it may never be."""
    if not os.path.lexists(path):
        return True
    if overwrite and (path.is_symlink() or path.samefile(source)):
        raise OutputError(f"{path}: a link, or the photo itself; never replaced")
    return overwrite


def _write(path: Path, pixels: torch.Tensor, mark: Mark | None, overwrite: bool) -> None:
    make_folder(path.parent)
    write_png(path, pixels, mark, replace=overwrite)


def _check_done(path: Path, mark: Mark) -> None:
    """OutputError unless `path` is a whole PNG protected with the same veil in the same way."""
    try:
        found = read_mark(path)
    except PhotoError as error:
        raise OutputError(f"{error}; there already, {_KEPT}") from error
    if found is None:
        raise OutputError(f"{path}: there already, and no photo that veilkern protected; {_KEPT}")
    if found != mark:
        raise OutputError(f"{path}: there already, protected with {_difference(found, mark)}; {_KEPT}")


def _difference(found: Mark, wanted: Mark) -> str:
    """In which way a photo was protected otherwise than wanted."""
    if found.veil != wanted.veil:
        return "another veil"
    if found.blend != wanted.blend:
        return f"another blend, {found.blend!r} instead of {wanted.blend}"
    return "16 bits instead of 8" if found.lossless else "8 bits instead of 16"


def _check_same(path: Path, image: torch.Tensor) -> None:
    """OutputError unless `path` is a photo of just these pixels."""
    try:
        there, _ = read_photo(path, size=(image.shape[1], image.shape[2]))
    except PhotoError as error:
        raise OutputError(f"{error}; there already, {_KEPT}") from error
    if not torch.equal(there, image):
        raise OutputError(f"{path}: there already, and another picture; {_KEPT}")


class _Known:
    """The ids of a bank's veils: each hashed when it is first asked for, all of them only to name a stranger."""

    def __init__(self, bank: VeilBank):
        self.bank = bank
        self.ids: dict[int, str] = {}

    def id(self, row: int) -> str:
        if row not in self.ids:
            self.ids[row] = veil_id(self.bank.veils[row])
        return self.ids[row]

    def check(self, mark: Mark, row: int, lossless: bool) -> None:
        """PhotoError unless a photo with this mark was protected with the veil of `row`, as it is now."""
        wanted = Mark(self.id(row), self.bank.blend, lossless)
        if mark.veil != wanted.veil:
            owner = next((n for r, n in enumerate(self.bank.names) if self.id(r) == mark.veil), None)
            whose = "a veil that is not in this bank" if owner is None else f"the veil of {owner}"
            raise PhotoError(f"protected with {whose}, not with that of {self.bank.names[row]} (--force tries it)")
        if mark.blend != wanted.blend:
            raise PhotoError(f"protected with {_difference(mark, wanted)} of the bank (--force tries it)")
        if mark.lossless != lossless:
            now = "saved again since, so it will not come back exactly (--force tries it)"
            raise PhotoError(f"protected with {_difference(mark, wanted)}: {now}")
