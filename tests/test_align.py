"""A folder of ordinary photos through vk.align and the command: what is written, what is left out, and what is said."""

from __future__ import annotations

import html.parser
import json
import stat

import numpy as np
import pytest
import torch
from align_cases import (
    causes,
    colour_model,
    exact,
    grid,
    of,
    person_of,
    photos,
    pixels,
    points_of_crop,
    run,
    save,
    scene,
)
from PIL import Image
from typer.testing import CliRunner

import veilkern as vk
from veilkern.aligning.pictures import TILE, Album, tiles
from veilkern.aligning.report import groups
from veilkern.aligning.result import LEFT_OUT, THERE, WRITTEN
from veilkern.cli import app
from veilkern.errors import ModelError, OutputError, PhotoError


@pytest.mark.parametrize("size", [112, 200])
def test_each_face_lies_on_the_template(photos, tmp_path, size):
    done = run(photos, tmp_path / "out", size=size)
    assert (done.written, done.skipped, done.problems) == (6, 0, [])
    assert repr(done) == "Alignment(6 written, 0 done already, 0 problems, 0 notices)"
    for photo in done.photos:
        crop = pixels(tmp_path / "out" / photo.output)
        assert crop.shape == (size, size, 3) and photo.output == photo.name and photo.state == WRITTEN
        found, wanted = points_of_crop(crop)
        # Points are drawn at whole pixels of the photo, so they miss the template by up to one of them.
        assert np.abs(found - wanted).max() < 1.3 * size / 112 * 112 / (112 * 0.7)
        assert person_of(pixels(tmp_path / "out" / photo.output)[:: size // 112, :: size // 112]) == photo.person
    people = vk.read_people(tmp_path / "out", size=size)
    assert people.names == ["ann", "bob"] and len(people.images) == 6 and people.problems == []


def test_exif_turns_the_photo_and_the_points_are_those_of_the_upright_one(tmp_path):
    rgb = scene(("ann", (130, 200), 1.0))
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned: stored, the upright photo's columns are rows
    save(tmp_path / "photos/ann/plain.png", rgb)
    save(tmp_path / "photos/ann/turned.png", np.rot90(rgb).copy(), exif=exif)
    done = run(tmp_path / "photos", tmp_path / "out")
    assert done.problems == []
    np.testing.assert_array_equal(pixels(tmp_path / "out/ann/plain.png"), pixels(tmp_path / "out/ann/turned.png"))
    turned = of(done, "ann/turned.png")
    assert (turned.height, turned.width) == (300, 400) and "EXIF" in turned.remarks[0] and done.notices == []
    np.testing.assert_array_equal(turned.faces[0].points, of(done, "ann/plain.png").faces[0].points)


def test_bad_photos_are_listed_and_the_others_go_on(photos, tmp_path):
    ann = photos / "ann"
    good = scene(("ann", (200, 150), 1.0))
    save(ann / "nobody.png", grid(200, 300))
    save(ann / "tiny.png", scene(("ann", (200, 150), 0.5)))
    save(ann / "twins.png", scene(("ann", (100, 150), 1.0), ("bob", (300, 150), 0.97)))
    (ann / "text.jpg").write_text("not a photo at all")
    (ann / "cut.png").write_bytes((ann / "0.png").read_bytes()[:2000])
    (ann / "empty.webp").write_bytes(b"")
    Image.fromarray(good).convert("L").save(ann / "grey.png")
    Image.fromarray(good).convert("RGBA").save(ann / "alpha.png")
    Image.fromarray(good).convert("P").save(ann / "palette.png")
    Image.fromarray(np.zeros((50, 50), np.uint16)).save(ann / "deep.png")
    bomb = bytearray((ann / "0.png").read_bytes())
    bomb[16:24] = (30000).to_bytes(4, "big") * 2
    (ann / "bomb.png").write_bytes(bomb)
    (ann / "notes.txt").write_text("..")
    (photos / "nobody here").mkdir()
    save(photos / "loose.png", good)
    done = run(photos, tmp_path / "out")
    found = causes(done, photos)
    assert done.written == 6
    words = {
        "ann/nobody.png": "no face found",
        "ann/tiny.png": "too small: 18 pixels between the eyes, wanted 20",
        "ann/twins.png": "two faces of the same size",
        "ann/text.jpg": "not a PNG, JPEG or WebP photo",
        "ann/cut.png": "corrupt",
        "ann/empty.webp": "the file is empty",
        "ann/grey.png": "greyscale photo, wanted 8-bit RGB",
        "ann/alpha.png": "RGBA photo",
        "ann/palette.png": "palette photo",
        "ann/deep.png": "16-bit",
        "ann/bomb.png": "",
        "nobody here": "no photo in this folder",
        "loose.png": "a photo outside of any person's folder",
    }
    assert set(found) == set(words) and all(text in found[name] for name, text in words.items()), found
    assert [n.cause.partition(":")[0] for n in done.notices] == ["not read"]
    left = [photo for photo in done.photos if photo.state == LEFT_OUT]
    assert {photo.name for photo in left} == {name for name in words if name.startswith("ann/")}
    assert all(photo.reason and photo.reason == found[photo.name] and photo.chosen is None for photo in left)
    assert len(of(done, "ann/twins.png").faces) == 2
    assert not (tmp_path / "out/ann/twins.png").exists()
    more = run(photos, tmp_path / "out", convert=True)
    assert more.written == 1 and more.skipped == 6  # those without their colours have no points that `exact` knows
    assert "converted to 8-bit RGB" in " ".join(of(more, "ann/alpha.png").remarks)


def test_the_largest_of_several_is_taken(tmp_path):
    save(
        tmp_path / "photos/ann/0.png", scene(("bob", (90, 150), 0.7), ("ann", (280, 150), 1.0), ("eve", (180, 70), 0.6))
    )
    done = run(tmp_path / "photos", tmp_path / "out")
    photo = of(done, "ann/0.png")
    assert photo.several and len(photo.faces) == 3
    assert person_of(pixels(tmp_path / "out/ann/0.png")) == "ann"
    assert max(photo.faces, key=lambda f: f.eyes) is photo.faces[photo.chosen]


@pytest.mark.parametrize("side", [112, 64])
def test_with_a_model_the_face_like_the_clear_photos_is_taken(photos, tmp_path, side):
    ann = photos / "ann"
    save(ann / "friend is larger.png", scene(("bob", (90, 150), 1.0), ("ann", (280, 150), 0.7)))
    save(ann / "twins.png", scene(("eve", (100, 150), 1.0), ("ann", (300, 150), 1.0)))
    save(ann / "strangers.png", scene(("eve", (100, 150), 1.0), ("bob", (300, 150), 0.8)))
    save(ann / "stranger and a tiny ann.png", scene(("eve", (100, 150), 1.0), ("ann", (300, 150), 0.4)))
    save(ann / "really bob.png", scene(("bob", (200, 150), 1.0)))
    done = run(photos, tmp_path / "out", model=colour_model(side))
    found = causes(done, photos)
    assert set(found) == {"ann/strangers.png", "ann/stranger and a tiny ann.png"}
    assert (
        "none of its 2 faces that are large enough is like those in the person's clear photos (cos"
        in found["ann/strangers.png"]
    )
    assert "its only face that is large enough is unlike those" in found["ann/stranger and a tiny ann.png"]
    for name in ("friend is larger", "twins"):
        photo = of(done, f"ann/{name}.png")
        assert person_of(pixels(tmp_path / "out" / photo.output)) == "ann" and photo.cosine > 0.9 and photo.several
    assert [str(n).rpartition("/")[2].partition(":")[0] for n in done.notices] == ["really bob.png"]
    assert of(done, "ann/really bob.png").doubtful and of(done, "ann/really bob.png").state == WRITTEN
    assert of(done, "ann/0.png").cosine > 0.35 and not of(done, "ann/0.png").doubtful
    # Again: crops that are there count as hers, and what is doubtful is told again.
    again = run(photos, tmp_path / "out", model=colour_model(side))
    assert again.written == 0 and again.skipped == 9 and len(again.problems) == 2
    assert of(again, "ann/really bob.png").doubtful


def test_a_model_without_any_clear_photo(tmp_path):
    save(tmp_path / "photos/ann/0.png", scene(("bob", (90, 150), 1.0), ("ann", (280, 150), 0.7)))
    save(tmp_path / "photos/ann/1.png", scene(("bob", (90, 150), 1.0), ("ann", (280, 150), 1.0)))
    done = run(tmp_path / "photos", tmp_path / "out", model=colour_model())
    assert person_of(pixels(tmp_path / "out/ann/0.png")) == "bob"  # the largest
    [why] = causes(done, tmp_path / "photos").values()
    assert why.endswith("between the eyes), and no clear photo of the person to tell by")


def test_the_limits_are_the_callers(photos, tmp_path):
    done = run(photos, tmp_path / "out", least_eyes=30)
    assert {p.name for p in done.photos if p.state == LEFT_OUT} == {"ann/2.png", "bob/2.png"}
    save(photos / "ann" / "bob.png", scene(("bob", (200, 150), 1.0)))
    assert run(photos, tmp_path / "b", model=colour_model(), least_cosine=-1.0).notices == []


def test_what_is_done_is_skipped_and_what_else_is_there_kept(photos, tmp_path):
    out = tmp_path / "out"
    first = run(photos, out)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*.png")}
    save(photos / "ann" / "new.png", scene(("ann", (200, 150), 1.0)))

    def asked(rgb):
        assert rgb.shape[:2] == (300, 400)
        calls.append(1)
        return exact(rgb)

    calls: list[int] = []
    again = run(photos, out, detector=asked)
    assert (again.written, again.skipped, again.problems, len(calls)) == (1, 6, [], 1)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
    report = json.loads((tmp_path / "out.report/report.json").read_text())
    assert report["photos"]["ann/0.png"]["state"] == THERE  # with what the first run saw
    assert report["photos"]["ann/0.png"]["faces"] == [of(first, "ann/0.png").faces[0].as_dict()]
    # Another size, no picture at all, and a link: kept and listed.
    (out / "bob/0.png").write_text("mine")
    Image.new("RGB", (50, 50)).save(out / "bob/1.png")
    (out / "bob/2.png").unlink()
    (out / "bob/2.png").symlink_to(tmp_path / "elsewhere")
    kept = run(photos, out)
    assert set(causes(kept, photos)) == {"bob/0.png", "bob/1.png", "bob/2.png"}
    assert all("there already, kept" in why and "--overwrite" in why for why in causes(kept, photos).values())
    assert (out / "bob/0.png").read_text() == "mine" and not (tmp_path / "elsewhere").exists()
    over = run(photos, out, overwrite=True)
    assert over.written == 6 and "a link" in causes(over, photos)["bob/2.png"]
    assert (out / "bob/0.png").read_bytes() == before[out / "bob/0.png"][0]
    other = run(photos, out, size=64)
    assert other.written == 0 and len(other.problems) == 7


def test_a_crop_of_before_that_would_not_be_written_now_is_told(photos, tmp_path):
    run(photos, tmp_path / "out")
    done = run(photos, tmp_path / "out", overwrite=True, least_eyes=30)
    assert done.written == 4 and len(done.problems) == 2
    told = {notice.file: notice.cause for notice in done.notices}
    assert set(told) == {str(photos / "ann/2.png"), str(photos / "bob/2.png")}
    assert told[str(photos / "ann/2.png")].endswith(f"is still in its place: {tmp_path / 'out/ann/2.png'}")
    assert (tmp_path / "out/ann/2.png").exists()


def test_photos_newer_than_their_crops_are_told(photos, tmp_path):
    run(photos, tmp_path / "out")
    save(photos / "ann/0.png", scene(("ann", (150, 150), 1.0)))
    later = (tmp_path / "out/ann/0.png").stat().st_mtime + 10
    import os

    os.utime(photos / "ann/0.png", (later, later))
    [notice] = run(photos, tmp_path / "out").notices
    assert notice.file == str(photos / "ann") and "1 photos are newer than their crops" in notice.cause


def test_names_that_would_be_one_are_told_and_none_of_them_is_written(tmp_path):
    for name in ("A.png", "a.png", "b.jpg", "b.png", "caf\u00e9.png", "cafe\u0301.png"):
        save(tmp_path / "photos/日本 Zoë" / name, scene(("ann", (200, 150), 1.0)))
    done = run(tmp_path / "photos", tmp_path / "out")
    told = {p.file.rpartition("/")[2] for p in done.problems if "would be one file with" in p.cause}
    assert told == {"A.png", "a.png", "caf\u00e9.png", "cafe\u0301.png"}
    written = sorted(p.name for p in (tmp_path / "out/日本 Zoë").iterdir())
    assert written == ["b.png"] or written == ["b.jpg.png", "b.png"]


def test_a_crop_that_is_partly_outside_is_told(tmp_path):
    save(tmp_path / "photos/ann/0.png", scene(("ann", (30, 50), 1.0)))
    save(tmp_path / "photos/ann/1.png", scene(("ann", (200, 150), 1.0)))
    done = run(tmp_path / "photos", tmp_path / "out")
    [notice] = done.notices
    assert notice.file.endswith("0.png") and "of the crop lie outside of the photo and are black" in notice.cause
    black = (pixels(tmp_path / "out/ann/0.png") == 0).all(2).mean()
    assert of(done, "ann/0.png").outside == pytest.approx(black, abs=0.03) and of(done, "ann/1.png").outside == 0


def test_ones_own_landmarks(photos, tmp_path):
    plain = run(photos, tmp_path / "plain")
    points = {p.name: p.faces[0].points.tolist() for p in plain.photos}
    del points["bob/2.png"]
    points["bob/1.png"] = np.array(points["bob/1.png"])[[1, 0, 2, 4, 3]].tolist()
    points["eve/7.png"] = points["ann/0.png"]
    (tmp_path / "points.json").write_text(json.dumps(points))
    done = run(photos, tmp_path / "out", detector=None, landmarks=tmp_path / "points.json")
    assert set(causes(done, photos)) == {"bob/1.png", "bob/2.png"} and done.written == 4
    assert "no landmarks of it" in of(done, "bob/2.png").reason and "no face's" in of(done, "bob/1.png").reason
    [notice] = done.notices
    assert notice.file.endswith("eve/7.png") and "no such photo" in notice.cause
    for name in ("ann/0.png", "ann/2.png", "bob/0.png"):
        np.testing.assert_array_equal(pixels(tmp_path / "out" / name), pixels(tmp_path / "plain" / name))
    with pytest.raises(ValueError, match="a detector or landmarks, not both"):
        run(photos, tmp_path / "out", landmarks=points)


def test_folders_that_are_none_or_lie_in_each_other(photos, tmp_path):
    with pytest.raises(PhotoError, match="not a folder"):
        run(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(PhotoError, match="holds photos itself and no person's folder"):
        run(photos / "ann", tmp_path / "out")
    for out in (photos, photos / "faces"):
        with pytest.raises(OutputError, match="lies in the input folder"):
            run(photos, out)
    with pytest.raises(OutputError, match="lies in the input folder"):
        run(photos, tmp_path / "out", report=photos / "report")
    with pytest.raises(OutputError, match="lies in the input folder"):
        run(photos, tmp_path / "out", report=tmp_path / "out" / "report")
    assert sorted(p.name for p in photos.iterdir()) == ["ann", "bob"]
    (tmp_path / "nobody").mkdir()
    with pytest.raises(PhotoError, match="no person's folder in it"):
        run(tmp_path / "nobody", tmp_path / "out2")


@pytest.mark.parametrize(
    "more,error,words",
    [
        ({"size": 15}, ValueError, "size must be a whole number of 16 to 4096 pixels, got 15"),
        ({"size": 112.0}, ValueError, "size must be a whole number"),
        ({"size": True}, ValueError, "size must be a whole number"),
        ({"least_eyes": -1}, ValueError, "least_eyes must be 0 or more, got -1"),
        ({"least_eyes": float("nan")}, ValueError, "least_eyes must be 0 or more"),
        ({"least_cosine": 1.5}, ValueError, "least_cosine must be -1 to 1, got 1.5"),
        ({"model": torch.nn.Identity()}, TypeError, "model must be a FaceModel, got Identity"),
        ({"model": vk.FaceModel(torch.nn.Identity(), size=(112, 96))}, ValueError, "input must be square"),
        ({"detector": 3}, TypeError, "must be a function of a photo"),
        ({"detector": "nobody"}, ModelError, "no detector"),
        ({"detector": "nobody", "size": 4096}, ModelError, "no detector"),  # the size may be
        ({"detector": "nobody", "size": 4097}, ValueError, "got 4097"),
        ({"detector": lambda rgb: [3]}, ValueError, "must give \\(box, score, points\\)"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",  # an address differs from run to run
)
def test_wrong_arguments(photos, tmp_path, more, error, words):
    with pytest.raises(error, match=words):
        run(photos, tmp_path / "out", **more)
    assert not list((tmp_path / "out").rglob("*.png"))


def test_a_detector_that_fails_on_one_photo(photos, tmp_path):
    def bad(rgb):
        if rgb[0, 0, 0] == pixels(photos / "ann/1.png")[0, 0, 0]:
            raise RuntimeError("too strange")
        return exact(rgb)

    done = run(photos, tmp_path / "out", detector=bad)
    assert set(causes(done, photos)) == {"ann/1.png", "bob/1.png"} and done.written == 4
    assert "the detector failed: RuntimeError: too strange" in of(done, "ann/1.png").reason


def test_progress_counts_every_photo_once(photos, tmp_path):
    save(photos / "ann/two.png", scene(("bob", (90, 150), 1.0), ("ann", (280, 150), 0.7)))
    (photos / "ann/bad.png").write_text("no")
    seen: list[tuple[int, int]] = []
    run(photos, tmp_path / "out", model=colour_model(), progress=lambda done, all_: seen.append((done, all_)))
    assert seen == [(i, 8) for i in range(1, 9)]
