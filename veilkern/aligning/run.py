"""A folder of ordinary photos -> one aligned face of each, as the rest of veilkern reads them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from veilkern.aligning.choosing import LEAST_COSINE, LEAST_EYES, Choice, Judge, candidates, largest
from veilkern.aligning.detectors import Detector, Face, find_faces, load_detector
from veilkern.aligning.extra import needed
from veilkern.aligning.geometry import crop, for_size, outside
from veilkern.aligning.landmarks import Landmarks
from veilkern.aligning.pictures import Album
from veilkern.aligning.report import earlier, write_report
from veilkern.aligning.result import LEFT_OUT, THERE, WRITTEN, Alignment, Photo, relative
from veilkern.data.files import refuse_inside
from veilkern.data.people import Problem
from veilkern.data.photos import read_photo
from veilkern.errors import OutputError, PhotoError
from veilkern.networks.face_model import FaceModel
from veilkern.progress import progress_bar
from veilkern.veils.folder_plan import Person, open_folders, place, plan, protected_name, to_write, write

SIZES = (16, 4096)  # of crops, least and most
MUCH_OUTSIDE = 0.15  # the share of a crop outside of the photo that is told


def align(
    photos: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    size: int = 112,
    detector: str | Detector | None = None,
    landmarks: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    model: FaceModel | None = None,
    least_eyes: float = LEAST_EYES,
    least_cosine: float = LEAST_COSINE,
    convert: bool = False,
    overwrite: bool = False,
    report: str | os.PathLike[str] | None = None,
    progress: bool | Callable[[int, int], None] | None = None,
) -> Alignment:
    """PHOTOS/<person>/<photo>.* of any size -> OUT/<person>/<photo>.png, uint8 RGB size x size, one face each, aligned
    to ArcFace's five points; and REPORT/report.html, report.json and contact_sheet.png (default: OUT.report).

    Photos are turned upright by EXIF first. Of several faces the largest is taken; with two of the same size (within a
    tenth) the photo is left out. With a model, the face is taken whose feature is nearest to the mean of the person's
    clear photos, those with one face; where none is as near as least_cosine, the photo is left out, and a clear photo
    that is not as near to the others is used and listed as doubtful. A face with fewer than least_eyes pixels between
    the eyes does not count.

    detector: "mtcnn" (None; extra `align`), "yunet:FILE", "file.py:callable", or a function of uint8 [H, W, 3] RGB that
    gives (box, score, points [5, 2]) of each face; see veilkern/aligning/detectors.py. landmarks: yours in its place, a
    file (.json, .csv) or a mapping of "person/photo" to points, see landmarks.py. model: its input must be square.
    convert: turn greyscale, RGBA, CMYK and 16-bit photos into 8-bit RGB, which are left out otherwise. progress: as in
    progress.py.

    What is done is skipped: a crop of this size in its place. Whatever else is there is kept and listed, unless
    overwrite. Names are those that protect gives: `a.png` stays, `a.jpg` becomes `a.jpg.png`. A photo that cannot be
    read, has no face to take, or whose name would be that of another is listed in `.problems`, and the others go on.
    Raises PhotoError when PHOTOS is not a folder of persons' folders or the landmarks cannot be read, OutputError when
    OUT or REPORT cannot be made or lies in PHOTOS, ModelError when the detector cannot be had, ValueError and TypeError
    for wrong arguments.
    """
    _check(size, least_eyes, least_cosine, detector, landmarks, model)
    needed("cv2")
    given = None if landmarks is None else Landmarks.of(landmarks)
    finder = None if given is not None else load_detector(detector)
    pages = Path(f"{os.fspath(out)}.report" if report is None else report)
    refuse_inside(Path(photos), Path(out), pages)
    refuse_inside(Path(out), pages)
    known = earlier(pages, overwrite)
    root, target, _ = open_folders(photos, out)
    outcome = Alignment()
    persons = plan(root, target, None, protected_name, outcome)
    run = _Run(target, outcome, size, finder, given, model, least_eyes, least_cosine, convert, overwrite, known)
    with progress_bar(progress, sum(len(person.photos) for person in persons), "aligning") as bar:
        for person in persons:
            run.person(person, bar.advance)
    for name in [] if given is None else given.unused():
        outcome.notices.append(Problem(str(root / name), f"landmarks in {given.source}, and no such photo"))  # type: ignore[union-attr]
    how = {
        "size": size,
        "faces": given.source if given is not None else _name_of(finder),
        "model": None if model is None else model.about(),
        "least_eyes": least_eyes,
        "least_cosine": least_cosine,
    }
    outcome.report = write_report(pages, outcome, how, title=f"veilkern align: {Path(photos).name}")
    return outcome


def _name_of(detector: Any) -> str:
    return str(getattr(detector, "name", "") or getattr(detector, "__name__", "") or type(detector).__name__)


def _check(size: Any, least_eyes: Any, least_cosine: Any, detector: object, landmarks: object, model: object) -> None:
    if not isinstance(size, int) or isinstance(size, bool) or not SIZES[0] <= size <= SIZES[1]:
        raise ValueError(f"align: size must be a whole number of {SIZES[0]} to {SIZES[1]} pixels, got {size!r}")
    if not 0 <= least_eyes < float("inf"):
        raise ValueError(f"align: least_eyes must be 0 or more, got {least_eyes!r}")
    if not -1 <= least_cosine <= 1:
        raise ValueError(f"align: least_cosine must be -1 to 1, got {least_cosine!r}")
    if detector is not None and landmarks is not None:
        raise ValueError("align: give a detector or landmarks, not both")
    if model is not None and not isinstance(model, FaceModel):
        raise TypeError(f"align: model must be a FaceModel, got {type(model).__name__}")
    if model is not None and model.input.size[0] != model.input.size[1]:
        raise ValueError(f"align: the model's input must be square, got {list(model.input.size)}")


class _Run:
    """One call's way through persons and photos."""

    def __init__(
        self,
        target: Path,
        outcome: Alignment,
        size: int,
        detector: Detector | None,
        landmarks: Landmarks | None,
        model: FaceModel | None,
        least_eyes: float,
        least_cosine: float,
        convert: bool,
        overwrite: bool,
        known: Mapping[str, dict[str, Any]],
    ):
        self.target, self.outcome, self.size = target, outcome, size
        self.detector, self.landmarks, self.model = detector, landmarks, model
        self.least_eyes, self.least_cosine = least_eyes, least_cosine
        self.convert, self.overwrite, self.known = convert, overwrite, known
        self.album = Album()

    def person(self, person: Person, advance: Callable[[], None]) -> None:
        """All photos of one person; those in which a model has to choose wait for the clear ones."""
        judge = None if self.model is None else Judge(self.model, self.least_cosine)
        waiting: list[tuple[Photo, list[int], torch.Tensor]] = []
        newer = 0
        ours = []
        for file, name in person.photos:
            photo = Photo(file, relative(person.folder, file.name), relative(person.folder, name))
            ours.append(photo)
            with self.outcome.noting(photo):
                path = place(self.target, person, name)
                if to_write(path, file, self.overwrite):
                    self._look(photo, path, judge, waiting)
                else:
                    self._skip(photo, path, judge)
                    newer += file.stat().st_mtime > path.stat().st_mtime
            if all(photo is not one for one, *_ in waiting):
                advance()
        for photo, large, features in waiting:
            with self.outcome.noting(photo):
                self._settle(photo, large, features, judge)
            advance()
        if judge is not None:
            self._doubt(ours, judge)
        if newer:
            cause = f"{newer} photos are newer than their crops; --overwrite aligns them again"
            self.outcome.notices.append(Problem(str(person.folder), cause))
        for photo in ours if self.overwrite else []:
            if photo.state == LEFT_OUT and os.path.lexists(self.target / photo.output):
                cause = f"left out, and a crop of an earlier run is still in its place: {self.target / photo.output}"
                self.outcome.notices.append(Problem(str(photo.file), cause))
        self.outcome.photos += ours

    def _read(self, photo: Photo) -> np.ndarray:
        """The photo, uint8 [H, W, 3], upright."""
        image, photo.remarks = read_photo(photo.file, size=None, convert=self.convert)
        photo.height, photo.width = image.shape[1:]
        return np.ascontiguousarray(image.permute(1, 2, 0).numpy())

    def _look(self, photo: Photo, path: Path, judge: Judge | None, waiting: list[Any]) -> None:
        """Finds the faces and writes the crop where it is clear whose it is."""
        rgb = self._read(photo)
        if self.landmarks is not None:
            photo.faces = self.landmarks.faces(photo.name)
        else:
            assert self.detector is not None  # one of both is given
            photo.faces = find_faces(self.detector, rgb)
        large, reason = candidates(photo.faces, self.least_eyes)
        if judge is not None and large and sum(face.is_one for face in photo.faces) > 1:
            crops = [self._tensor(rgb, photo.faces[i], judge.model.input.size[0]) for i in large]
            waiting.append((photo, large, judge.features(torch.stack(crops))))
            return
        choice = largest(photo.faces, large) if large else Choice(None, reason)
        self._take(photo, path, rgb, choice)
        if judge is not None:
            face = self._tensor(rgb, photo.faces[large[0]], judge.model.input.size[0])
            judge.add_clear(photo.name, judge.features(face[None])[0])

    def _take(self, photo: Photo, path: Path, rgb: np.ndarray, choice: Choice) -> None:
        """Writes the crop of the face that was chosen; PhotoError with the reason where none was."""
        if choice.face is None:
            photo.picture = self.album.picture(rgb, photo.faces, None, None)
            raise PhotoError(choice.reason)
        face = photo.faces[choice.face]
        pixels = self._tensor(rgb, face, self.size)
        photo.outside = outside(rgb.shape, for_size(face.matrix, self.size), self.size)
        write(path, pixels, None, self.overwrite)
        photo.state, photo.chosen = WRITTEN, choice.face
        self.outcome.written += 1
        photo.picture = self.album.picture(rgb, photo.faces, choice.face, pixels)
        if photo.outside > MUCH_OUTSIDE:
            cause = f"{photo.outside:.0%} of the crop lie outside of the photo and are black"
            self.outcome.notices.append(Problem(str(photo.file), cause))

    def _settle(self, photo: Photo, large: list[int], features: torch.Tensor, judge: Judge | None) -> None:
        """A photo of several faces, once the person's clear photos are known."""
        assert judge is not None  # or nothing would wait
        found = judge.nearest(features)
        rgb = self._read(photo)
        if found is None:
            choice = largest(photo.faces, large)
            if choice.face is None:
                choice = Choice(None, f"{choice.reason.partition(';')[0]}, and no clear photo of the person to tell by")
        else:
            photo.cosine = found[1]
            near = found[1] >= judge.least_cosine
            which = (
                f"none of its {len(large)} faces that are large enough is like"
                if len(large) > 1
                else "its only face that is large enough is unlike"
            )
            why = f"{which} those in the person's clear photos (cosine {found[1]:.2f})"
            choice = Choice(large[found[0]]) if near else Choice(None, why)
        self._take(photo, self.target / photo.output, rgb, choice)

    def _skip(self, photo: Photo, path: Path, judge: Judge | None) -> None:
        """A crop that is there; OutputError unless it is one, of this size."""
        try:
            there, _ = read_photo(path, size=(self.size, self.size))
            if judge is not None:
                small, _ = read_photo(path, size=judge.model.input.size, resize=True)
                judge.add_clear(photo.name, judge.features(small[None])[0])
        except PhotoError as error:
            raise OutputError(f"{error}; there already, kept (overwrite=True, --overwrite to replace it)") from error
        photo.state, photo.before = THERE, self.known.get(photo.name, {})
        photo.picture = self.album.picture(None, [], None, there)
        self.outcome.skipped += 1

    def _doubt(self, photos: list[Photo], judge: Judge) -> None:
        """Tells of the clear photos that are unlike the others."""
        for photo in photos:
            if photo.cosine is None and judge.knows(photo.name):
                photo.cosine = judge.cosine(photo.name)
                photo.doubtful = photo.cosine is not None and photo.cosine < judge.least_cosine
            if photo.doubtful:
                cause = f"doubtful: its face is unlike those of the person's other photos (cosine {photo.cosine:.2f})"
                self.outcome.notices.append(Problem(str(photo.file), cause))

    @staticmethod
    def _tensor(rgb: np.ndarray, face: Face, size: int) -> torch.Tensor:
        """A face's crop, uint8 [3, size, size]."""
        return torch.from_numpy(crop(rgb, for_size(face.matrix, size), size)).permute(2, 0, 1).contiguous()
