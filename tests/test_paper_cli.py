"""veilkern paper on the command line."""

from __future__ import annotations

import json
import shutil

import pytest
from paper_cases import gallery, people
from typer.testing import CliRunner

from veilkern.cli import build
from veilkern.cli._several import Several
from veilkern.data.photos import write_png

NET = "veilkern.samples:load_model"


def cli(*words):
    return CliRunner().invoke(build(["paper"]), ["paper", *map(str, words)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """faces/ of three persons with a file that is no photo among them, gallery/, and two networks in nets.py."""
    root = tmp_path_factory.mktemp("paper")
    who = people()
    for file, image in zip(who.files, who.images, strict=True):
        (root / "faces" / file).parent.mkdir(parents=True, exist_ok=True)
        write_png(root / "faces" / file, image)
    (root / "faces" / who.names[0] / "broken.png").write_bytes(b"no photo")
    (root / "gallery").mkdir()
    for i, image in enumerate(gallery()):
        write_png(root / "gallery" / f"{i}.png", image)
    return root


@pytest.mark.thorough
def test_networks_one_after_another_labels_and_what_is_left_out(folder, tmp_path):
    nets = tmp_path / "nets.py"
    nets.write_text("from veilkern.samples import load_model\ndef other():\n    return load_model()\n")
    done = cli(
        folder / "faces", "--surrogates", f"first={NET}", f"second={nets}:other", "--targets", NET, "--gallery",
        folder / "gallery", "--out", tmp_path / "out", "--only", "table1", "fig3", "--steps", 2, "--people", 2,
    )  # fmt: skip
    assert done.exit_code == 1, done.output  # a photo was left out
    assert "broken.png" in done.stderr and "not measured" in done.stdout
    made = json.loads((tmp_path / "out" / "paper.json").read_text())
    assert made["surrogates"] == ["first", "second"] and list(made["networks"])[2:] == ["veilkern sample network"]
    assert made["people"] == 2 and made["gallery"] == 5
    assert made["table1"]["rows"] and made["fig3"]["rows"] and not made["fig4"]["rows"]
    for name in ("report.html", "tables.md", "pictures/fig3-first.png"):
        assert (tmp_path / "out" / name).stat().st_size > 1000
    shutil.rmtree(tmp_path / "out" / "cells")
    tables = (tmp_path / "out" / "tables.md").read_text()
    (tmp_path / "out" / "tables.md").unlink()
    assert cli("--render", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "tables.md").read_text() == tables
    assert cli("--render", tmp_path / "out", "--out", tmp_path / "elsewhere").exit_code == 0
    assert (tmp_path / "elsewhere" / "tables.md").read_text() == tables


@pytest.mark.parametrize(
    "words,said",
    [
        (["--surrogates", NET, "--out", "x"], "FACES"),
        (["faces", "--out", "x"], "--surrogates"),
        (["faces", "--surrogates", NET], "--out"),
        (["--render", "x", "--surrogates", NET], "--surrogates means nothing"),
    ],
)
def test_what_is_missing_is_named(words, said):
    done = cli(*words)
    assert done.exit_code == 2 and said in done.stderr.replace("\n", " ")


@pytest.mark.parametrize(
    "words,error,said",
    [
        (["--surrogates", NET, NET], ValueError, "two networks are called"),
        (["--surrogates", NET, "--only", "table9"], ValueError, "only must name some of"),
        (["--surrogates", NET, "--gallery", "nowhere"], Exception, "not a folder of gallery photos"),
        (["--surrogates", NET, "--lpips", "nowhere.pth"], Exception, "nowhere.pth"),
        (["--surrogates", "nowhere.safetensors"], Exception, "nowhere.safetensors"),
    ],
)
def test_what_cannot_be_is_an_error_before_the_work(folder, tmp_path, words, error, said):
    done = cli(folder / "faces", *words, "--out", tmp_path / "out", "--steps", 1)
    assert isinstance(done.exception, error) and said in str(done.exception)
    assert not (tmp_path / "out" / "paper.json").exists()


def test_render_of_what_is_no_paper(tmp_path):
    (tmp_path / "paper.json").write_text('{"table1": {}}')
    done = cli("--render", tmp_path)
    assert "not the paper.json" in str(done.exception)


@pytest.mark.parametrize(
    "words,spread",
    [
        (["f", "--nets", "a", "b", "c"], ["f", "--nets", "a", "--nets", "b", "--nets", "c"]),
        (["--nets", "a", "b", "-x", "1", "2"], ["--nets", "a", "--nets", "b", "-x", "1", "2"]),
        (["--nets", "a", "--nets", "b", "c"], ["--nets", "a", "--nets", "b", "--nets", "c"]),
        (["--nets", "a", "--", "b", "c"], ["--nets", "a", "--", "b", "c"]),
        (["--nets=a", "f"], ["--nets=a", "f"]),
        (["--nets"], ["--nets"]),
        ([], []),
    ],
)
def test_options_of_several_values(words, spread):
    command = Several.of("--nets")("x", callback=lambda: None)
    assert command._spread(words) == spread
