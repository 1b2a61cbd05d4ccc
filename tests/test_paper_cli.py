"""veilkern paper on the command line."""

from __future__ import annotations

import json
import shutil

import pytest
from paper_cases import gallery, people, run
from typer.testing import CliRunner

import veilkern as vk
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
    reports = [(tmp_path / place / "report.html").read_text() for place in ("out", "elsewhere")]
    assert reports[0] == reports[1] and "data:image/png" in reports[0]
    assert cli("--render", tmp_path / "elsewhere").exit_code == 0


@pytest.mark.parametrize(
    "words,said",
    [
        (["--surrogates", NET, "--out", "x"], "FACES"),
        (["faces", "--out", "x"], "--surrogates"),
        (["faces", "--surrogates", NET], "--out"),
        (["--render", "x", "--surrogates", NET], "nothing with --render: --surrogates"),
        (["faces", "--render", "x", "--people", "2"], "FACES, --people"),
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


@pytest.mark.parametrize(
    "damage",
    [
        lambda paper: {"table1": {}},
        *(lambda paper, key=key: {k: v for k, v in paper.items() if k != key} for key in ("claims", "photos", "notes")),
        lambda paper: paper | {"table1": paper["table1"] | {"rows": [{}]}},
        lambda paper: paper | {"fig3": {"rows": []}},
        lambda paper: (
            paper | {"table1": paper["table1"] | {"rows": [paper["table1"]["rows"][0] | {"ssim": {"value": "x"}}]}}
        ),
    ],
)
def test_render_of_what_is_no_paper(tmp_path, small, damage):
    (tmp_path / "paper.json").write_text(json.dumps(damage(small)))
    done = cli("--render", tmp_path)
    assert isinstance(done.exception, vk.OutputError) and "paper" in str(done.exception)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A paper.json of two experiments."""
    return run(tmp_path_factory.mktemp("small"), only=["table1", "fig3"], steps=1)


def test_a_photo_of_the_gallery_that_cannot_be_used_is_told_each_time(folder, tmp_path):
    shutil.copytree(folder / "gallery", tmp_path / "gallery")
    (tmp_path / "gallery" / "bad.png").write_bytes(b"no photo")
    words = [folder / "faces", "--surrogates", NET, "--gallery", tmp_path / "gallery", "--out", tmp_path / "out"]
    for _ in range(2):
        done = cli(*words, "--only", "another_person", "--steps", 1)
        assert done.exit_code == 1 and "bad.png" in done.stderr


@pytest.mark.parametrize("out", ["faces", "faces/deep/out", "gallery/out"])
def test_what_is_written_is_not_among_the_photos(folder, out):
    words = ["--surrogates", NET, "--gallery", folder / "gallery", "--out", folder / out, "--steps", 1]
    done = cli(folder / "faces", *words)
    assert isinstance(done.exception, vk.OutputError) and "put it elsewhere" in str(done.exception)
    assert not (folder / out / "cells").exists()


@pytest.mark.parametrize(
    "words,spread",
    [
        (["f", "--nets", "a", "b", "c"], ["f", "--nets", "a", "--nets", "b", "--nets", "c"]),
        (["--nets", "a", "b", "-x", "1", "2"], ["--nets", "a", "--nets", "b", "-x", "1", "2"]),
        (["--nets", "a", "--nets", "b", "c"], ["--nets", "a", "--nets", "b", "--nets", "c"]),
        (["--nets", "a", "--", "b", "c"], ["--nets", "a", "--", "b", "c"]),
        (["--nets=a", "b"], ["--nets=a", "--nets", "b"]),
        (["--other=a", "f"], ["--other=a", "f"]),
        (["--nets"], ["--nets"]),
        ([], []),
    ],
)
def test_options_of_several_values(words, spread):
    command = Several.of("--nets")("x", callback=lambda: None)
    assert command._spread(words) == spread
