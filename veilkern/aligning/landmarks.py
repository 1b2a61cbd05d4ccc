"""Landmarks of one's own, in place of a detector: JSON or CSV, by the photo's name below the folder of photos.

JSON: {"ann/1.jpg": [[x, y], .. five], "bob/2.jpg": [{"points": [..], "box": [..], "score": 1.0}, ..]}, one face or a
list of them a photo. CSV, one line a face, with a header: file,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5 and, if you like, score,
and left,top,right,bottom. Points as geometry.py orders them, of the photo turned upright.
"""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from veilkern.aligning.detectors import Face
from veilkern.data.photos import printable
from veilkern.errors import PhotoError

_POINTS = [f"{axis}{i}" for i in range(1, 6) for axis in "xy"]
_BOX = ["left", "top", "right", "bottom"]


class Landmarks:
    """The faces of photos, by name."""

    def __init__(self, faces: Mapping[str, list[Face]], source: str = "landmarks"):
        self.source = source
        self._faces = {_key(name): found for name, found in faces.items()}
        self._asked: set[str] = set()

    @classmethod
    def of(cls, given: str | os.PathLike[str] | Mapping[str, Any]) -> Landmarks:
        """From a .json or .csv file, or a mapping as the JSON has it (arrays too). PhotoError names the file, the photo
        and what is wrong with it."""
        if isinstance(given, Mapping):
            return cls(_of_mapping(given, "landmarks"))
        path = Path(given)
        name = printable(path)
        readers = {".json": _of_json, ".csv": _of_csv}
        if path.suffix.lower() not in readers:
            raise PhotoError(f"{name}: not a file of landmarks by its name; wanted .json or .csv")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise PhotoError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
        return cls(readers[path.suffix.lower()](text, name), name)

    def faces(self, name: str) -> list[Face]:
        """Those of one photo, "person/photo"; PhotoError where there are none, or points that are no face's."""
        self._asked.add(_key(name))
        if _key(name) not in self._faces:
            raise PhotoError(f"no landmarks of it in {self.source}")
        found = self._faces[_key(name)]
        if wrong := [face for face in found if not face.is_one]:
            raise PhotoError(
                "its landmarks are no face's: wanted left eye, right eye, nose, left and right corner of the mouth as "
                f"the picture shows them, (x, y) each; they miss the template by {wrong[0].misfit:.0f} of 112 pixels"
            )
        return found

    def unused(self) -> list[str]:
        """Names that nobody has asked for."""
        return sorted(set(self._faces) - self._asked)


def _key(name: str) -> str:
    """Names from another system may have the letters of Unicode in another way, and backslashes."""
    return unicodedata.normalize("NFC", name.replace("\\", "/"))


def _of_json(text: str, name: str) -> dict[str, list[Face]]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PhotoError(f"{name}: no JSON: {error}") from error
    if not isinstance(values, dict):
        raise PhotoError(f"{name}: wanted an object of photos' names, got {type(values).__name__}")
    return _of_mapping(values, name)


def _of_mapping(values: Mapping[str, Any], name: str) -> dict[str, list[Face]]:
    return {file: _faces(one, f"{name}: {printable(file)}") for file, one in values.items()}


def _faces(one: Any, where: str) -> list[Face]:
    """Of one photo: a face, or a list of them."""
    return [_face(face, where) for face in (one if _is_list_of_faces(one) else [one])]


def _is_list_of_faces(one: Any) -> bool:
    """Objects, or lists of points, in a list: one level more than a face."""
    lists = (list, tuple, np.ndarray)
    if not isinstance(one, lists) or not len(one):
        return False
    first = one[0]
    return isinstance(first, dict) or (isinstance(first, lists) and len(first) > 0 and isinstance(first[0], lists))


def _face(one: Any, where: str) -> Face:
    given = one if isinstance(one, dict) else {"points": one}
    try:
        points = np.asarray(given["points"], np.float64)
        box = given.get("box")
        if box is None:
            box = [*points.min(0), *points.max(0)]
        return Face.of(box, given.get("score", 1.0), points)
    except (KeyError, IndexError, TypeError, ValueError, PhotoError) as error:
        raise PhotoError(f"{where}: wanted five points [[x, y], ..], of finite numbers ({error})") from error


def _of_csv(text: str, name: str) -> dict[str, list[Face]]:
    reader = csv.DictReader(io.StringIO(text))
    wanted = ["file", *_POINTS]
    if missing := [column for column in wanted if column not in (reader.fieldnames or [])]:
        raise PhotoError(f"{name}: wanted a header with {','.join(wanted)}; {', '.join(missing)} is not there")
    faces: dict[str, list[Face]] = {}
    for row in reader:
        where = f"{name}, line {reader.line_num}"
        try:
            points = np.array([float(row[column]) for column in _POINTS]).reshape(5, 2)
            more = {"box": [float(row[column]) for column in _BOX]} if all(row.get(c) for c in _BOX) else {}
            score = float(row["score"]) if row.get("score") else 1.0
        except (TypeError, ValueError) as error:
            raise PhotoError(f"{where}: wanted numbers ({error})") from error
        faces.setdefault(row["file"], []).append(_face({"points": points, "score": score, **more}, where))
    return faces
