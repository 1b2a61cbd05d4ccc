"""veilkern paper: people, networks and labels of every kind, and what is refused."""

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
from veilkern.experiments.report import file_name, render, render_from
from veilkern.experiments.store import Store
from veilkern.experiments.titles import EXPERIMENTS
from veilkern.samples import load_model

pytestmark = pytest.mark.thorough


def test_a_target_of_another_size_sees_resized_photos(tmp_path):
    small = vk.FaceModel(torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten()), size=64, name="small")
    own = torch.cat([gallery(), people().images])  # pictures of the people themselves are no strangers
    found = vk.paper(people(), [load_model()], [small], out=tmp_path, gallery=own, only=["fig4"], steps=1, threads=1)
    rows = [r for r in found["fig4"]["rows"] if r["target"] == "small"]
    assert rows and not any(r["white_box"] for r in rows)
    crafting, unseen, _ = divided(people(), None)
    there = lab.Lab({"a": load_model()}, {"small": small}, crafting, unseen, None, None)
    there.gallery, there.store = GalleryPhotos.of_images(own), Store(tmp_path / "again")
    assert len(there.distractors("a")) == len(there.distractors("small")) == 5


def test_one_photo_a_person_has_nothing_unseen(tmp_path):
    found = run(tmp_path, who=people(3, 1), only=["table1", "another_person"])
    assert found["photos"] == {"crafting": 3}
    row = found["table1"]["rows"][0]
    assert row["ssim"]["value"] is not None and row["rank1"]["value"] is None and row["rank1"]["people"] == 0


@pytest.mark.parametrize("count,photos", [(1, 3), (2, 5), (3, 25)])
def test_division(count, photos):
    crafting, unseen, twins = divided(people(count, photos), None)
    assert not twins
    assert crafting.counts.tolist() == [photos - min(10, photos // 2)] * count
    assert unseen.counts.tolist() == [min(10, photos // 2)] * count
    whole = torch.cat([torch.cat([crafting.photos(p), unseen.photos(p)]) for p in range(count)])
    assert torch.equal(whole, people(count, photos).images)


def nan_network() -> vk.FaceModel:
    class Broken(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :8] * math.nan

    return vk.FaceModel(Broken(), name="broken")


@pytest.mark.parametrize(
    "bad,error,words",
    [
        ({"surrogates": {}}, ValueError, "surrogates must hold at least one network"),
        ({"surrogates": load_model()}, TypeError, "surrogates must be a sequence of FaceModels or a mapping"),
        ({"surrogates": {"a\nb": load_model()}}, ValueError, "labels of 1 to 60 printable characters"),
        ({"surrogates": {"x" * 61: load_model()}}, ValueError, "labels of 1 to 60 printable characters"),
        ({"gallery": 5}, ValueError, "gallery must be uint8 .*, got int"),
        ({"held_out": "2"}, TypeError, "held_out must be an integer, got '2'"),
        ({"count": True}, TypeError, "count must be an integer, got True"),
        ({"seed": -1}, ValueError, "seed"),
        ({"steps": 0}, ValueError, "steps must be 1 or more"),
        ({"lpips": "alexnet.pth"}, TypeError, "lpips must be an Lpips, got str"),
        ({"surrogates": {"a": 3}}, TypeError, "surrogates must be FaceModels, got int"),
        ({"targets": {"sample": relative()}}, ValueError, "other labels than surrogates"),
        ({"targets": {"broken": nan_network()}, "check": False}, vk.ModelError, r"broken: .*person-000/00.png"),
        ({"only": ["table9"]}, ValueError, "only must name some of table1"),
        ({"only": []}, ValueError, "only must name at least one"),
        ({"gallery": torch.zeros(2, 3, 8, 8)}, ValueError, r"gallery must be uint8 \[G, 3, 112, 112\]"),
        ({"count": 0}, ValueError, "count must be 1 or more"),
        ({"people": "faces"}, TypeError, "people must be a People, got str"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path, bad, error, words):
    given = {"people": people(), "surrogates": {"sample": load_model()}, "steps": 1, "only": ["fig3"], **bad}
    with pytest.raises(error, match=words):
        vk.paper(**given, out=tmp_path)
    assert not (tmp_path / "paper.json").exists()


@pytest.mark.parametrize("photos", [1, 2, 3])
def test_few_photos_are_no_error(tmp_path, photos):
    """Nothing to measure is null, in every experiment and plot."""
    found = run(tmp_path, who=people(2, photos), steps=1, image_specific=1)
    assert all(found[name]["rows"] for name in EXPERIMENTS)
    alone = run(tmp_path / "alone", who=people(1, photos), steps=1, image_specific=1, gallery=None)
    assert alone["table1"]["rows"] and not alone["another_person"]["rows"]
    assert {one["verdict"] for one in alone["table1"]["comparison"]} == {"not comparable"}


def test_labels_that_are_one_as_file_names_have_pictures_of_their_own(tmp_path):
    nets = {"a b": load_model(), "a-b": relative(1), "a/b": relative(2)}
    made = vk.paper(people(2, 2), nets, out=tmp_path, only=["fig3"], steps=1, threads=1, check=False)
    pictures = [f.read_bytes() for f in (tmp_path / "pictures").iterdir()]
    assert len(made["pictures"]) == len(pictures) == len(set(pictures)) == 3
    assert (tmp_path / "report.html").read_text().count("data:image/png") == 3
    assert len({file_name(f"fig7 {label}") for label in (*nets, "A B", "a  b", "a_b", "ä b")}) == 7


def test_labels_are_words_and_nothing_else(tmp_path):
    """Neither mathematics to matplotlib, nor columns to Markdown, nor tags to a page; an underscore hides nothing."""
    nets = {"x$y_$|<b>": load_model(), "_net": relative(1)}
    vk.paper(people(2, 2), nets, out=tmp_path, only=["fig3", "fig4", "fig6"], steps=1, threads=1, check=False)
    report, tables = ((tmp_path / f).read_text() for f in ("report.html", "tables.md"))
    assert "<b>" not in report and "<b>" not in tables
    plots = [(tmp_path / "plots" / f"{name}.svg").read_text() for name in ("fig4", "fig6")]
    assert all("x$y_$|&lt;b&gt;" in plot and "_net" in plot for plot in plots)
    lines = [line for line in tables.splitlines() if line.startswith("| paper |") and "x$y" in line]
    assert lines and all("x$y_$\\|&lt;b>" in line for line in lines)


class Forgetful(torch.nn.Module):
    """The embedded network, without an answer to dark photos."""

    def __init__(self, dark: float):
        super().__init__()
        self.net, self.dark = load_model().module, dark

    def forward(self, x):
        found = self.net(x)
        return torch.where((x.mean((1, 2, 3)) < self.dark)[:, None], math.nan, found)


def test_photos_without_a_feature_are_named_before_the_work(tmp_path):
    who = people(3, 4)
    images = who.images.clone()
    images[:4] //= 3
    who = vk.People(images, who.offsets, who.names, who.files)
    level = (images[:4].float() / 127.5 - 1).mean((1, 2, 3)).max().item() + 0.01
    network = vk.FaceModel(Forgetful(level), mean=(0.5,) * 3, std=(0.5,) * 3, name="forgetful")
    with pytest.raises(vk.ModelError, match=r"forgetful: .* 2 photos: person-000/00.png"):
        vk.paper(who, {"forgetful": network}, out=tmp_path, only=["table1"], steps=1, threads=1, check=False)


def test_veils_that_cannot_be_crafted_are_left_out_and_told(tmp_path, monkeypatch):
    real = lab.craft

    def craft(model, people, config, **given):
        result = real(model, people, config, **given)
        if config.scheme == "sealed":
            raise vk.ModelError("this one fails")
        alone = {"convex": 1, "self": 2}.get(config.subspace)  # one person fails
        if alone is not None:
            result.bank = result.bank.remove(f"person-00{alone}")
            result.report[alone]["status"] = "failed: her own fault"
        return result

    monkeypatch.setattr(lab, "craft", craft)
    found = run(tmp_path, only=["table1", "fig3", "table3"])
    left_out = [note for note in found["notes"] if note.startswith("Left out")]
    assert any("sealed veils for sample: this one fails" in note for note in left_out)
    assert any("paper veils for sample: person-001: her own fault" in note for note in left_out)
    rows = found["table1"]["rows"]
    assert {row["method"] for row in rows} == {"v-uap", "paper", "ours"}
    of = {row["method"]: row for row in rows if row["photos"] == "unseen"}
    assert of["paper"]["ssim"]["people"] == 2 and of["paper"]["ssim_difference"]["people"] == 1  # who has both
    assert of["paper"]["ssim"]["photos"] == 4 and of["ours"]["ssim_difference"]["people"] == 2
    assert {tuple(row["who"]) for row in found["fig3"]["rows"]} == {("person-000", "person-002")}
    assert "her own fault" in (tmp_path / "report.html").read_text()


def test_the_same_picture_is_never_crafted_on_and_unseen():
    who = people(2, 6)
    images = who.images.clone()
    images[4] = images[0]
    crafting, unseen, twins = divided(vk.People(images, who.offsets, who.names, who.files), None)
    assert twins == 1 and len(unseen.images) == 5 and len(crafting.images) == 6
    assert not any(torch.equal(images[0], image) for image in unseen.images)


def test_a_surrogate_that_knows_nobody_is_refused_and_a_target_noted(tmp_path):
    blind = vk.FaceModel(torch.nn.Sequential(torch.nn.AvgPool2d(56), torch.nn.Flatten()), name="blind")
    with pytest.raises(vk.ModelError, match=r"blind: .*does not tell these people apart.*--no-check"):
        vk.paper(people(), {"blind": blind}, out=tmp_path, only=["fig3"], steps=1, threads=1)
    made = vk.paper(people(), {"a": load_model()}, {"blind": blind}, out=tmp_path, only=["fig4"], steps=1, threads=1)
    assert any(note.startswith("blind is no judge") for note in made["notes"])
    rows = [row for row in made["fig4"]["rows"] if row["method"] == "clean photos"]
    assert {row["target"] for row in rows} == {"a", "blind"}
