"""The command line as users type it.

Every command is started once as a process of its own; what else there is to ask of it is asked in this process.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import stat
import subprocess
import sys
import time
import warnings

import pytest
import torch
import typer
from helpers import threads
from typer.testing import CliRunner

import veilkern as vk
from veilkern.__main__ import main
from veilkern.cli import COMMANDS, app, build
from veilkern.data.photos import write_png

NET = "veilkern.samples:load_model"


def run(*arguments):
    """Exit code and everything printed, through main() as the script does, in this process."""
    out, errors, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["veilkern", *map(str, arguments)]
    try:
        with warnings.catch_warnings(), threads(torch.get_num_threads()):
            warnings.simplefilter("default", UserWarning)  # noted, as where pytest makes no errors of them
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as end:
                main()
    finally:
        sys.argv = before
    return end.value.code, out.getvalue() + errors.getvalue()


def started(*arguments):
    """The same by a process of its own."""
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
    words = ("--model", NET, "--out", veils, "--steps", 20, "--held-out", 2, "--seed", 1)
    code, text = started("craft", faces, *words)
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
    code, text = started("protect", faces, "--veils", veils, "--out", tmp_path / "hidden", "--lossless")
    assert code == 0 and "24 photos protected" in text, text
    code, text = started("recover", tmp_path / "hidden", "--veils", veils, "--out", tmp_path / "back")
    assert code == 0 and "24 photos recovered" in text, text
    assert (vk.read_people(tmp_path / "back").images == people.images).all()
    code, text = started(
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


@pytest.mark.thorough
def test_add_crafts_as_the_bank_was_crafted(faces, tmp_path, people):
    """Its network, key and every option, but for those that are given; who has a veil is left alone."""
    few, out, model = tmp_path / "few", tmp_path / "veils", ("--model", NET)
    few.mkdir()
    (few / people.names[0]).symlink_to(faces / people.names[0])
    made = ("--scheme", "sealed", "--robust", "none", "--steps", 3, "--mu", 0.02, "--no-check")
    code, text = run("craft", few, *model, "--out", out, "--add", *made)
    assert code == 1 and "no bank there to add to" in text and not out.exists()
    assert run("craft", few, *model, "--out", out, *made)[0] == 0
    before = vk.VeilBank.load(out)
    code, text = run("craft", faces, *model, "--out", out, "--add", "--no-check")
    assert code == 0, text
    bank = vk.VeilBank.load(out)
    assert bank.names == people.names and torch.equal(bank.veils[0], before.veils[0])
    assert bank.config["steps"] == 3 and bank.config["mu"] == 0.02 and bank.key_ids == before.key_ids * len(people)
    config = vk.CraftConfig(**before.config)
    key = vk.read_key(tmp_path / "veils.key")
    assert torch.equal(bank.veils, vk.craft(vk.FaceModel.load(NET), people, config, key=key, progress=False).bank.veils)
    code, text = run("craft", faces, *model, "--out", out, "--add", "--no-check")
    assert code == 0 and "has a veil" in text
    code, text = run("craft", faces, *model, "--out", out, "--add", "--steps", 4)
    assert code == 1 and "crafted with another steps 3 (now 4)" in text
    assert run("craft", faces, *model, "--out", out, "--add", "--overwrite")[0] == 2


@pytest.mark.thorough
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
    assert code == 0 and "can be read by others" not in text, text
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
    code, text = started("protect", root, "--veils", tmp_path / "v", "--out", tmp_path / "hidden")
    assert code == 1 and "6 photos protected" in text and "bad.jpg" in text


def test_names_are_printed_as_they_are(tmp_path, small_bank):
    """Neither as markup nor as pictures: rich knows [red] and :b: by heart."""
    small_bank.save(tmp_path / "v")
    for name in ("a:b:c", "[red]x", "[/]", ":smile:"):
        code, text = run("protect", tmp_path / name, "--veils", tmp_path / "v", "--out", tmp_path / "out")
        assert code == 1 and f"{name}: not a folder" in text, text


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
    code, text = (started if words == "no such file" else run)(*[places.get(a, a) for a in arguments])
    assert code == 1 and words in text and "Traceback" not in text


@pytest.mark.thorough
def test_input_options_reach_the_network(crafted, faces, tmp_path):
    veils, _ = crafted
    code, text = run("evaluate", faces, "--model", NET, "--veils", veils, "--out", tmp_path / "r", "--input-mean", "a")
    assert code == 2 and "wanted one number or three" in text


@pytest.mark.thorough
def test_ctrl_c_before_anybody_is_finished(faces, tmp_path):
    """A real SIGINT: exit code 130 and nothing left. What is kept of who is finished: test_journal.py."""
    out = tmp_path / "veils.safetensors"
    options = ["--model", NET, "--out", out, "--steps", 3000, "--no-early-stop", "--no-check"]
    command = [sys.executable, "-m", "veilkern", "craft", faces, *options]
    child = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "veils.safetensors.journal").exists():
        assert child.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    text = "".join(child.communicate(timeout=60))
    assert child.returncode == 130 and "interrupted with 0 of 4 veils" in text and "Traceback" not in text
    assert not [p for p in tmp_path.iterdir() if p.suffix != ".lock"]


@pytest.mark.thorough
def test_a_key_file_that_others_can_read_is_noted(faces, tmp_path):
    key = tmp_path / "key"
    key.write_bytes(b"0123456789abcdef0123")
    key.chmod(0o640)
    options = ("--model", NET, "--steps", 1, "--no-check", "--key-file", key, "--out", tmp_path / "veils")
    code, text = started("craft", faces, *options)
    assert code == 0 and "note" in text and "can be read by others" in text


@pytest.mark.thorough
def test_the_network_is_checked_first(faces, tmp_path):
    """A network that tells nobody apart is refused before the craft, unless --no-check says otherwise."""
    blind = tmp_path / "net.py"
    blind.write_text(
        "import torch\n"
        "class Blind(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        sums = x[:, :, ::16, ::16].flatten(1)\n"
        "        return torch.sin(1e4 * sums)\n"
        "def load():\n"
        "    return Blind()\n"
    )
    options = ("craft", faces, "--model", f"{blind}:load", "--steps", 1, "--out", tmp_path / "veils")
    code, text = run(*options)
    assert code == 1 and "does not tell these people apart" in text and not (tmp_path / "veils").exists()
    assert not (tmp_path / "veils.journal").exists()
    assert run(*options, "--no-check")[0] == 0 and (tmp_path / "veils").exists()


def test_input_options_of_craft_reach_the_network(faces, tmp_path):
    """The fingerprint in the bank covers the network's stated input."""
    options = ["--input-bgr", "--input-mean", "0.5,0.4,0.3", "--input-std", "0.25", "--input-range", "255"]
    out = tmp_path / "veils"
    code, text = run("craft", faces, "--model", NET, "--steps", 1, "--no-check", "--out", out, *options, "--threads", 1)
    assert code == 0, text
    stated = {"bgr": True, "mean": (0.5, 0.4, 0.3), "std": (0.25,) * 3, "value_range": 255}
    found = vk.VeilBank.load(out).model["fingerprint"]
    assert found == vk.FaceModel.load(NET, **stated).fingerprint
    for name in stated:
        others = {n: value for n, value in stated.items() if n != name}
        assert found != vk.FaceModel.load(NET, **others).fingerprint, name


def test_long_names_and_statuses_are_never_cut(tmp_path, monkeypatch, capsys):
    from rich.console import Console

    from veilkern.cli import craft as command

    monkeypatch.setattr(command, "console", Console(width=80))
    name, status = "a person with a long name, " * 3, "failed: the network said a lot about why it did not work " * 3
    figures = {"feature_distance": 0.123, "cosine": 0.987, "held_out": {"cosine": 0.765, "rank1": 0.5}}
    report = [{"name": name, "photos": 10, "status": status, "steps": 80, **figures}]
    bank = vk.VeilBank(torch.zeros((1, 3, 4, 4), dtype=torch.uint8), ["x"], 51)
    command._print_craft(vk.CraftResult(bank, report), "1 veils", tmp_path, 1.0, False)
    text = capsys.readouterr().out
    assert "…" not in text and all(figure in text for figure in ("0.123", "0.987", "0.765", "0.500", "80"))
    letters = "".join(c for c in text if c.isalpha())
    assert all(len(line) <= 80 for line in text.splitlines())
    for word in {*name.split(), *status.split()}:
        assert letters.count("".join(c for c in word if c.isalpha())) >= 1, word


def without_torch(*arguments) -> str:
    """What is printed, by a process that must not import torch."""
    script = (
        "import sys\n"
        f"sys.argv = ['veilkern', *{list(arguments)!r}]\n"
        "from veilkern.__main__ import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    assert 'torch' not in sys.modules and 'typer' in sys.modules, 'imports torch'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
    )
    assert "Error" not in done.stderr, done.stderr
    return done.stdout


def test_version_and_help_do_not_wait_for_torch():
    assert without_torch("--version") == f"veilkern {vk.__version__}\n"
    text = without_torch("--help")
    assert all(name in text for name in COMMANDS)
    assert "--photos-per-step" in without_torch("craft", "--help")


def test_the_list_of_commands_is_that_of_their_files():
    whole = typer.main.get_command(app).commands
    listed = typer.main.get_command(build([])).commands
    assert set(whole) == set(listed) == set(COMMANDS)
    for name in COMMANDS:
        assert whole[name].get_short_help_str(200) == listed[name].get_short_help_str(200)


def test_info_help_and_demo(tmp_path):
    code, text = started("info")
    assert code == 0 and "cpu" in text and "reference" in text and "cuda" in text
    shown = CliRunner().invoke(app, ["craft", "--help"], env={"COLUMNS": "200"})
    import re

    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown.output)
    for field in vk.CraftConfig().as_dict():
        assert f"--{field.replace('_', '-')}" in plain, field
    code, text = started("demo", "--out", tmp_path / "demo")
    assert code == 0 and text.count("MSR rank-1") >= 2 and "blend/report.html" in text and "side_by_side.png" in text
    job = {"protected", "recovered", "veils.safetensors", "report.html", "report.json", "contact_sheet.png"}
    key = "veils.safetensors.key"
    found = {p.name for p in (tmp_path / "demo").glob("[!.]*")}
    assert found == job | {"faces", "blend", "side_by_side.png", key}
    assert {p.name for p in (tmp_path / "demo" / "blend").glob("[!.]*")} == job
    assert (tmp_path / "demo" / key).stat().st_mode & 0o777 == 0o600
    leaks = [float(value) for value in re.findall(r"SSIM with the originals (-?[0-9.]+)", text)]
    assert leaks[0] < 0.1 < 0.4 < leaks[1]  # sealed, then blended
