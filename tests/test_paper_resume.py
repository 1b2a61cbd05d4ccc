"""veilkern paper: what was found is kept, whatever ends a run, and is never told of other things."""

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
