"""Pictures with faces at known places, drawn or pasted, and an exact detector for the drawn ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

import veilkern as vk
from veilkern.aligning.geometry import ARCFACE

MARK = 2  # the five points of a drawn face are squares of 2 * MARK + 1 pixels
COLOURS = {"ann": (20, 60, 200), "bob": (20, 170, 40), "eve": (150, 150, 20)}


def grid(height, width, seed=0):
    """A quiet background: grey, so that no pixel has the colour of a point."""
    noise = np.random.default_rng(seed).integers(90, 110, (height // 8 + 1, width // 8 + 1), dtype=np.uint8)
    grey = np.kron(noise, np.ones((8, 8), np.uint8))[:height, :width]
    return np.repeat(grey[..., None], 3, 2)


def placed(centre, scale, turn=0.0):
    """The five points of a face of `scale` times 112 pixels around `centre`, turned by degrees: float [5, 2]."""
    a = np.deg2rad(turn)
    matrix = scale * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    return (ARCFACE - 55.5) @ matrix.T + np.asarray(centre, float)


def draw(rgb, points, person="ann", number=0):
    """Draws a face into uint8 [H, W, 3]: a disc in the person's colour, and the points, at whole pixels: returned."""
    points = np.round(points)
    image = Image.fromarray(rgb)
    middle, reach = points.mean(0), 1.6 * np.linalg.norm(points[1] - points[0])
    ImageDraw.Draw(image).ellipse((*(middle - reach), *(middle + reach)), fill=COLOURS[person])
    rgb[:] = np.array(image)
    for k, (x, y) in enumerate(points.astype(int)):
        rgb[y - MARK : y + MARK + 1, x - MARK : x + MARK + 1] = (250 - k, 10 * number, 200)
    return points


def exact(rgb):
    """A detector: the faces that `draw` drew, by the colours of their points."""
    faces = []
    for number in range(5):
        points = []
        for k in range(5):
            y, x = np.nonzero((rgb == (250 - k, 10 * number, 200)).all(2))
            if len(x):
                points.append((x.mean(), y.mean()))
        if len(points) == 5:
            at = np.array(points)
            faces.append(((*at.min(0), *at.max(0)), 0.99, at))
    return faces


def make():
    """For --detector align_cases.py:make."""
    return exact


def points_of_crop(crop):
    """Where a crop, uint8 [size, size, 3], shows the points of a drawn face, nearest to the template's: [5, 2]."""
    size = len(crop)
    wanted = (ARCFACE + 0.5) * size / 112 - 0.5
    # The person's colours are far from the points': of every mark what it has more of red and blue than green.
    weight = np.clip(crop[..., 0].astype(float) - 170, 0, None) * (crop[..., 2] > 120)
    y, x = np.mgrid[:size, :size]
    found = []
    for cx, cy in wanted:
        near = weight * (np.hypot(x - cx, y - cy) < 10 * size / 112)
        found.append((np.sum(x * near) / near.sum(), np.sum(y * near) / near.sum()))
    return np.array(found), wanted


class Colour(nn.Module):
    """A network that knows drawn people by their colour."""

    def forward(self, x):
        """The mean colour of the middle, without its grey part."""
        mean = x[:, :, 30:80, 30:80].mean((2, 3))
        return mean - mean.mean(1, keepdim=True)


def colour_model(size=112):
    return vk.FaceModel(Colour(), size=size)


def save(path, rgb, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path, **more)


def pasted(faces, seed, size=(600, 800), scales=(0.8, 2.5), turns=(-15, 15)):
    """Aligned faces, uint8 [112, 112, 3] each, put into one picture beside each other: at random scales, turned, over a
    background of blurred noise. Returns the picture and the points of each, [5, 2]; the first face is the largest."""
    import cv2

    random = np.random.default_rng(seed)
    height, width = size
    coarse = random.integers(0, 256, (height // 40 + 2, width // 40 + 2, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    most = min(scales[1], width / len(faces) / 160, height / 160)
    largest = random.uniform(min(scales[0], most), most)
    points = []
    for number, face in enumerate(faces):
        scale = largest if number == 0 else largest * random.uniform(0.5, 0.75)
        room = 112 * scale * 0.7
        left, right = width * number / len(faces), width * (number + 1) / len(faces)
        centre = np.array(
            [
                random.uniform(min(left + room, (left + right) / 2), max(right - room, (left + right) / 2)),
                random.uniform(room, height - room),
            ]
        )
        a = np.deg2rad(random.uniform(*turns))
        turn = scale * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
        matrix = np.hstack([turn, (centre - turn @ [55.5, 55.5])[:, None]])
        source = cv2.GaussianBlur(face, (0, 0), 0.4 / scale) if scale < 1 else face
        over = cv2.warpAffine(source, matrix, (width, height), flags=cv2.INTER_CUBIC)
        share = cv2.warpAffine(np.ones((112, 112), np.float32), matrix, (width, height))[..., None]
        picture = (picture * (1 - share) + over * share).round().clip(0, 255).astype(np.uint8)
        points.append(ARCFACE @ turn.T + matrix[:, 2])
    return picture, points


def tensor(rgb):
    return torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)


def scene(*faces, size=(300, 400), seed=0):
    """A picture with drawn faces: (person, centre, scale[, turn]) each."""
    rgb = grid(*size, seed)
    for number, (person, centre, scale, *turn) in enumerate(faces):
        draw(rgb, placed(centre, scale, *turn), person, number)
    return rgb


def run(photos, out, **more):
    return vk.align(photos, out, **({"detector": exact, "progress": False} | more))


def causes(outcome, root):
    """Of each file that was left out, why."""
    return {str(p.file).removeprefix(f"{root}/"): p.cause for p in outcome.problems}


def of(outcome, name):
    return next(photo for photo in outcome.photos if photo.name == name)


def pixels(path):
    return np.array(Image.open(path))


def person_of(crop):
    """Whose colour the cheeks of a crop have."""
    inner = crop[60, 30].astype(int)
    return min(COLOURS, key=lambda name: np.abs(inner - COLOURS[name]).sum())


@pytest.fixture
def photos(tmp_path):
    """Two persons, three photos each: one face in each."""
    root = tmp_path / "photos"
    for person in ("ann", "bob"):
        for i, (centre, scale, turn) in enumerate(
            (((200, 150), 1.0, 0), ((150, 140), 1.6, -20), ((260, 160), 0.7, 35))
        ):
            save(root / person / f"{i}.png", scene((person, centre, scale, turn), seed=i))
    return root
