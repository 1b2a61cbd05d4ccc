"""Photos to train on: a folder of identities, WebDataset tars, insightface's .rec, or People; listed, not decoded.

Each kind is a `Source`: it knows its photos by number and decodes one when it is asked for, so that a dataset may be
larger than memory. `Photos` are some identities of a source, with labels from 0 on.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from veilkern.data.people import People, Problem, person_folders, photo_files
from veilkern.data.photos import MAX_FILE_BYTES, decode_photo, printable, read_photo
from veilkern.datasets.encoded import Member, members_of_tar
from veilkern.datasets.source import files_of
from veilkern.errors import PhotoError
from veilkern.training.recordio import RecordFile

Faces = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | People


@dataclass(frozen=True)
class Reading:
    """How photos are brought to the network's input: see `read_photo`."""

    size: tuple[int, int]
    resize: bool = False
    convert: bool = False


class Source(Protocol):
    """All photos of one place. identities: their names; labels: the identity of each photo, int64 [N]."""

    identities: list[str]
    labels: np.ndarray

    def where(self, photo: int) -> str:
        """What reports call a photo."""

    def read(self, photo: int, how: Reading) -> torch.Tensor:
        """A photo, uint8 [3, H, W]; PhotoError that names it."""

    def digest(self) -> str:
        """SHA-256 of names and sizes: whether these are the photos of before."""


@dataclass(frozen=True, repr=False)
class Photos:
    """Some identities of a source. photos: numbers in the source, int64 [n]; labels int64 [n], from 0 on."""

    source: Source
    identities: list[str]
    photos: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, source: Source, identities: np.ndarray | None = None) -> Photos:
        """All identities of a source, or those of these numbers, ascending, as far as they have photos."""
        counts = np.bincount(source.labels, minlength=len(source.identities))
        chosen = np.flatnonzero(counts) if identities is None else identities[counts[identities] > 0]
        place = np.full(len(source.identities), -1)
        place[chosen] = np.arange(len(chosen))
        photos = np.flatnonzero(place[source.labels] >= 0)
        return cls(source, [source.identities[i] for i in chosen], photos, place[source.labels[photos]])

    def __len__(self) -> int:
        return len(self.photos)

    def __repr__(self) -> str:
        return f"Photos({len(self.identities)} identities, {len(self)} photos)"


def able_of(source: Source) -> int:
    """How many identities have two photos at least: those that can be verified on."""
    return int((np.bincount(source.labels, minlength=len(source.identities)) >= 2).sum())


def split(source: Source, held_out: int) -> tuple[Photos, Photos]:
    """Identities to train on, and `held_out` others to verify on, which have two photos at least. PhotoError where so
    many have not.

    Chosen by a hash of their names, not by a seed: networks trained on one folder with different seeds hold out the
    same identities, and one more identity moves few others.
    """
    counts = np.bincount(source.labels, minlength=len(source.identities))
    able = np.flatnonzero(counts >= 2)
    if len(able) < held_out:
        raise PhotoError(
            f"held out for verification are {held_out} identities with two photos at least; {len(able)} have two"
        )
    by_hash = sorted(able.tolist(), key=lambda i: hashlib.sha256(_bytes(source.identities[i])).digest())
    chosen = np.sort(np.array(by_hash[:held_out], dtype=np.int64))
    rest = np.setdiff1d(np.arange(len(source.identities)), chosen)
    return Photos.of(source, rest), Photos.of(source, chosen)


def open_source(faces: Faces, problems: list[Problem], notices: list[Problem]) -> Source:
    """Lists the photos of a folder of identities, of tars (a folder of them, files, patterns), of a .rec (or the folder
    it lies in), or of People. What is left out of a folder is added to `problems` and `notices`. PhotoError where there
    is nothing, or where a file is damaged in its structure."""
    if isinstance(faces, People):
        return PeoplePhotos(faces)
    given = [faces] if isinstance(faces, (str, os.PathLike)) else list(faces)
    if len(given) == 1 and (record := _record_file(Path(given[0]))) is not None:
        return RecordPhotos(record)
    if any("://" in os.fspath(one) for one in given):
        raise PhotoError(f"{printable(os.fspath(given[0]))}: training reads files of this machine, no URL")
    for one in given:
        if Path(one).is_file() and not os.fspath(one).lower().endswith(".tar"):
            raise PhotoError(f"{printable(os.fspath(one))}: wanted a folder of identities, .tar files or a .rec")
    files = files_of(given)
    if files is None:
        return FolderPhotos(Path(given[0]), problems, notices)
    if other := [file for file in files if not file.lower().endswith(".tar")]:
        raise PhotoError(f"{printable(other[0])}: training reads tars and .rec files, no Parquet")
    return TarPhotos(files)


def _record_file(path: Path) -> Path | None:
    """The .rec that a path is, or that lies in the folder (train.rec, or the only one)."""
    if path.suffix.lower() == ".rec":
        return path
    found = sorted(path.glob("*.rec")) if path.is_dir() else []
    if len(found) > 1:
        found = [one for one in found if one.name == "train.rec"] or found
        if len(found) > 1:
            raise PhotoError(f"{printable(path)}: several .rec files and none is train.rec; name one of them")
    return found[0] if found else None


def _bytes(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


class FolderPhotos:
    """FOLDER/<identity>/<photo>.{png,jpg,jpeg,webp}."""

    def __init__(self, root: Path, problems: list[Problem], notices: list[Problem]):
        self.root = root
        self.identities, self.files, labels = list[str](), list[str](), list[int]()
        for folder in person_folders(root, problems):
            names = [file.name for file in photo_files(folder, problems, notices)]
            if not names:
                problems.append(Problem(str(folder), "no photo of this person"))
                continue
            labels += [len(self.identities)] * len(names)
            self.files += names
            self.identities.append(folder.name)
        if not self.files:
            listed = "".join(f"\n  {problem}" for problem in problems[:10])
            raise PhotoError(f"{printable(root)}: no photo; wanted one folder per identity with photos inside{listed}")
        self.labels = np.array(labels, dtype=np.int64)

    def _path(self, photo: int) -> Path:
        return self.root / self.identities[self.labels[photo]] / self.files[photo]

    def where(self, photo: int) -> str:
        return str(self._path(photo))

    def read(self, photo: int, how: Reading) -> torch.Tensor:
        return read_photo(self._path(photo), size=how.size, resize=how.resize, convert=how.convert)[0]

    def digest(self) -> str:
        found = hashlib.sha256(b"folder\0")
        for photo, file in enumerate(self.files):
            try:
                size = self._path(photo).stat().st_size
            except OSError:
                size = -1
            found.update(_bytes(f"{self.identities[self.labels[photo]]}/{file} {size}\n"))
        return found.hexdigest()


class TarPhotos:
    """WebDataset tars: members `<identity>/<photo>`, or any name with a .json beside it that says whose it is (see
    `veilkern.datasets.encoded`). An identity may have photos in several."""

    def __init__(self, files: list[str]):
        self.paths = files
        members: list[tuple[int, Member]] = []
        for number, path in enumerate(files):
            members += [(number, member) for member in _members(path)]
        if not members:
            raise PhotoError(f"{printable(files[0])}: no photo in it")
        members.sort(key=lambda one: (_bytes(one[1].person), one[0], one[1].offset))
        self.identities = list(dict.fromkeys(member.person for _, member in members))
        numbers = {name: number for number, name in enumerate(self.identities)}
        self.labels = np.array([numbers[member.person] for _, member in members], dtype=np.int64)
        self.files = [member.file for _, member in members]
        # Of each photo: its tar, where it begins there, and its bytes.
        self.places = np.array([[n, m.offset, m.size] for n, m in members], dtype=np.int64)

    def where(self, photo: int) -> str:
        path = self.paths[self.places[photo, 0]]
        return f"{path}:{self.identities[self.labels[photo]]}/{self.files[photo]}"

    def read(self, photo: int, how: Reading) -> torch.Tensor:
        tar, offset, size = self.places[photo].tolist()
        try:
            with open(self.paths[tar], "rb") as file:
                file.seek(offset)
                data = file.read(min(size, MAX_FILE_BYTES + 1))
        except OSError as error:
            raise PhotoError(f"{printable(self.where(photo))}: cannot be read: {error.strerror or error}") from error
        return _decoded(data, self.where(photo), how)

    def digest(self) -> str:
        found = hashlib.sha256(b"tar\0")
        for (tar, _, size), label, file in zip(self.places.tolist(), self.labels, self.files, strict=True):
            found.update(_bytes(f"{Path(self.paths[tar]).name} {self.identities[label]}/{file} {size}\n"))
        return found.hexdigest()


def _members(path: str) -> list[Member]:
    try:
        with open(path, "rb") as file:
            return members_of_tar(file)
    except PhotoError as error:
        raise PhotoError(f"{printable(path)}: {error}") from error
    except Exception as error:  # tarfile raises errors of every class
        raise PhotoError(f"{printable(path)}: cannot be read: {printable(error) or type(error).__name__}") from error


class RecordPhotos:
    """insightface's .rec with its .idx: see `veilkern.training.recordio`."""

    def __init__(self, path: Path):
        self.records = RecordFile(path)
        found = [(name, rows) for name, rows in self.records.identities() if len(rows)]
        if not found:
            raise PhotoError(f"{printable(path)}: no photo in it")
        self.identities = [name for name, _ in found]
        self.labels = np.repeat(np.arange(len(found)), [len(rows) for _, rows in found])
        self.rows = np.concatenate([rows for _, rows in found])

    def where(self, photo: int) -> str:
        return f"{self.records.path}:record {self.records.keys[self.rows[photo]]}"

    def read(self, photo: int, how: Reading) -> torch.Tensor:
        return _decoded(self.records.photo(int(self.rows[photo])), self.where(photo), how)

    def digest(self) -> str:
        found = hashlib.sha256(b"rec\0")
        for array in (self.records.keys, self.records.offsets, self.rows, self.labels):
            found.update(array.astype("<i8").tobytes())
        return found.hexdigest()


@dataclass
class PeoplePhotos:
    """Photos in memory, all of one size."""

    people: People
    identities: list[str] = field(init=False)
    labels: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.identities, self.labels = self.people.names, self.people.rows.numpy()

    def where(self, photo: int) -> str:
        return self.people.files[photo]

    def read(self, photo: int, how: Reading) -> torch.Tensor:
        image = self.people.images[photo]
        if image.shape[1:] != how.size:
            raise PhotoError(
                f"{self.where(photo)}: {image.shape[1]} x {image.shape[2]} pixels (height x width), wanted "
                f"{how.size[0]} x {how.size[1]}"
            )
        return image

    def digest(self) -> str:
        found = hashlib.sha256(b"people\0" + self.people.images.contiguous().numpy().tobytes())
        found.update(_bytes("\n".join(self.people.names)) + self.labels.astype("<i8").tobytes())
        return found.hexdigest()


def _decoded(data: bytes, name: str, how: Reading) -> torch.Tensor:
    return decode_photo(data, name, size=how.size, resize=how.resize, convert=how.convert)[0]
