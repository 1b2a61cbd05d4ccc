"""What the command line says of itself: help, shell completion, man pages."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import typer

import veilkern as vk
from veilkern import cli
from veilkern.cli._manual import MANUALS

ROOT = Path(__file__).parents[1]
NAMES = ["Ada", "Adele", "Bo b", "A$(touch x)", "Ad;a", "Zoë"]


@pytest.fixture(scope="module")
def commands():
    return typer.main.get_command(cli.app)


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "b.safetensors"
    veils = torch.randint(0, 256, (len(NAMES), 3, 16, 16), dtype=torch.uint8)
    vk.VeilBank(veils, NAMES, 51).save(path)
    return path


@pytest.fixture
def complete(monkeypatch, capsys):
    """What bash is answered on TAB at the end of a line."""

    def words(line: str, shell: str = "bash") -> tuple[list[str], int]:
        last = line.rpartition(" ")[2]
        count = len(line.split()) - bool(last)
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(count))
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
        monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
        monkeypatch.setenv("_VEILKERN_COMPLETE", f"complete_{shell}")
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return said.out.split("\n")[:-1] if said.out.strip() else [], end.value.code

    return words


def test_commands_and_options_complete(complete):
    assert complete("veilkern b")[0] == ["bank"]
    assert set(complete("veilkern ")[0]) == set(cli.COMMANDS)
    assert complete("veilkern bank re")[0] == ["remove", "rename"]
    assert complete("veilkern craft faces --photos-")[0] == ["--photos-per-step", "--photos-in-flight"]


def test_persons_of_a_bank_complete_where_one_is_wanted(complete, bank):
    """Only names that a shell takes for a word: the others could be commands to it."""
    assert complete(f"veilkern bank show {bank} A")[0] == ["Ada", "Adele"]
    assert complete(f"veilkern bank remove {bank} Ada ")[0] == ["Ada", "Adele", "Zoë"]
    assert complete(f"veilkern bank rename {bank} Z")[0] == ["Zoë"]
    assert complete(f"veilkern craft faces --veils {bank} --rotate Ade")[0] == ["Adele"]
    assert complete(f"veilkern bank show {bank} Ad", "fish")[0] == ["Ada", "Adele"]
    assert "".join(complete(f"veilkern bank show {bank} Ad", "zsh")[0]) == '_arguments \'*: :(("Ada""Adele"))\''


@pytest.mark.parametrize("name", ["missing.safetensors", "damaged.safetensors", "folder"])
def test_completion_is_silent_where_there_is_no_bank(complete, tmp_path, name):
    (tmp_path / "damaged.safetensors").write_bytes(b"\xff" * 100)
    (tmp_path / "folder").mkdir()
    assert complete(f"veilkern bank show {tmp_path / name} A") == ([], 1)
    assert complete("veilkern craft faces --rotate A")[0] == []
    assert complete("veilkern bank show 'half a quote")[0] == []


def test_every_command_has_its_manual(commands):
    assert set(MANUALS) == {"", *cli.COMMANDS} == {"", *commands.commands}


def test_every_example_is_a_command_with_options_that_exist(commands):
    for manual in MANUALS.values():
        assert manual.examples
        for example in manual.examples:
            words = shlex.split(example)
            words = words[words.index("veilkern") + 1 :]
            command = commands
            while words and words[0] in getattr(command, "commands", ()):
                command = command.commands[words.pop(0)]
            known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
            assert {word for word in words if word.startswith("--")} <= known, example


@pytest.mark.parametrize("command", ["", *cli.COMMANDS])
def test_help_tells_examples_exit_codes_and_files(command, commands, capsys):
    with pytest.raises(SystemExit) as end:
        cli.app([command, "--help"] if command else ["--help"], prog_name="veilkern")
    text = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0 and "Usage: veilkern" in text and "Exit codes 0 All was done" in text
    example, meaning = next(iter(MANUALS[command].examples.items()))
    assert f"{example} # {meaning}" in text
    assert ("Environment" in text) == (command in ("", "serve"))
    assert ("Files" in text) == bool(MANUALS[command].files)


def test_man_pages(tmp_path):
    """One a command, as roff takes them, every option in them."""
    spec = importlib.util.spec_from_file_location("release_man", ROOT / "release" / "man.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(tmp_path / "man1")
    pages = {path.stem: path.read_text() for path in (tmp_path / "man1").glob("*.1")}
    assert {"veilkern", *(f"veilkern-{name}" for name in cli.COMMANDS), "veilkern-bank-show"} <= set(pages)
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXAMPLES", "EXIT STATUS", "ENVIRONMENT", "FILES"):
        assert f"\n.SH {section}\n" in pages["veilkern-craft"]
    assert (
        "\\fB\\-\\-photos\\-per\\-step\\fR" in pages["veilkern-craft"] and "VEILKERN_TOKEN" in pages["veilkern-serve"]
    )
    if shutil.which("groff"):
        for name in pages:
            command = ["groff", "-man", "-Tutf8", "-Kutf8", "-ww", str(tmp_path / "man1" / f"{name}.1")]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            assert done.returncode == 0 and not done.stderr, done.stderr
