"""Where a job's photos are, cut into units: what one worker does in one go, and what one shard of the output is of.

A source is a folder of persons' folders, or Parquet files and WebDataset tars: a folder of them and of no folders, a
pattern, one, or a list; also by URL, as fsspec knows them. A file is a unit. The persons of a folder are shared out by
a hash of their names: who comes later goes to a shard that is there, and moves nobody else.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from veilkern.data.people import People, Problem, each_of, person_folders, usable_persons
from veilkern.data.photos import printable
from veilkern.datasets.encoded import SUFFIXES, usable_encoded
from veilkern.errors import PhotoError

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Unit:
    """name: of its shard, without ending. where: the folder of persons, or the file's path or URL. people: the names of
    the unit's persons' folders; None for a file, which knows its persons itself."""

    name: str
    where: str
    people: list[str] | None = None


@dataclass(frozen=True)
class Reading:
    """How photos are read: see `read_photo`."""

    size: tuple[int, int] = (112, 112)
    resize: bool = False
    convert: bool = False


def units_of(source: Source, shards: int, problems: list[Problem], notices: list[Problem] | None = None) -> list[Unit]:
    """The units of a source, in order; what is in a folder besides is added to `problems` and `notices`. shards: how
    many units a folder of persons is cut into, of which empty ones are left out. PhotoError when there is nothing."""
    files = files_of(source)
    if files is not None:
        root = folder_of(source)
        if root is not None and notices is not None:
            others = sorted(e.path for e in os.scandir(root) if not e.name.startswith((".", "_")))
            cause = f"not read: no Parquet file or tar by its name (wanted {', '.join(SUFFIXES)})"
            notices += [Problem(path, cause) for path in others if path not in files]
        return [Unit(_base(file), file) for file in files]
    root = folder_of(source)
    assert root is not None  # or files_of had raised
    parts: list[list[str]] = [[] for _ in range(shards)]
    problems += [Problem(file, "a file of photos beside persons' folders, not read") for file in _files_in(root)]
    for folder in person_folders(root, problems):
        parts[_shard_of(folder.name, shards)].append(folder.name)
    if not any(parts):
        raise PhotoError(f"{printable(root)}: no person's folder in it; wanted one folder per person, or Parquet files")
    digits = max(5, len(str(shards)))
    return [Unit(f"{n:0{digits}d}-of-{shards:0{digits}d}", str(root), names) for n, names in enumerate(parts) if names]


def folder_of(source: Source) -> Path | None:
    """The one folder on this machine that a source is, of persons or of files; None where it is something else."""
    given = _given(source)
    return Path(given[0]).absolute() if len(given) == 1 and os.path.isdir(given[0]) else None


def _given(source: Source) -> list[str]:
    """Paths, patterns and URLs; those of this machine's files without file://."""
    given = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    return [os.fspath(one).removeprefix("file://") for one in given]


def files_of(source: Source) -> list[str] | None:
    """The Parquet files and tars of a source, sorted by name; None where it is a folder of persons' folders."""
    given = _given(source)
    if not given:
        raise PhotoError("a dataset needs a source: a folder, files or patterns, got an empty list")
    found = []
    for one in given:
        try:
            files = _listed(one)
        except PhotoError:
            raise
        except Exception as error:  # what keeps files elsewhere raises errors of every class
            raise PhotoError(f"{printable(one)}: cannot be read: {printable(error) or type(error).__name__}") from error
        if not files and os.path.isdir(one):
            if len(given) == 1:
                return None
            raise PhotoError(f"{printable(one)}: a folder of persons must be the only source; got {len(given)}")
        if not files:
            raise PhotoError(f"{printable(one)}: no Parquet file or tar there, and no folder of persons")
        found += files
    found.sort(key=_base)
    if twice := [name for name, n in Counter(map(_base, found)).items() if n > 1]:
        raise PhotoError(f"{printable(twice[0])}: several files have this name, which is that of a shard; rename one")
    return found


def _listed(one: str) -> list[str]:
    """The files that a path, pattern or URL means."""
    if "://" in one:
        import fsspec

        system, path = fsspec.core.url_to_fs(one)
        paths = system.glob(path) if any(c in path for c in "*?[") else [path]
        if len(paths) == 1 and system.isdir(paths[0]):
            paths = system.ls(paths[0], detail=False)
        return [system.unstrip_protocol(path) for path in paths if _is_file_of_photos(path)]
    path = Path(one).absolute()
    if path.is_dir():
        folders = [e for e in os.scandir(path) if e.is_dir() and not e.name.startswith(".")]
        return [] if folders else _files_in(path)
    if path.is_file():
        if not _is_file_of_photos(path.name):
            raise PhotoError(f"{printable(one)}: wanted a folder, or files ending in {' or '.join(SUFFIXES)}")
        return [str(path)]
    if any(c in path.name for c in "*?["):
        return [str(file) for file in path.parent.glob(path.name) if _is_file_of_photos(file.name)]
    return []


def _is_file_of_photos(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _files_in(folder: Path) -> list[str]:
    return sorted(
        entry.path
        for entry in os.scandir(folder)
        if _is_file_of_photos(entry.name) and not entry.name.startswith(".") and entry.is_file()
    )


def _base(file: str) -> str:
    return file.rsplit("/", 1)[-1]


def _shard_of(name: str, shards: int) -> int:
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % shards


def people_of(
    unit: Unit, reading: Reading, problems: list[Problem], notices: list[Problem], done: Container[str] = ()
) -> Iterator[People]:
    """The persons of a unit one by one, but for those who are `done`, whose photos are not decoded."""
    how = (reading.size, reading.resize, reading.convert, problems, notices)
    if unit.people is None:
        return each_of(usable_encoded(unit.where, *how, done))
    return each_of(usable_persons([Path(unit.where, name) for name in unit.people if name not in done], *how))
