"""The command line as users type it."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

import veilkern as vk
from veilkern.cli import app, main
from veilkern.photos import write_png

NET = "veilkern.samples:load_model"


def run(*arguments):
    """Exit code and everything printed, through main() as the script does."""
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "veilkern", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=200,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def faces(tmp_path_factory, people):
    root = tmp_path_factory.mktemp("cli") / "faces"
    for image, file in zip(people.images, people.files, strict=True):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        write_png(root / file, image)
    return root


@pytest.fixture(scope="module")
def crafted(faces):
    """veilkern craft, once: the bank's path and what was printed."""
    veils = faces.parent / "veils.safetensors"
    code, text = run("craft", faces, "--model", NET, "--out", veils, "--steps", 20, "--held-out", 2, "--seed", 1)
    assert code == 0, text
    return veils, text


def test_craft(crafted, people):
    veils, text = crafted
    assert "4 veils in" in text and "converged" in text and "held-out" in text and "rank-1" in text
    bank = vk.VeilBank.load(veils)
    assert bank.names == people.names and bank.config["steps"] == 20
    assert stat.S_IMODE(veils.stat().st_mode) == 0o600


def test_protect_recover_evaluate(crafted, faces, tmp_path, people):
    veils, _ = crafted
    code, text = run("protect", faces, "--veils", veils, "--out", tmp_path / "hidden", "--lossless")
    assert code == 0 and "24 photos protected" in text, text
    code, text = run("recover", tmp_path / "hidden", "--veils", veils, "--out", tmp_path / "back")
    assert code == 0 and "24 photos recovered" in text, text
    assert (vk.read_people(tmp_path / "back").images == people.images).all()
    code, text = run(
        "evaluate",
        faces,
        "--model",
        NET,
        "--veils",
        veils,
        "--gallery",
        faces / "person-003",
        "--out",
        tmp_path / "report",
    )
    assert code == 0 and "MSR rank-1" in text and "report.html" in text, text
    assert {p.name for p in (tmp_path / "report").iterdir()} == {"report.html", "report.json", "contact_sheet.png"}
    again = ("evaluate", faces, "--model", NET, "--veils", veils, "--out", tmp_path / "report", "--json")
    code, text = run(*again)
    assert code == 1 and "holds a report already" in text
    code, text = run(*again, "--overwrite")
    assert json.loads(text)["unseen"]["photos"] == 8


def test_an_existing_bank_is_never_replaced_unasked(crafted, faces, tmp_path, people):
    veils, _ = crafted
    before = veils.read_bytes()
    code, text = run("craft", faces, "--model", NET, "--out", veils, "--steps", 2)
    assert code == 1 and "there already" in text and veils.read_bytes() == before
    own = tmp_path / "veils.safetensors"
    few = tmp_path / "few"
    few.mkdir()
    for name in people.names[:2]:
        (few / name).symlink_to(faces / name)
    key = tmp_path / "key"
    key.write_bytes(b"0123456789abcdef0123\n")
    key.chmod(0o600)
    options = ("--model", NET, "--out", own, "--steps", 2, "--key-file", key)
    assert run("craft", few, *options, "--no-check")[0] == 0
    code, text = run("craft", faces, *options, "--resume", "--no-check")
    assert code == 0, text
    whole = vk.craft(
        vk.FaceModel.load(NET), people, vk.CraftConfig(steps=2), key=b"0123456789abcdef0123", progress=False
    )
    assert vk.VeilBank.load(own).names == people.names
    assert (vk.VeilBank.load(own).veils[2:] == whole.bank.veils[2:]).float().mean() > 0.99
    code, text = run("craft", faces, *options, "--resume")
    assert code == 0 and "has a veil" in text
    assert run("craft", faces, *options, "--overwrite", "--no-check")[0] == 0


def test_bad_photos_are_listed_at_the_end_and_the_exit_code_is_1(faces, tmp_path, people):
    root = tmp_path / "faces"
    for name in people.names[:2]:
        (root / name).mkdir(parents=True)
        for i in range(3):
            (root / name / f"{i}.png").write_bytes((faces / name / f"{i:02d}.png").read_bytes())
    (root / "person-000" / "bad.jpg").write_bytes(b"no photo")
    (root / "empty").mkdir()
    code, text = run("craft", root, "--model", NET, "--out", tmp_path / "v", "--steps", 2, "--seed", 1, "--json")
    assert (
        code == 1
        and "2 left out" in text
        and "bad.jpg: not a PNG, JPEG or WebP" in text
        and "empty: no usable photo" in text
    )
    assert vk.VeilBank.load(tmp_path / "v").names == people.names[:2]
    code, text = run("protect", root, "--veils", tmp_path / "v", "--out", tmp_path / "hidden")
    assert code == 1 and "6 photos protected" in text and "bad.jpg" in text


@pytest.mark.parametrize(
    "arguments,words",
    [
        (["craft", "FACES", "--model", "nothing.py:load", "--out", "OUT"], "no such file"),
        (["craft", "absent", "--model", NET, "--out", "OUT"], "not a folder"),
        (["craft", "FACES", "--model", NET, "--out", "OUT", "--steps", "0"], "steps must be positive"),
        (["craft", "FACES", "--model", NET, "--out", "OUT", "--key-file", "absent"], "key file cannot be read"),
        (["craft", "FACES", "--model", NET, "--out", "nowhere/at/all"], "folder is missing"),
        (["craft", "FACES", "--model", "ir50:absent.pth", "--out", "OUT"], "no such checkpoint"),
        (["protect", "FACES", "--veils", "absent", "--out", "OUT"], "no such veil file"),
        (["recover", "absent", "--veils", "VEILS", "--out", "OUT"], "not a folder"),
        (
            ["recover", "FACES", "--veils", "VEILS", "--out", "OUT", "--gaussian-sigma", "0"],
            "gaussian_sigma must lie in",
        ),
        (["protect", "FACES", "--veils", "VEILS", "--out", "FACES"], "output folder is the input folder"),
    ],
)
def test_one_line_errors(crafted, faces, tmp_path, arguments, words):
    places = {"FACES": faces, "OUT": tmp_path / "out", "VEILS": crafted[0]}
    code, text = run(*[places.get(a, a) for a in arguments])
    assert code == 1 and words in text and "Traceback" not in text


def test_input_options_reach_the_network(crafted, faces, tmp_path):
    veils, _ = crafted
    code, text = run("evaluate", faces, "--model", NET, "--veils", veils, "--out", tmp_path / "r", "--input-mean", "a")
    assert code == 2 and "wanted one number or three" in text


def test_ctrl_c(faces, tmp_path):
    """A real SIGINT in the middle of craft: exit code 130, no half-written file, finished veils kept."""
    out = tmp_path / "veils.safetensors"
    command = [
        sys.executable,
        "-m",
        "veilkern",
        "craft",
        str(faces),
        "--model",
        NET,
        "--out",
        str(out),
        "--steps",
        "3000",
        "--no-early-stop",
        "--no-check",
    ]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    time.sleep(10)
    assert child.poll() is None
    child.send_signal(signal.SIGINT)
    text = "".join(child.communicate(timeout=60))
    assert child.returncode == 130 and "interrupted" in text and "Traceback" not in text
    assert list(tmp_path.iterdir()) == []


def test_info_help_and_demo(tmp_path):
    code, text = run("info")
    assert code == 0 and "cpu" in text and "reference" in text and "not part of this version" in text
    shown = CliRunner().invoke(app, ["craft", "--help"], env={"COLUMNS": "200"})
    import re

    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown.output)
    for field in vk.CraftConfig().as_dict():
        assert f"--{field.replace('_', '-')}" in plain, field
    code, text = run("demo", "--out", tmp_path / "demo")
    assert code == 0 and "MSR rank-1" in text and "report.html" in text
    assert {p.name for p in (tmp_path / "demo").iterdir()} == {
        "faces",
        "protected",
        "recovered",
        "veils.safetensors",
        "report.html",
        "report.json",
        "contact_sheet.png",
    }
    assert callable(main)
