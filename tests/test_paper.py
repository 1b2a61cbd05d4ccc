"""veilkern paper: every experiment runs, its figures are right, and its tables follow from its JSON."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import paper_cases
import pytest
import torch
from paper_cases import gallery, people, relative, run, without_times

import veilkern as vk
from veilkern.evaluate.lpips import Lpips
from veilkern.experiments import lab
from veilkern.experiments.arguments import divided
from veilkern.experiments.gallery import GalleryPhotos
from veilkern.experiments.report import render, render_from
from veilkern.experiments.store import Store
from veilkern.experiments.titles import EXPERIMENTS
from veilkern.samples import load_model

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All experiments at toy size: the folder and what paper returned."""
    out = tmp_path_factory.mktemp("paper")
    return out, run(out)


def figures(rows):
    return [value for row in rows for value in row.values() if isinstance(value, dict) and "value" in value]


def test_every_experiment_has_rows_with_counts_and_intervals(whole):
    out, made = whole
    assert json.loads((out / "paper.json").read_text()) == made
    for name in EXPERIMENTS:
        part = made[name]
        assert part["rows"] and not part["why"] and isinstance(part["paper"], list)
        for one in figures(part["rows"]):
            assert set(one) == {"value", "low", "high", "people", "photos"}
            if one["value"] is not None:
                assert one["people"] == 3 or name == "cost"
                assert one["low"] - 1e-9 <= one["value"] <= one["high"] + 1e-9
                assert one["photos"] > 0
    assert {row["photos"] for row in made["table1"]["rows"]} == {"crafting", "unseen"}
    assert {row["target"] for row in made["fig4"]["rows"]} == {"sample", "relative"}
    assert {row["method"] for row in made["fig7"]["rows"]} >= {"ours", "ours, strong", "sealed", "sealed, strong"}
    assert made["lpips"] is False and all(row["lpips"] is None for row in made["table1"]["rows"])
    assert any("LPIPS" in note for note in made["notes"])


def test_every_method_is_in_the_cost_table(whole):
    from veilkern import methods

    rows = whole[1]["cost"]["rows"]
    assert {row["method"] for row in rows} == set(methods.METHODS)
    for row in rows:
        own = {"everybody": "passes_per_once", "person": "passes_per_person", "photo": "passes_per_photo"}[row["scope"]]
        assert row[own] > 0
        assert (row["ssim_recovered"] is not None) == row["recovers"]
        assert (row["photos"] == "image-specific") == (row["scope"] == "photo")
        if row["aim"] == "evade":
            assert row["evasion"]["value"] == pytest.approx(1 - row["rank1"]["value"])


def test_rows_are_what_the_bank_gives(whole):
    """One figure worked out anew from the veils that lie in the folder."""
    _, made = whole
    row = next(r for r in made["table1"]["rows"] if r["method"] == "ours" and r["photos"] == "unseen")
    crafting, unseen, _ = divided(people(), None)
    config = vk.CraftConfig(steps=paper_cases.STEPS)
    key = lab.Lab({}, {}, crafting, unseen, None, None).key  # type: ignore[arg-type]
    bank = vk.craft(load_model(), crafting, config, key=key, threads=1, progress=False).bank
    hidden = vk.protect(unseen.images, bank, bank.rows(unseen.names)[unseen.rows])
    from veilkern.evaluate import ssim

    assert row["ssim"]["value"] == pytest.approx(ssim(unseen.images, hidden).mean().item(), abs=1e-9)


def test_a_second_run_makes_nothing(whole, tmp_path, monkeypatch):
    out, made = whole
    again = tmp_path / "again"
    shutil.copytree(out, again)
    monkeypatch.setattr(lab, "craft", lambda *_, **__: pytest.fail("crafted again"))
    before = {f.name: f.stat().st_mtime_ns for f in (again / "cells").iterdir()}
    assert run(again) == made
    assert {f.name: f.stat().st_mtime_ns for f in (again / "cells").iterdir()} == before


def test_tables_plots_and_report_follow_from_the_json(whole, tmp_path):
    out, _ = whole
    shutil.copytree(out, tmp_path / "copy")
    texts = {f: (out / f).read_bytes() for f in ("tables.md", "report.html")}
    plots = {f.name: f.read_bytes() for f in (out / "plots").iterdir()}
    for name in texts:
        (tmp_path / "copy" / name).unlink()
    shutil.rmtree(tmp_path / "copy" / "plots")
    shutil.rmtree(tmp_path / "copy" / "cells")
    render_from(tmp_path / "copy", tmp_path / "copy")
    assert {f: (tmp_path / "copy" / f).read_bytes() for f in texts} == texts
    assert {f.name: f.read_bytes() for f in (tmp_path / "copy" / "plots").iterdir()} == plots
    assert set(plots) == {"fig4.svg", "fig6.svg", "fig7-sample.svg", "cost.svg"}


def test_what_changes_in_the_json_changes_in_the_tables(whole, tmp_path):
    paper = json.loads((whole[0] / "paper.json").read_text())
    paper["table1"]["rows"][0]["ssim"] = {"value": 0.7654, "low": 0.7, "high": 0.8, "people": 3, "photos": 6}
    render(paper, tmp_path)
    assert "0.7654 [0.7000, 0.8000]" in (tmp_path / "tables.md").read_text()
    assert "0.7654 [0.7000, 0.8000]" in (tmp_path / "report.html").read_text()


def test_photos_and_keys_are_private(whole):
    out, _ = whole
    for file in [out / "report.html", *(out / "pictures").iterdir(), *(out / "cells").glob("veils-*")]:
        assert file.stat().st_mode & 0o077 == 0, file
