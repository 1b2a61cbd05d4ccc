"""The photos of other people that the experiments search among: in memory, or a folder of any size."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from veilkern.data.people import Problem, read_person
from veilkern.data.photos import photo_id
from veilkern.errors import PhotoError


@dataclass(frozen=True)
class GalleryPhotos:
    """photos: called, it gives uint8 [n, 3, H, W] or [3, H, W] one after the other. mark: what tells these photos from
    others; what networks make of them is kept by it.
    problems: what was left out; it grows while the photos are read."""

    photos: Callable[[], Iterable[torch.Tensor]]
    mark: str
    problems: list[Problem] = field(default_factory=list)

    def told(self) -> dict:
        """What could not be used, for a cell."""
        return {"problems": [[problem.file, problem.cause] for problem in self.problems]}

    def tell(self, told: dict) -> None:
        """Add what `told` gave to the problems."""
        _add(self.problems, [Problem(file, cause) for file, cause in told["problems"]])

    @classmethod
    def of_images(cls, images: torch.Tensor) -> GalleryPhotos:
        """uint8 [G, 3, H, W]."""
        marks = "\0".join(photo_id(image) for image in images)
        return cls(lambda: images.split(64), hashlib.sha256(marks.encode()).hexdigest())

    @classmethod
    def of_folder(cls, folder: Path, size: tuple[int, int], resize: bool, convert: bool) -> GalleryPhotos:
        """The photos in a folder and in the folders in it, read when they are asked for. The mark is made of names,
        sizes and times of change. PhotoError for no folder."""
        if not folder.is_dir():
            raise PhotoError(f"{folder}: not a folder of gallery photos")
        listed = sorted(
            f"{file.relative_to(folder)} {file.stat().st_size} {file.stat().st_mtime_ns}"
            for file in folder.rglob("*")
            if file.is_file()
        )
        options = f"{size} {resize} {convert}"
        mark = hashlib.sha256("\0".join([options, *listed]).encode(errors="surrogateescape")).hexdigest()
        problems: list[Problem] = []
        return cls(lambda: _photos(folder, size, resize, convert, problems), mark, problems)


def _photos(folder: Path, size, resize: bool, convert: bool, problems: list[Problem]) -> Iterator[torch.Tensor]:
    """One folder's photos are in memory at a time. What is wrong is told once, whoever else reads the folder."""
    found: list[Problem] = []
    none = True
    for place in [folder, *sorted(p for p in folder.iterdir() if p.is_dir())]:
        for _, image in read_person(place, size, resize, convert, found, []):
            none = False
            yield image
    _add(problems, [p for p in found if "a folder inside" not in p.cause])
    if none:
        raise PhotoError(f"{folder}: no usable gallery photo")


def _add(problems: list[Problem], more: list[Problem]) -> None:
    known = set(map(str, problems))
    problems += [p for p in more if str(p) not in known]
