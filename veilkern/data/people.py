"""People: the photos of many persons in one ragged batch."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from veilkern.data.files import is_plain_name
from veilkern.data.photos import SUFFIXES, printable, read_photo
from veilkern.errors import PhotoError


@dataclass(frozen=True)
class Problem:
    """A file or folder that was left out, or used with a remark: where, and why. As text it is one printable line."""

    file: str
    cause: str

    def __str__(self) -> str:
        return printable(f"{self.file}: {self.cause}")

    @classmethod
    def of(cls, file: Path, error: Exception) -> Problem:
        """From an error about `file`, whose message may begin with its name."""
        return cls(str(file), str(error).removeprefix(f"{file}: ").removeprefix(f"{printable(file)}: "))


@dataclass(frozen=True, repr=False)
class People:
    """Photos of P persons, N in all; the photos of person p are rows offsets[p]:offsets[p + 1].

    images: uint8 [N, 3, H, W] RGB. offsets: int64 [P + 1], prefix sums of photo counts. names: P unique names.
    files: N file names (relative to the folder they came from, or made up). problems: what was left out and why.
    notices: what was used, with a remark (duplicates, photos turned upright, one photo only).
    """

    images: torch.Tensor
    offsets: torch.Tensor
    names: list[str]
    files: list[str]
    problems: list[Problem] = field(default_factory=list)
    notices: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            raise ValueError(
                f"People: images must be uint8 [N, 3, H, W], got {self.images.dtype} {list(self.images.shape)}"
            )
        if self.offsets.dtype != torch.int64 or self.offsets.shape != (len(self.names) + 1,):
            raise ValueError(
                f"People: offsets must be int64 [{len(self.names) + 1}], one more than there are names, "
                f"got {self.offsets.dtype} {list(self.offsets.shape)}"
            )
        marks = self.offsets.tolist()
        if marks[0] != 0 or marks[-1] != len(self.images) or marks != sorted(marks):
            raise ValueError(
                f"People: offsets must rise from 0 to {len(self.images)} (the number of images), got {marks}"
            )
        if len(self.files) != len(self.images):
            raise ValueError(f"People: files must have {len(self.images)} entries, one an image, got {len(self.files)}")
        if len(set(self.names)) != len(self.names):
            raise ValueError("People: names must be unique")

    def __repr__(self) -> str:  # never the pixels
        height, width = self.images.shape[2:]
        return (
            f"People({len(self)} persons, {len(self.images)} photos of {height} x {width}, "
            f"{len(self.problems)} problems, {len(self.notices)} notices)"
        )

    @classmethod
    def from_images(cls, images: Sequence[torch.Tensor], names: Sequence[str] | None = None) -> People:
        """People from one uint8 [n, 3, H, W] tensor per person."""
        if not images:
            raise ValueError("People: images must hold at least one person, got none")
        names = [f"person-{i}" for i in range(len(images))] if names is None else list(names)
        if len(names) != len(images):
            raise ValueError(f"People: names must have {len(images)} entries, one a person, got {len(names)}")
        counts = torch.tensor([0] + [len(i) for i in images], dtype=torch.int64)
        files = [f"{name}/{i:02d}.png" for name, photos in zip(names, images, strict=True) for i in range(len(photos))]
        return cls(torch.cat(list(images)), counts.cumsum(0), names, files)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def counts(self) -> torch.Tensor:
        """Photos of each person, int64 [P]."""
        return self.offsets.diff()

    @property
    def rows(self) -> torch.Tensor:
        """The person of each photo, int64 [N]."""
        return torch.repeat_interleave(torch.arange(len(self)), self.counts)

    def photos(self, person: int | str) -> torch.Tensor:
        """The photos of one person, uint8 [n, 3, H, W], a view."""
        p = self.names.index(person) if isinstance(person, str) else person
        return self.images[self.offsets[p] : self.offsets[p + 1]]

    def take(self, photos: Iterable[int] | torch.Tensor) -> People:
        """These photos only (row numbers, kept in order); persons left without a photo go."""
        index = torch.as_tensor(list(photos) if not isinstance(photos, torch.Tensor) else photos, dtype=torch.int64)
        index = index.sort().values
        counts = torch.bincount(self.rows[index], minlength=len(self))
        names = [name for name, n in zip(self.names, counts.tolist(), strict=True) if n]
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts[counts > 0].cumsum(0)])
        return People(
            self.images[index], offsets, names, [self.files[i] for i in index.tolist()], self.problems, self.notices
        )

    def split(self, held_out: int) -> tuple[People, People]:
        """The first photos of each person, and the last `held_out` ones of each (never a person's only photo)."""
        if held_out < 0:
            raise ValueError(f"People.split: held_out must be 0 or more, got {held_out}")
        place = torch.arange(len(self.images)) - self.offsets[self.rows]
        keep = (self.counts - held_out).clamp_min(1)
        first = place < keep[self.rows]
        return self.take(first.nonzero().flatten()), self.take((~first).nonzero().flatten())


def read_people(
    folder: str | os.PathLike[str], *, size: int | tuple[int, int] = 112, resize: bool = False, convert: bool = False
) -> People:
    """Read FOLDER/<person>/<photo>.{png,jpg,jpeg,webp}: one folder per person, one aligned face per photo.

    size: pixels wanted, an int or (height, width); resize and convert as in `read_photo`. A bad photo, one that is
    protected already, and a folder that cannot be read are left out and listed in `.problems`; the rest is read. Raises
    PhotoError when the folder is missing, is a person's own folder, or holds no usable photo.
    """
    root = Path(folder)
    size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    problems: list[Problem] = []
    notices: list[Problem] = []
    images, counts, names, files = [], [0], [], []
    for person, photos in _some_usable(root, size, resize, convert, problems, notices):
        images += [image for _, image in photos]
        files += [f"{person.name}/{file.name}" for file, _ in photos]
        names.append(person.name)
        counts.append(len(photos))
    return People(torch.stack(images), torch.tensor(counts).cumsum(0), names, files, problems, notices)


def iter_people(
    folder: str | os.PathLike[str],
    *,
    size: int | tuple[int, int] = 112,
    resize: bool = False,
    convert: bool = False,
    people: Collection[str] | None = None,
    problems: list[Problem] | None = None,
    notices: list[Problem] | None = None,
) -> Iterator[People]:
    """As `read_people`, person by person, each read when she is asked for: a stream for `craft_stream`, of any length.

    people: the names of the only folders that count, which are looked at in their order. problems, notices: lists that
    what was left out, and remarks, are added to. Raises what `read_people` raises; that there is no usable photo is
    known at the end.
    """
    size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    problems = [] if problems is None else problems
    notices = [] if notices is None else notices
    yield from each_of(_some_usable(Path(folder), size, resize, convert, problems, notices, people))


def each_of(usable: Iterable[tuple[Path, list[tuple[Path, torch.Tensor]]]]) -> Iterator[People]:
    """One People each of persons and their photos, as `usable_persons` gives them."""
    for person, photos in usable:
        files = [f"{person.name}/{file.name}" for file, _ in photos]
        offsets = torch.tensor([0, len(photos)])
        yield People(torch.stack([image for _, image in photos]), offsets, [person.name], files)


def _some_usable(
    root: Path,
    size: Any,
    resize: bool,
    convert: bool,
    problems: list[Problem],
    notices: list[Problem],
    people: Collection[str] | None = None,
) -> Iterator[tuple[Path, list[Any]]]:
    """Each person's folder in `root` with her usable photos; PhotoError at the end when there was none."""
    found = False
    folders = person_folders(root, problems) if people is None else [root / name for name in people]
    for one in usable_persons(folders, size, resize, convert, problems, notices):
        found = True
        yield one
    if not found:
        detail = "".join(f"\n  {p}" for p in problems[:10])
        raise PhotoError(
            f"{printable(root)}: no usable photo; wanted one folder per person with PNG, JPEG or WebP inside{detail}"
        )


def usable_persons(
    folders: Iterable[Path], size: Any, resize: bool, convert: bool, problems: list[Problem], notices: list[Problem]
) -> Iterator[tuple[Path, list[tuple[Path, torch.Tensor]]]]:
    """Each of these persons' folders with her usable photos, each read when it is asked for; what else there is is
    added to `problems` and `notices`."""
    for person in folders:
        photos = read_person(person, size, resize, convert, problems, notices)
        if has_photos(person, photos, problems, notices):
            yield person, photos


def has_photos(person: Path, photos: list[Any], problems: list[Problem], notices: list[Problem]) -> bool:
    """Whether a person has a usable photo; that there is none, or one alone, is noted."""
    if not photos:
        problems.append(Problem(str(person), "no usable photo of this person"))
    if len(photos) == 1:
        cause = "one photo only: a veil can be crafted, but its recognition not be judged"
        notices.append(Problem(str(person), cause))
    return bool(photos)


def person_folders(root: Path, problems: list[Problem]) -> list[Path]:
    """The folders of persons in `root`, sorted; what else is wrong there is added to `problems`.

    PhotoError when `root` cannot be read, or holds photos and no folder of photos: then it is a person's own.
    """
    if not os.path.isdir(root):
        raise PhotoError(
            f"{printable(root)}: not a folder; wanted one folder per person with that person's photos inside"
        )
    try:
        entries = _entries(root)
    except OSError as error:
        raise PhotoError(f"{printable(root)}: cannot be read: {error.strerror or error}") from error
    folders = [entry for entry in entries if os.path.isdir(entry)]
    loose = [entry for entry in entries if entry not in set(folders) and entry.suffix.lower() in SUFFIXES]
    if loose and not any(_has_photos(folder) for folder in folders):
        raise PhotoError(
            f"{printable(root)}: holds photos itself and no person's folder; pass the folder above it, "
            f"{printable(Path(os.path.abspath(root)).parent)}"  # noqa: PTH100, links stay
        )
    problems += [Problem(str(entry), "a photo outside of any person's folder") for entry in loose]
    problems += [Problem(str(f), why_not_plain(f.name)) for f in folders if not is_plain_name(f.name)]
    return [folder for folder in folders if is_plain_name(folder.name)]


def _has_photos(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return any(entry.suffix.lower() in SUFFIXES for entry in _entries(folder))
    return False


def why_not_plain(name: str) -> str:
    """The reason why `is_plain_name` refuses a name."""
    bad = "".join(sorted({c for c in name if not is_plain_name(f"x{c}x")}))
    if bad:
        reason = f"it has {bad}"
    elif name[-1:] in ". ":
        reason = "it ends with a dot or blank"
    else:
        reason = "it is longer than 255 bytes" if len(name.encode()) > 255 else "it is reserved on Windows"
    return f"not a name that every system can write: {reason}; rename it"


def photo_files(person: Path, problems: list[Problem], notices: list[Problem]) -> list[Path]:
    """What may be a photo by its name in one person's folder, sorted; the rest is added to `problems` and `notices`."""
    try:
        entries = _entries(person)
    except OSError as error:  # gone since it was listed, or not ours to read
        problems.append(Problem(str(person), f"cannot be read: {error.strerror or error}"))
        return []
    files = []
    for file in entries:
        if os.path.isdir(file):
            problems.append(Problem(str(file), "a folder inside a person's folder, not read"))
        elif file.suffix.lower() in SUFFIXES:
            files.append(file)
        else:
            notices.append(Problem(str(file), f"not read: not a photo by its name (wanted {', '.join(SUFFIXES)})"))
    return files


def _entries(folder: Path) -> list[Path]:
    """All but hidden ones, sorted. os.path.isdir asks about them, since it never raises, unlike Path.is_dir."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def read_person(
    person: Path, size: Any, resize: bool, convert: bool, problems: list[Problem], notices: list[Problem]
) -> list[tuple[Path, torch.Tensor]]:
    """The usable photos of one person's folder, uint8 [3, H, W] each; the rest is added to `problems`."""
    read = functools.partial(read_photo, size=size, resize=resize, convert=convert)
    return usable_photos(photo_files(person, problems, notices), read, problems, notices)


def gallery_photos(
    folder: Path, size: Any, resize: bool, convert: bool, problems: list[Problem]
) -> Iterator[torch.Tensor]:
    """The usable photos in a folder and in the folders in it, uint8 [3, H, W], one folder's in memory at a time; what
    cannot be used is added to `problems`, once. PhotoError for no folder, and at the end for none with a photo."""
    if not folder.is_dir():
        raise PhotoError(f"{printable(folder)}: not a folder of gallery photos")
    found: list[Problem] = []
    none = True
    for place in [folder, *sorted(p for p in folder.iterdir() if p.is_dir())]:
        for _, image in read_person(place, size, resize, convert, found, []):
            none = False
            yield image
    known = set(map(str, problems))
    problems += [p for p in found if "a folder inside" not in p.cause and str(p) not in known]
    if none:
        raise PhotoError(f"{printable(folder)}: no usable gallery photo")


def usable_photos(
    files: Iterable[Path],
    read: Callable[[Path], tuple[torch.Tensor, list[str]]],
    problems: list[Problem],
    notices: list[Problem],
) -> list[tuple[Path, torch.Tensor]]:
    """Those of one person's photos that `read` (as `read_photo` does) can read; the rest is added to `problems`."""
    photos: list[tuple[Path, torch.Tensor]] = []
    seen: dict[bytes, Path] = {}
    for file in files:
        try:
            image, remarks = read(file)
        except PhotoError as error:
            problems.append(Problem.of(file, error))
            continue
        notices.extend(Problem(str(file), remark) for remark in remarks)
        twin = seen.setdefault(image.numpy().tobytes(), file)
        if twin is not file:
            notices.append(Problem(str(file), f"the same picture as {twin.name}: a duplicate, kept"))
        photos.append((file, image))
    return photos
