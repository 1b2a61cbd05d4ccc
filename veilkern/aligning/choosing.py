"""Which of the faces in a photo is the person's: the largest, or the one that a network finds most like hers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from veilkern.aligning.detectors import Face
from veilkern.networks.face_model import FaceModel

SAME_SIZE = 0.9  # of two faces, the smaller one is so much of the larger one, or more: neither is the largest
LEAST_EYES = 20.0  # pixels; the template of 112 has 35
# Cosines to the mean of the person's other photos, of 12 people of Labeled Faces in the Wild with ten photos each, by
# two small public networks: own photos at least 0.37 (99 in 100 above 0.54), other people's at most 0.36 (99 in 100
# below 0.27).
LEAST_COSINE = 0.35


@dataclass(frozen=True)
class Choice:
    """face: which, or None. reason: why none, or ""."""

    face: int | None
    reason: str = ""


def candidates(faces: Sequence[Face], least_eyes: float) -> tuple[list[int], str]:
    """The faces that count, the largest first; and why, if there are none."""
    if not faces:
        return [], "no face found"
    real = [i for i, face in enumerate(faces) if face.is_one]
    if not real:
        return [], "no face found: the points of what was found do not lie as a face's"
    large = sorted((i for i in real if faces[i].eyes >= least_eyes), key=lambda i: -faces[i].eyes)
    if not large:
        best = max(faces[i].eyes for i in real)
        which = "the face is" if len(real) == 1 else f"all {len(real)} faces are"
        return [], f"{which} too small: {best:.0f} pixels between the eyes, wanted {least_eyes:g}"
    return large, ""


def largest(faces: Sequence[Face], large: Sequence[int]) -> Choice:
    """The largest of these, unless another is of the same size."""
    if len(large) > 1:
        share = faces[large[1]].eyes / faces[large[0]].eyes
        if share >= SAME_SIZE:
            sizes = " and ".join(f"{faces[i].eyes:.0f}" for i in large[:2])
            return Choice(
                None, f"two faces of the same size ({sizes} pixels between the eyes); --model could tell whose"
            )
    return Choice(large[0])


class Judge:
    """What a network says of one person's faces: their features against the mean of the clear photos, those in which
    there is no doubt whose face it is since there is one only."""

    def __init__(self, model: FaceModel, least_cosine: float):
        self.model, self.least_cosine = model, least_cosine
        self._clear: dict[str, torch.Tensor] = {}

    def features(self, crops: torch.Tensor) -> torch.Tensor:
        """Of crops uint8 [n, 3, h, w] of the network's input size, float [n, d]."""
        return self.model.features(crops)

    def add_clear(self, name: str, feature: torch.Tensor) -> None:
        """A photo with one face: its feature [d]."""
        self._clear[name] = feature

    def knows(self, name: str) -> bool:
        """Whether a photo of this name is among the clear ones."""
        return name in self._clear

    def mean(self, without: str = "") -> torch.Tensor | None:
        """The mean feature [d], normalised, of the clear photos but one; None where there are none."""
        rest = [feature for name, feature in self._clear.items() if name != without]
        return F.normalize(torch.stack(rest).sum(0), dim=0) if rest else None

    def cosine(self, name: str) -> float | None:
        """Of a clear photo's face to the mean of the others; None where there are no others."""
        mean = self.mean(without=name)
        return None if mean is None else float(self._clear[name] @ mean)

    def nearest(self, features: torch.Tensor) -> tuple[int, float] | None:
        """Which of some faces [n, d] is nearest to the mean, and its cosine; None where there is no clear photo."""
        mean = self.mean()
        if mean is None:
            return None
        cosines = features @ mean
        return int(cosines.argmax()), float(cosines.max())
