"""veilkern train as users type it, at toy size."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from train_cases import write_folder
from typer.testing import CliRunner

import veilkern as vk
from veilkern.cli import app
from veilkern.samples import synthetic_people

QUICK = ("--arch", "iresnet18", "--small", "--steps", "4", "--batch", "8", "--threads", "1", "--held-out", "2")


def run(*arguments) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["train", *map(str, arguments)], catch_exceptions=False)
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("train") / "faces", synthetic_people(6, 4, seed=43))


@pytest.fixture(scope="module")
def trained(faces):
    """The path of a network trained on them, and what was printed."""
    out = faces.parent / "net.safetensors"
    code, text = run(faces, *QUICK, "--head", "arcface", "--out", out, "--log", faces.parent / "log.jsonl")
    assert code == 0, text
    return out, text


def test_train_prints_its_epochs_and_writes_network_and_log(trained, faces):
    _, text = trained
    lines = [json.loads(line) for line in (faces.parent / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4] and lines[-1]["verification"]["photos"] == 8
    for line in lines:
        assert f"step {line['step']}/4: loss {line['loss']:.3f}, rank-1 {line['verification']['rank1']:.4f}" in text
    assert "4 steps on 16 photos of 4 identities" in text
    assert {path.name for path in faces.parent.glob("[!.]*")} >= {"net.safetensors", "log.jsonl"}


@pytest.mark.process
def test_its_network_is_a_model_for_every_command(trained):
    command = [sys.executable, "-m", "veilkern", "info", "--model", str(trained[0])]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and "the engine:" in done.stdout, done.stdout + done.stderr


def test_fine_tuning_another_head_from_it(trained, tmp_path):
    out = tmp_path / "tuned.safetensors"
    code, text = run(
        trained[0].parent / "faces", *QUICK, "--head", "lmcl", "--from", trained[0], "--json", "--out", out
    )
    assert code == 0 and json.loads(text.splitlines()[0])["lr"] < 0.1 * 8 / 512 / 10 * 1.001
    assert vk.FaceModel.load(out).features(synthetic_people(1, 2, seed=1).images).shape == (2, 128)


def test_the_same_command_with_resume_has_nothing_to_do(trained, faces):
    code, text = run(faces, *QUICK, "--head", "arcface", "--out", trained[0], "--resume")
    assert code == 0 and "trained already; nothing to do" in text
    with pytest.raises(vk.OutputError, match="there already; kept"):
        run(faces, *QUICK, "--out", trained[0])


def test_photos_of_another_size_need_resize(faces, tmp_path):
    small = write_folder(tmp_path / "small", vk.read_people(faces, size=60, resize=True))
    out = tmp_path / "net.safetensors"
    with pytest.raises(vk.PhotoError, match=r"60 x 60 pixels .*wanted 112 x 112; .*--resize"):
        run(small, *QUICK, "--out", out, "--held-out", 0)
    code, text = run(small, *QUICK, "--out", out, "--resize", "--held-out", 0, "--steps", 1)
    assert code == 0 and out.exists(), text


def test_what_was_left_out_is_listed_at_the_end_with_exit_code_1(faces, tmp_path):
    made = write_folder(tmp_path / "faces", vk.read_people(faces))
    for folder in made.iterdir():
        (folder / "01.png").write_bytes(b"not a photo")
    code, text = run(made, *QUICK, "--out", tmp_path / "net.safetensors")
    assert code == 1 and "6 left out:" in text and "01.png" in text and "not a PNG, JPEG or WebP photo" in text
    assert vk.FaceModel.load(tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    "options,text",
    [(("--devices", "two"), "--devices"), (("--workers", "-1"), "--workers"), (("--save-every", "0"), "--save-every")],
)
def test_wrong_options_are_named(options, text, faces, tmp_path):
    code, output = run(faces, *QUICK, "--out", tmp_path / "net.safetensors", *options)
    assert code == 2 and text in output


@pytest.mark.process
def test_ctrl_c_says_how_to_go_on(faces, tmp_path):
    out = tmp_path / "net.safetensors"
    options = [*QUICK, "--steps", "100000", "--lr", "0.001", "--json", "--save-every", "1", "--out", out]
    command = [sys.executable, "-m", "veilkern", "train", faces, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    child = subprocess.Popen(
        list(map(str, command)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 200
    while not (tmp_path / "net.safetensors.training").exists() and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, text = child.communicate(timeout=200)
    assert child.returncode == 130 and "the same command with --resume goes on" in text, text
    assert "Traceback" not in text and (tmp_path / "net.safetensors.training").exists() and not out.exists()
