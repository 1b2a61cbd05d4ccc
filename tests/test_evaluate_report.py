"""The verdict and the report: what is said of the figures, and what stays unsaid."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import io
import json
import math
import re

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import veilkern as vk
from veilkern.cli import app
from veilkern.evaluate import evaluate, run, verdict
from veilkern.evaluate.report import FILES, format_number, worst_first, write_report
from veilkern.evaluate.verdict import LEVELS, QUESTIONS, THRESHOLDS, person_level
from veilkern.evaluate.views import contact_sheet, views, worst_photos

cli_evaluate, cli_info = (importlib.import_module(f"veilkern.cli.{name}") for name in ("evaluate", "info"))


@pytest.fixture(scope="module")
def evaluation(sample_model, people, small_bank):
    return evaluate(sample_model, people, small_bank, gallery=people.photos(0)[:0])


def test_report_files(evaluation, people, small_bank, tmp_path):
    path = write_report(tmp_path / "report", evaluation, people, small_bank, title="<b>test</b>")
    html = path.read_text()
    assert "&lt;b&gt;test" in html and "<b>test" not in html
    assert html.count("data:image/png;base64,") == 14 * 5 + 4 * 4 * 5 and html.count("<svg") == 4
    assert html.count('<svg role="img" aria-label="') == 4  # for those who cannot see it
    assert html.count("<img") == html.count(' alt="') and not re.search(r'src="(?!data:)|url\((?!#)|@import', html)
    assert 'src="http' not in html and "href=" not in html.replace('xlink:href="#', "").replace('href="#', "")
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["overall"]["unseen"]["photos"] == 8 and "photo_ids" not in json.dumps(report)
    from PIL import Image

    assert Image.open(tmp_path / "report" / "contact_sheet.png").width == 4 * (4 * 112 + 8) + 8


GOOD = {
    "rank1": 0.99, "clean_rank1": 1.0, "ssim_protected": 0.012, "contour2": 0.2, "ssim_recovered": 0.99, "max_error": 2,
    "ssim_protected_worst": 0.02, "contour2_worst": 0.3, "ssim_recovered_worst": 0.98, "photos": 30,
}  # fmt: skip


def judged(*, gallery=200, exact=True, **changes):
    """The levels of recognised, hidden and recoverable where all is good but for `changes`."""
    row = GOOD | {k: v for k, v in changes.items() if not k.startswith("photo_")}
    photo = {"contour2": [0.1, -0.3], "ssim_protected": [0.01, 0.02], "ssim_recovered": [0.99, 0.98]}
    photo |= {
        k.removeprefix("photo_"): [v, *photo[k.removeprefix("photo_")]] for k, v in changes.items() if "photo_" in k
    }
    people = [{"name": "p", "set": "unseen", **row}, {"name": "q", "set": "unseen", **GOOD}]
    photos = {"unseen": photo | {"file": [f"p/{i}" for i in range(max(map(len, photo.values())))]}}
    for values in photos["unseen"].values():
        values += values[-1:] * (len(photos["unseen"]["file"]) - len(values))
    overall = {"unseen": row | {"people": 2}}
    found = run.Evaluation(people, overall, photos, exact, {"name": "n"}, {"error_bound": 2}, gallery)
    return [v.level for v in found.verdicts()], found


@pytest.mark.parametrize(
    "changes,levels",
    [
        ({}, "good good good"),
        ({"rank1": 0.92}, "watch good good"),
        ({"rank1": 0.85}, "bad good good"),
        ({"rank1": 0.75, "clean_rank1": 0.76}, "watch good good"),  # a weak network, not a weak veil
        ({"rank1": math.nan}, "watch good good"),
        ({"gallery": 50}, "watch good good"),
        ({"ssim_protected": 0.03}, "good watch good"),
        ({"ssim_protected": 0.06}, "good bad good"),
        ({"contour2": 0.30}, "good watch good"),
        ({"contour2": 0.36}, "good bad good"),
        ({"photo_contour2": -0.6}, "good watch good"),
        ({"photo_contour2": -0.7}, "good bad good"),
        ({"photo_ssim_protected": 0.2}, "good bad good"),
        ({"max_error": 3}, "good good bad"),
        ({"ssim_recovered": 0.97}, "good good watch"),
        ({"ssim_recovered": 0.94}, "good good bad"),
        ({"photo_ssim_recovered": 0.95}, "good good watch"),
        ({"exact": False}, "good good bad"),
    ],
)
def test_verdict(changes, levels):
    found, evaluation = judged(**changes)
    assert found == levels.split()
    for one in evaluation.verdicts():
        assert one.answer == QUESTIONS[one.question][1][one.level]
        assert one.level == max((c.level for c in one.checks), key=LEVELS.index)


def test_the_worst_person_decides_and_is_named():
    _, evaluation = judged(photo_contour2=-0.7)
    evaluation.persons[0]["contour2"] = 0.6
    evaluation.persons[1]["rank1"] = 0.5
    recognised, hidden, _ = evaluation.verdicts()
    assert (recognised.level, hidden.level) == ("bad", "bad")
    named = {c.label: (c.where, c.value) for c in [*recognised.checks, *hidden.checks]}
    assert named["MSR rank-1 lost against clean photos, worst person"] == ("q, unseen", 0.5)
    assert named["Residual |contour|, worst person"] == ("p, unseen", 0.6)
    assert named["Residual |contour|, worst photo"] == ("p/0", 0.7)
    assert person_level(evaluation.persons[0], "contour2") == "bad" and person_level(GOOD, "psnr_protected") is None


def test_every_threshold_is_measured_and_in_order():
    assert {t.figure for t in THRESHOLDS} == set(verdict._FIGURES) and {t.question for t in THRESHOLDS} == set(
        QUESTIONS
    )
    for t in THRESHOLDS:
        assert t.watch is None or (t.watch <= t.good if t.more_is_better else t.watch >= t.good)
        assert t.level(math.nan) == "watch" and t.level(t.good) == "good"


def test_nothing_secret_is_in_a_report(sample_model, people, small_bank, tmp_path):
    """Not the seed, from which the key follows, nor the key, photo ids, nor what is not known to be harmless."""
    secret = {"seed": 918273645, "stray": "S3CRET"}
    key = "5ec4e7" * 10
    bank = vk.VeilBank(
        small_bank.veils, small_bank.names, 51,
        [r | {"stray": "S3CRET", "held_out": {"rank1": 1.0, "stray": "S3CRET"}} for r in small_bank.records],
        small_bank.model | secret, small_bank.config | secret, "S3CRET", key, small_bank.version,
    )  # fmt: skip
    write_report(tmp_path, evaluate(sample_model, people, bank), people, bank)
    ids = [mark for record in bank.records for mark in record["photo_ids"]]
    for name in ("report.json", "report.html"):
        text = (tmp_path / name).read_text()
        assert not any(word in text for word in ("S3CRET", key, "918273645", "photo_ids", *ids))
        assert (tmp_path / name).stat().st_mode & 0o077 == 0  # a pair of photos gives the veil away
    about = json.loads((tmp_path / "report.json").read_text())["bank"]
    assert set(about["config"]) == set(vk.CraftConfig().as_dict()) - {"seed"} and about["records"][0]["held_out"]


def test_a_report_is_never_replaced_unasked(evaluation, people, small_bank, tmp_path):
    for name in FILES:
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(vk.errors.OutputError, match=f"holds a report already.*{name}"):
            write_report(folder, evaluation, people, small_bank)
        assert [p.read_text() for p in folder.iterdir()] == ["mine"]
        refused = CliRunner().invoke(
            app, ["evaluate", "FACES", "--model", "none", "--veils", "v", "--out", str(folder)]
        )
        assert "holds a report already" in str(refused.exception)  # before anything is read
    write_report(folder, evaluation, people, small_bank, overwrite=True)
    assert {p.name for p in folder.iterdir()} == set(FILES)


def test_nobody_is_named_where_all_are_alike(evaluation):
    """One person is the worst; several of the same figure are not."""
    record = evaluation.persons[0]
    for names, worst in ((["a"], "a"), (["a", "b"], None)):
        found = run._overall([{**record, "name": name} for name in names])
        told = {m: entry["name"] for m, entry in found["worst"].items() if not math.isnan(record[m])}
        assert set(told.values()) == {worst} and set(run.MEASURES) - set(told) == {"tar_1e3", "tar_1e4"}
        assert found["worst"]["tar_1e3"]["name"] is None  # too few pairs: nobody's is a figure
    other = {**record, "name": "b", "contour2": record["contour2"] + 0.1}
    assert run._overall([{**record, "name": "a"}, other])["worst"]["contour2"]["name"] == "b"


def test_worst_photos_and_persons_come_first(evaluation):
    contours = sorted((abs(v) for p in evaluation.photos.values() for v in p["contour2"]), reverse=True)
    worst = worst_photos(evaluation, "contour2", 3)
    assert [abs(evaluation.photos[label]["contour2"][i]) for label, i in worst] == contours[:3]
    (label, i) = worst_photos(evaluation, "cosine", 1)[0]
    assert evaluation.photos[label]["cosine"][i] == min(v for p in evaluation.photos.values() for v in p["cosine"])
    order = [max(LEVELS.index(person_level(r, m) or "good") for m in r) for r in worst_first(evaluation)]
    assert order == sorted(order, reverse=True) and len(order) == len(evaluation.persons)
    one, other = (
        {**evaluation.persons[0], "name": name, "contour2": value} for name, value in (("a", 0.01), ("b", 0.02))
    )
    alike = dataclasses.replace(evaluation, persons=[one, other, {**other, "name": "c"}])
    assert [r["name"] for r in worst_first(alike)] == ["b", "c", "a"]  # of one level: the larger contour, then by name


def test_the_contact_sheet_names_kinds_and_persons(people, small_bank):
    shown = [views(people, small_bank, [0, 1]), views(people, small_bank, [6])]
    sheet = np.asarray(contact_sheet(shown))
    for block in range(4):
        left = 8 + block * (2 * 112 + 8)
        assert sheet[:18, left : left + 224].min() < 128  # the kind
        kind = ("original", "protected", "protected, blurred", "recovered")[block]
        for line, person in enumerate(shown):
            top = 18 + line * (112 + 14)
            assert (sheet[top : top + 14, left : left + 224].min() < 128) == (block == 0)  # the person, once a line
            for i, image in enumerate(person.images[kind].permute(0, 2, 3, 1).numpy()):
                np.testing.assert_array_equal(sheet[top + 14 : top + 126, left + i * 112 : left + (i + 1) * 112], image)


def test_the_printed_table_fits_80_columns(evaluation, monkeypatch):
    evaluation = copy.deepcopy(evaluation)
    evaluation.overall["unseen"]["contour2"] = 0.4
    page = Console(width=80, record=True, file=io.StringIO())
    monkeypatch.setattr(cli_evaluate, "console", page)
    cli_evaluate.print_evaluation(evaluation)
    text = page.export_text()
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    assert all(label.strip() in text for label in run.MEASURES.values()) and "of clean photos" in text
    assert "Are the faces hidden from people? bad: No" in text and "0.4 (unseen)" in " ".join(text.split())
    for row in evaluation.overall.values():
        assert format_number("cosine", row["worst"]["cosine"]["value"]) in text


def test_info_at_80_columns(monkeypatch):
    page = Console(width=80, record=True, file=io.StringIO())
    monkeypatch.setattr(cli_info, "console", page)
    cli_info.info()
    text = " ".join(page.export_text().split())
    assert "…" not in text
    for backend in vk.list_backends():
        assert backend.name in text and (backend.reason or backend.detail) in text
    for fact in (vk.__version__, torch.__version__, f"{torch.get_num_threads()} of torch", "numpy", "launch tables"):
        assert fact in text
