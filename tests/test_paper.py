"""veilkern paper: every experiment runs, is kept, goes on where it was, and its tables follow from its JSON."""

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
QUICK = ("table1", "fig3", "another_person")


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


@pytest.mark.parametrize("after", [1, 4, 9])
def test_interrupted_it_goes_on_where_it_was(tmp_path, after, monkeypatch):
    """Ctrl-C at any stage: what was finished stays, the result is that of one run."""
    wanted = without_times(run(tmp_path / "whole", only=QUICK))
    told = []

    def stop(what):
        told.append(what)
        if len(told) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", only=QUICK, tell=stop)
    kept = {f.name for f in (tmp_path / "cut" / "cells").glob("*.json")}
    crafted = []
    real = lab.craft
    monkeypatch.setattr(lab, "craft", lambda *a, **k: crafted.append(a) or real(*a, **k))
    assert without_times(run(tmp_path / "cut", only=QUICK)) == wanted
    assert len(crafted) == 5 - sum(name.startswith("craft-") for name in kept)


def test_more_experiments_join_those_that_are_there(tmp_path):
    first = run(tmp_path, only=["table1"])
    assert not first["fig3"]["rows"] and "not run" in first["fig3"]["why"]
    both = run(tmp_path, only=["fig3"])
    assert both["table1"] == first["table1"] and both["fig3"]["rows"]


@pytest.mark.parametrize("other", [{"seed": 1}, {"steps": 3}, {"who": people(2)}, {"gallery": None}])
def test_other_settings_are_refused_until_one_says_overwrite(tmp_path, other):
    run(tmp_path, only=["fig3"])
    before = (tmp_path / "paper.json").read_bytes()
    with pytest.raises(vk.OutputError, match="other photos, networks or settings"):
        run(tmp_path, only=["fig3"], **other)
    assert (tmp_path / "paper.json").read_bytes() == before
    found = run(tmp_path, only=["fig3"], overwrite=True, **other)
    assert json.loads((tmp_path / "paper.json").read_text()) == found != json.loads(before)


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


def test_a_damaged_cell_is_named(tmp_path):
    run(tmp_path, only=["fig3", "table1"])
    cell = next((tmp_path / "cells").glob("looks-*.json"))
    cell.write_text(cell.read_text()[:20])
    with pytest.raises(vk.OutputError, match=f"{cell.name}.*delete it"):
        run(tmp_path, only=["table1"])
    cell.unlink()
    run(tmp_path, only=["table1"])


def test_veils_that_were_deleted_are_crafted_again(tmp_path):
    first = run(tmp_path, only=["fig3"])
    for veils in (tmp_path / "cells").glob("veils-*.safetensors"):
        veils.unlink()
    assert without_times(run(tmp_path, only=["fig3"])) == without_times(first)


def test_photos_and_keys_are_private(whole):
    out, _ = whole
    for file in [out / "report.html", *(out / "pictures").iterdir(), *(out / "cells").glob("veils-*")]:
        assert file.stat().st_mode & 0o077 == 0, file


CHILD = """
import sys
from paper_cases import people, run
run(sys.argv[1], who=people(2, 2), only=["table1"], steps=40, tell=lambda what: print(what, flush=True))
"""


def test_killed_in_a_craft_it_goes_on_from_its_journal(tmp_path):
    """kill -9 while veils are crafted: no cell is half written, and the result is that of one run."""
    given = {"who": people(2, 2), "only": ["table1"], "steps": 40}
    wanted = without_times(run(tmp_path / "whole", **given))
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "cut")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(paper_cases.__file__).parent,
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("crafting veils: sealed;"):
            for _ in range(600):  # the craft begins with its journal
                if list((tmp_path / "cut" / "cells").glob("*.journal")):
                    break
                time.sleep(0.01)
            child.kill()
            break
    child.wait(timeout=60)
    assert child.returncode == -signal.SIGKILL and not (tmp_path / "cut" / "paper.json").exists()
    assert list((tmp_path / "cut" / "cells").glob("*.journal"))
    assert without_times(run(tmp_path / "cut", **given)) == wanted
    assert not list((tmp_path / "cut" / "cells").glob("*.journal"))


def test_an_empty_journal_stands_in_nobodys_way(tmp_path):
    """kill -9 between making the file and its first byte."""
    first = run(tmp_path, only=["fig3"])
    for veils in (tmp_path / "cells").glob("veils-*.safetensors"):
        veils.with_suffix(".journal").touch()
        veils.unlink()
    assert without_times(run(tmp_path, only=["fig3"])) == without_times(first)


def test_damaged_veils_are_named(tmp_path):
    run(tmp_path, only=["fig3"])
    veils = next((tmp_path / "cells").glob("veils-*.safetensors"))
    veils.write_bytes(veils.read_bytes()[:100])
    with pytest.raises(vk.OutputError, match=f"{veils.name}.*delete it"):
        run(tmp_path, only=["fig3"])


@pytest.mark.parametrize("photos", [1, 2, 3])
def test_few_photos_are_no_error(tmp_path, photos):
    """Nothing to measure is null, in every experiment and plot."""
    found = run(tmp_path, who=people(2, photos), steps=1, image_specific=1)
    assert all(found[name]["rows"] for name in EXPERIMENTS)
    alone = run(tmp_path / "alone", who=people(1, photos), steps=1, image_specific=1, gallery=None)
    assert alone["table1"]["rows"] and not alone["another_person"]["rows"]
    assert {one["verdict"] for one in alone["table1"]["comparison"]} == {"not comparable"}


def test_labels_that_are_one_as_file_names_have_pictures_of_their_own(tmp_path):
    nets = {"a b": load_model(), "a-b": relative(1), "a/b": relative(2), "x$y_$|<b>": relative(3)}
    made = vk.paper(people(), nets, out=tmp_path, only=["fig3", "fig7"], steps=1, threads=1, check=False)
    pictures = [f.read_bytes() for f in (tmp_path / "pictures").iterdir()]
    assert len(made["pictures"]) == len(pictures) == len(set(pictures)) == 4
    assert len(list((tmp_path / "plots").iterdir())) == 4
    report, tables = ((tmp_path / f).read_text() for f in ("report.html", "tables.md"))
    assert report.count("data:image/png") == 4 and "<b>" not in report and "<b>" not in tables
    lines = [line for line in tables.splitlines() if line.startswith("| paper |") and "x$y" in line]
    assert lines and all("x$y_$\\|&lt;b>" in line for line in lines)


def test_what_another_run_showed_is_removed(tmp_path):
    vk.paper(people(), {"old": load_model()}, out=tmp_path, only=["fig3", "fig7"], steps=1, threads=1)
    (tmp_path / "pictures" / "mine.png").write_bytes(b"kept")
    vk.paper(people(2), {"new": load_model()}, out=tmp_path, only=["fig3"], steps=1, threads=1, overwrite=True)
    assert {f.name for f in (tmp_path / "pictures").iterdir()} == {"fig3-new.png", "mine.png"}
    assert not list((tmp_path / "plots").iterdir())


def test_other_roles_lpips_or_version_are_other_runs(tmp_path):
    a, b = load_model(), relative()
    vk.paper(people(), {"a": a}, {"b": b}, out=tmp_path, only=["fig3"], steps=1, threads=1)
    with pytest.raises(vk.OutputError, match=r"surrogates, targets"):
        vk.paper(people(), {"b": b}, {"a": a}, out=tmp_path, only=["fig3"], steps=1, threads=1)
    old = json.loads((tmp_path / "paper.json").read_text()) | {"veilkern": "0.0.1"}
    (tmp_path / "paper.json").write_text(json.dumps(old))
    with pytest.raises(vk.OutputError, match="veilkern"):
        vk.paper(people(), {"a": a}, {"b": b}, out=tmp_path, only=["fig3"], steps=1, threads=1)
    (tmp_path / "paper.json").write_text("{")
    with pytest.raises(vk.OutputError, match="cannot be read"):
        vk.paper(people(), {"a": a}, out=tmp_path, only=["fig3"], steps=1, threads=1)
    vk.paper(people(), {"a": a}, out=tmp_path, only=["fig3"], steps=1, threads=1, overwrite=True)


def test_lpips_of_other_weights_is_measured_anew(tmp_path):
    def weights(seed):
        g = torch.Generator().manual_seed(seed)
        layers = [(torch.randn(*shape, generator=g) * 0.05, torch.zeros(shape[0])) for shape in SHAPES]
        return Lpips(layers, [torch.rand(1, shape[0], 1, 1, generator=g) for shape in SHAPES])

    first = run(tmp_path, only=["table1"], lpips=weights(1))
    second = run(tmp_path, only=["table1"], lpips=weights(2), overwrite=True)
    values = [[row["lpips"]["value"] for row in made["table1"]["rows"]] for made in (first, second)]
    assert all(a != b for a, b in zip(*values, strict=True)) and first["lpips"] != second["lpips"]
    assert "LPIPS" not in " ".join(first["notes"])


SHAPES = ((64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3))


def test_seconds_of_another_machine_are_not_told_as_this_ones(tmp_path, monkeypatch):
    only = ["subspace", "cost"]
    first = run(tmp_path, only=only)
    assert all(row["seconds_per_veil"] > 0 for row in first["subspace"]["rows"])
    monkeypatch.setattr(lab, "processor", lambda: "another")
    with pytest.raises(vk.OutputError, match="machine"):
        run(tmp_path, only=only)
    second = run(tmp_path, only=only, overwrite=True)
    assert all(row["seconds_per_veil"] is None for row in second["subspace"]["rows"])
    assert all(row["seconds_per_person"] is None for row in second["cost"]["rows"])
    assert without_times(second["subspace"]) == without_times(first["subspace"])


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
        if config.subspace == "convex":  # one person fails
            result.bank = result.bank.remove("person-001")
            result.report[1]["status"] = "failed: her own fault"
        return result

    monkeypatch.setattr(lab, "craft", craft)
    found = run(tmp_path, only=["table1", "fig3", "table3"])
    left_out = [note for note in found["notes"] if note.startswith("Left out")]
    assert any("sealed veils for sample: this one fails" in note for note in left_out)
    assert any("paper veils for sample: person-001: her own fault" in note for note in left_out)
    rows = found["table1"]["rows"]
    assert {row["method"] for row in rows} == {"v-uap", "paper", "ours"}
    of = {row["method"]: row for row in rows if row["photos"] == "unseen"}
    assert of["paper"]["ssim"]["people"] == of["paper"]["ssim_difference"]["people"] == 2
    assert of["paper"]["ssim"]["photos"] == 4 and of["ours"]["ssim_difference"]["people"] == 3
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


def test_an_error_in_the_middle_leaves_the_report_of_what_was_done(tmp_path, monkeypatch):
    from veilkern.experiments import table1

    monkeypatch.setattr(table1, "rows", lambda lab: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, only=["table1", "fig3"])
    assert not (tmp_path / "report.html").exists()
    monkeypatch.undo()
    from veilkern.experiments import fig3

    monkeypatch.setattr(fig3, "rows", lambda lab: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, only=["table1", "fig3"])
    assert (tmp_path / "report.html").exists() and json.loads((tmp_path / "paper.json").read_text())["table1"]["rows"]
