"""The report and the command of align: each photo's outcome to look at, an earlier run's files, words, exit codes."""

from __future__ import annotations

import html.parser
import json
import stat

import numpy as np
import pytest
import torch
from align_cases import colour_model, exact, grid, of, photos, pixels, run, save, scene
from PIL import Image
from typer.testing import CliRunner

import veilkern as vk
from veilkern.aligning.pictures import TILE, Album, tiles
from veilkern.aligning.report import groups
from veilkern.aligning.result import LEFT_OUT, THERE, WRITTEN
from veilkern.cli import app
from veilkern.errors import ModelError, OutputError, PhotoError


class Page(html.parser.HTMLParser):
    """Titles, pictures and text of a page; every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.pictures = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.pictures.append(dict(attributes))
        elif tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_report_shows_every_photo_what_wants_a_look_first(photos, tmp_path):
    save(photos / "ann/nobody & co.png", grid(200, 300))
    save(photos / "ann/two.png", scene(("bob", (90, 150), 0.7), ("ann", (280, 150), 1.0)))
    save(photos / "bob/really ann.png", scene(("ann", (200, 150), 1.0)))
    save(photos / "loose.png", grid(20, 20))
    done = run(photos, tmp_path / "out", model=colour_model(), report=tmp_path / "pages")
    assert done.report == tmp_path / "pages/report.html"
    files = sorted((tmp_path / "pages").iterdir())
    assert [f.name for f in files] == ["contact_sheet.png", "report.html", "report.json"]
    assert all(stat.S_IMODE(f.stat().st_mode) == 0o600 for f in files)
    text = done.report.read_text()
    page = Page(text)
    words = " ".join(page.text)
    places = [words.index(w) for w in ("Not looked at", "Left out", "Doubtful", "One of several faces", "One face")]
    assert places == sorted(places) and len(page.pictures) == 9
    named = {title: [photo.name for photo in group] for title, group in groups(done)}
    assert named["Doubtful"] == ["bob/really ann.png"] and named["One of several faces"] == ["ann/two.png"]
    assert len(named["One face"]) == 6 and "there already" not in words
    assert all(p["src"].startswith("data:image/jpeg;base64,") and p["alt"] for p in page.pictures)
    assert "nobody &amp; co" in text and "no face found" in words and "loose.png" in words and "cosine" in words
    report = json.loads((tmp_path / "pages/report.json").read_text())
    assert set(report["photos"]) == {photo.name for photo in done.photos} and report["written"] == 8
    assert report["photos"]["ann/two.png"]["chosen"] == of(done, "ann/two.png").chosen
    assert report["photos"]["ann/nobody & co.png"]["reason"] == "no face found"
    assert len(report["photos"]["ann/two.png"]["faces"][0]["points"]) == 5
    assert (
        report["size"] == 112
        and report["faces"] == "exact"
        and report["model"]["name"] == "Colour"
        and len(report["left_out"]) == 2
    )


def test_the_contact_sheet_has_photo_and_crop_of_each(photos, tmp_path):
    run(photos, tmp_path / "out")
    sheet = pixels(tmp_path / "out.report/contact_sheet.png")
    assert sheet.shape == (18 + 2 * (TILE + 14), 2 * (3 * TILE + 8) + 8, 3)
    crop = pixels(tmp_path / "out/ann/0.png")
    left = 8 + 3 * TILE + 8
    shown = Image.fromarray(sheet[32 : 32 + TILE, left : left + TILE])
    assert (
        np.abs(
            np.array(shown.resize((28, 28), 4)).astype(int) - np.array(Image.fromarray(crop).resize((28, 28), 4))
        ).mean()
        < 6
    )


def test_a_picture_shows_boxes_and_points_and_there_are_not_more_than_fit():
    rgb = scene(("ann", (100, 150), 1.0), ("bob", (300, 150), 0.8))
    from veilkern.aligning.detectors import find_faces

    faces = find_faces(exact, rgb)
    album = Album(most=1)
    photo, crop = tiles(album.picture(rgb, faces, 0, torch.full((3, 40, 40), 200, dtype=torch.uint8)))
    assert photo.shape == crop.shape == (3, TILE, TILE) and (crop.float() - 200).abs().max() < 4
    assert (photo[:, :100, 0].int() - 100).abs().max() < 25  # the background, from the first column on
    assert (photo[:, 112:].int() - 128).abs().max() < 10  # and nothing below the photo
    green = (photo[1].int() - photo[0].int() > 60) & (photo[1].int() - photo[2].int() > 20)
    by = TILE / 400
    x = faces[0].points[:, 0] * by
    columns = green.any(0).nonzero().flatten()
    assert columns.min() >= x.min() - 12 and columns.max() > x.max() - 4
    assert album.picture(rgb, faces, 0, torch.zeros((3, 8, 8), dtype=torch.uint8)) == b""
    assert album.picture(rgb, [], None, None) != b"" and album.picture(rgb, [], None, None) == b""


def test_a_report_replaces_that_of_an_earlier_run_and_nothing_else(photos, tmp_path):
    pages = tmp_path / "out.report"
    pages.mkdir()
    (pages / "report.json").write_text('{"kind": "another"}')
    with pytest.raises(OutputError, match=r"holds report\.json, and not of align"):
        run(photos, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert run(photos, tmp_path / "out", overwrite=True).written == 6
    again = run(photos, tmp_path / "out")
    assert again.skipped == 6 and again.report.read_text().count("there already<") == 6  # its own
    (pages / "report.json").unlink()
    with pytest.raises(OutputError, match=r"holds report\.html, contact_sheet\.png"):
        run(photos, tmp_path / "out")


# The command


def command(*words):
    done = CliRunner().invoke(app, ["align", *map(str, words)], env={"COLUMNS": "200"})
    return done.exit_code, done.output, done.exception


def test_the_command(photos, tmp_path, request):
    detector = f"{request.path.parent / 'align_cases.py'}:make"
    save(photos / "ann/two.png", scene(("bob", (90, 150), 0.7), ("ann", (280, 150), 1.0)))
    code, text, _ = command(photos, "--out", tmp_path / "out", "--detector", detector)
    assert code == 0 and "7 faces written in" in text and "1 of them from photos of several faces" in text
    assert f"report: {tmp_path / 'out.report/report.html'}" in text
    (photos / "bob/bad.png").write_text("no")
    code, text, _ = command(photos, "--out", tmp_path / "out", "--detector", detector, "--report", tmp_path / "pages")
    assert code == 1 and "7 there already, skipped" in text and "1 left out:" in text and "bad.png: not a PNG" in text
    model = (f"{request.path.parent / 'align_cases.py'}:colour_model", "--least-cosine", "0.99", "--least-eyes", "30")
    code, text, _ = command(photos, "--out", tmp_path / "b", "--detector", detector, "--size", 64, "--model", *model)
    assert code == 1 and "too small" in text and pixels(tmp_path / "b/ann/0.png").shape == (64, 64, 3)


@pytest.mark.parametrize(
    "words,told",
    [
        (("--input-size", "96"), "--input-size is for --model"),
        (("--input-bgr",), "--input-bgr is for --model"),
        (("--least-cosine", "0.5"), "--least-cosine is for --model"),
        (("--landmarks", "x.json", "--detector", "mtcnn"), "--detector is not for --landmarks"),
        (("--size", "5"), "16"),
    ],
)
def test_the_command_refuses_what_would_mean_nothing(photos, tmp_path, words, told):
    code, text, _ = command(photos, "--out", tmp_path / "out", *words)
    assert code == 2 and told in text and not (tmp_path / "out").exists()


def test_the_command_says_what_to_install(photos, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cv2", None)
    code, _, error = command(photos, "--out", tmp_path / "out")
    assert code == 1 and isinstance(error, ModelError) and "pip install 'veilkern[align]'" in str(error)
    assert not (tmp_path / "out").exists()
