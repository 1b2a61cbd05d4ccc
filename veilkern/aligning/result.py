"""What became of each photo, and of all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from veilkern.aligning.detectors import Face
from veilkern.veils.folder_plan import Outcome, listed

WRITTEN, THERE, LEFT_OUT = "written", "there already", "left out"


@dataclass(eq=False)
class Photo:
    """file: where it is. name: "person/photo" below the folder of photos. output: of its crop, below the folder of
    faces. state: WRITTEN, THERE or LEFT_OUT. reason: why it was left out. faces: all that were found, with box, score
    and points in the photo turned upright. chosen: whose crop it is, a place in faces. height, width: of the photo
    turned upright, pixels, 0 where it could not be read. outside: the share of the crop, 0 to 1, that lies outside of
    the photo. cosine: to the mean feature of the person's clear photos, with a model. doubtful: that is small. remarks:
    what was done to the photo. picture: a JPEG of photo and crop for the report, empty where there is none. before: of
    a crop that was there already, what the report of an earlier run says."""

    file: Path
    name: str
    output: str
    state: str = LEFT_OUT
    reason: str = ""
    faces: list[Face] = field(default_factory=list)
    chosen: int | None = None
    height: int = 0
    width: int = 0
    outside: float = 0.0
    cosine: float | None = None
    doubtful: bool = False
    remarks: list[str] = field(default_factory=list)
    picture: bytes = field(default=b"", repr=False)
    before: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def person(self) -> str:
        """The name of the person's folder."""
        return self.name.partition("/")[0]

    @property
    def several(self) -> bool:
        """Whether one of several faces was taken."""
        return self.state == WRITTEN and len(self.faces) > 1

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        seen = {
            "height": self.height,
            "width": self.width,
            "faces": [face.as_dict() for face in self.faces],
            "chosen": self.chosen,
            "outside": round(self.outside, 3),
            "remarks": self.remarks,
        }
        if self.state == THERE:
            seen = {key: self.before.get(key, value) for key, value in seen.items()}
        cosine = None if self.cosine is None else round(self.cosine, 4)
        judged = {"cosine": cosine, "doubtful": self.doubtful}
        return {"state": self.state, "reason": self.reason, "output": self.output, **seen, **judged}


@dataclass(repr=False)
class Alignment(Outcome):
    """What became of a folder: `written` crops, `skipped` ones that were there already, `problems` and `notices`; each
    of `photos`; and `report`, the path of report.html."""

    photos: list[Photo] = field(default_factory=list)
    report: Path | None = None

    def __repr__(self) -> str:
        return super().__repr__().replace("Outcome(", "Alignment(")

    @contextmanager
    def noting(self, photo: Photo) -> Iterator[None]:
        """What goes wrong with a photo is listed, and said of the photo; the next one's turn comes."""
        before = len(self.problems)
        with listed(photo.file, self):
            yield
        if len(self.problems) > before:
            photo.state, photo.reason = LEFT_OUT, self.problems[-1].cause


def relative(folder: str | os.PathLike[str], file: str) -> str:
    """The name in a person's folder, "person/photo", with slashes on every system."""
    return f"{Path(folder).name}/{file}"
