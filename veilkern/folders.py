"""Whole folders of photos, person by person: protect and recover files, going on past what is bad."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch

from veilkern.errors import OutputError, PhotoError
from veilkern.files import inside, make_folder
from veilkern.people import Problem, person_folders, read_person
from veilkern.photos import read_protected, write_png
from veilkern.progress import progress_bar
from veilkern.protect import protect, recover
from veilkern.veils import VeilBank


@dataclass
class Outcome:
    """What became of a folder: files written, and what was left out and why."""

    written: int = 0
    problems: list[Problem] = field(default_factory=list)
    notices: list[Problem] = field(default_factory=list)


def protect_folder(
    faces: str | os.PathLike[str],
    bank: VeilBank,
    out: str | os.PathLike[str],
    *,
    lossless: bool = False,
    resize: bool = False,
    convert: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
) -> Outcome:
    """FACES/<person>/<photo>.* -> OUT/<person>/<photo>.png, 8-bit, or 16-bit RGB with lossless.

    A photo that cannot be read or written, and a person without a veil, are listed and passed over. Files that are
    there already are kept and listed, unless overwrite. Raises PhotoError when FACES is not a folder and OutputError
    when OUT cannot be made or lies where the originals are.
    """
    root, target, outcome = _open(faces, out)
    folders = person_folders(root, outcome.problems)
    with progress_bar(progress, len(folders), "protecting") as bar:
        for person in folders:
            if _has_veil(person, bank, outcome):
                photos = read_person(person, bank.size, resize, convert, outcome.problems, outcome.notices)
                row = bank.rows([person.name])
                for (file, image), name in zip(photos, _output_names([file for file, _ in photos]), strict=True):
                    hidden = protect(image[None], bank, row, lossless=lossless)[0]
                    _write(target, person.name, name, hidden, file, overwrite, outcome)
            bar.advance()
    return outcome


def recover_folder(
    protected: str | os.PathLike[str],
    bank: VeilBank,
    out: str | os.PathLike[str],
    *,
    gaussian_sigma: float | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> Outcome:
    """DIR/<person>/<photo>.png, 8-bit or 16-bit, as `protect_folder` wrote them -> OUT/<person>/<photo>.png, 8-bit.

    Lists and raises as `protect_folder` does.
    """
    root, target, outcome = _open(protected, out)
    folders = person_folders(root, outcome.problems)
    with progress_bar(progress, len(folders), "recovering") as bar:
        for person in folders:
            if _has_veil(person, bank, outcome):
                row = bank.rows([person.name])
                for file in sorted(f for f in person.iterdir() if not f.name.startswith(".")):
                    try:
                        hidden = read_protected(file, size=bank.size)
                    except PhotoError as error:
                        outcome.problems.append(Problem(str(file), str(error).removeprefix(f"{file}: ")))
                        continue
                    image = recover(hidden[None], bank, row, gaussian_sigma=gaussian_sigma)[0]
                    _write(target, person.name, f"{file.stem}.png", image, file, overwrite, outcome)
            bar.advance()
    return outcome


def _open(source: str | os.PathLike[str], out: str | os.PathLike[str]) -> tuple[Path, Path, Outcome]:
    root = Path(source)
    if not root.is_dir():
        raise PhotoError(f"{root}: not a folder; wanted one folder per person with that person's photos inside")
    if Path(out).resolve() == root.resolve():
        raise OutputError(f"{out}: the output folder is the input folder; the photos there would be lost")
    return root, make_folder(out), Outcome()


def _has_veil(person: Path, bank: VeilBank, outcome: Outcome) -> bool:
    if person.name not in bank.names:
        outcome.problems.append(Problem(str(person), "no veil of this person in the bank"))
        return False
    return True


def _output_names(files: list[Path]) -> list[str]:
    """a.jpg becomes a.png; where two photos share a stem (a.jpg and a.png), both keep their whole name before .png."""
    stems = Counter(file.stem.lower() for file in files)
    return [f"{file.stem if stems[file.stem.lower()] == 1 else file.name}.png" for file in files]


def _write(
    target: Path, person: str, name: str, pixels: torch.Tensor, source: Path, overwrite: bool, outcome: Outcome
) -> None:
    try:
        path = inside(target, person, name)
        if path.exists() and (not overwrite or path.samefile(source)):
            raise OutputError(f"{path}: there already; kept (overwrite=True, --overwrite to replace it)")
        make_folder(path.parent)
        write_png(path, pixels)
    except OutputError as error:
        outcome.problems.append(Problem(str(source), f"not written: {error}"))
        return
    outcome.written += 1
