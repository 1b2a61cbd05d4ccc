"""The photos of other people that the experiments search among: in memory, or a folder of any size."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from veilkern.data.people import Problem, gallery_photos
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

    def told(self) -> dict[str, Any]:
        """What could not be used, for a cell."""
        return {"problems": [[problem.file, problem.cause] for problem in self.problems]}

    def tell(self, told: dict[str, Any]) -> None:
        """Take up what `told` gave, in a run that does not read the photos again."""
        self.problems[:] = [Problem(file, cause) for file, cause in told["problems"]]

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
        return cls(lambda: gallery_photos(folder, size, resize, convert, problems), mark, problems)
