"""veilkern craft --scheme sealed: the key is on the disk before the veils, beside the bank, never replaced."""

from __future__ import annotations

import re
import stat

import pytest
import torch
from craft_cases import KEY, people_of
from typer.testing import CliRunner

import veilkern as vk
from veilkern.cli import app
from veilkern.data.photos import write_png
from veilkern.errors import OutputError
from veilkern.veils import keyed


@pytest.fixture
def work(tmp_path):
    """faces/ with three persons, and net.py."""
    people = people_of([2, 2, 2], 16)
    for image, file in zip(people.images, people.files, strict=True):
        (tmp_path / "faces" / file).parent.mkdir(parents=True, exist_ok=True)
        write_png(tmp_path / "faces" / file, image)
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\ndef load():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(768, 8))\n"
    )
    return tmp_path


def craft(work, out, *more, scheme="sealed"):
    """Exit code, and everything printed or raised."""
    words = ["craft", work / "faces", "--model", f"{work / 'net.py'}:load", "--out", work / out, "--input-size", 16]
    words += ["--scheme", scheme, "--steps", 3, "--no-check", *more]
    found = CliRunner().invoke(app, [str(word) for word in words])
    error = found.exception
    text = found.output if error is None or isinstance(error, SystemExit) else f"{found.output}{error}"
    return found.exit_code, " ".join(text.split())


def test_a_key_file_is_made_beside_the_bank(work):
    code, text = craft(work, "veils")
    path, bank = work / "veils.key", vk.VeilBank.load(work / "veils")
    assert code == 0, text
    key = path.read_bytes()
    assert len(key) == 32 and stat.S_IMODE(path.stat().st_mode) == 0o600 and str(path) in text
    assert vk.read_key(path) == key and bank.key_id == keyed.key_id(key) and bank.scheme == "sealed"
    assert key not in (work / "veils").read_bytes() and key.hex() not in text
    assert bank.config["robust"] == "mild"
    # The next craft there reads it, and never writes it.
    code, text = craft(work, "veils", "--overwrite")
    assert code == 0 and f"that in {path}" in text and path.read_bytes() == key
    assert torch.equal(vk.VeilBank.load(work / "veils").veils, bank.veils)
    few = vk.VeilBank.load(work / "veils").take(bank.names[:2])
    few.save(work / "veils")
    code, text = craft(work, "veils", "--resume")
    assert code == 0 and torch.equal(vk.VeilBank.load(work / "veils").veils, bank.veils), text
    assert path.read_bytes() == key


def test_the_key_is_on_the_disk_before_the_craft_begins(work, monkeypatch):
    seen = []

    def craft_nothing(network, config, key, *_):
        seen.append((work / "veils.key").read_bytes() == key)
        raise RuntimeError("stop")

    monkeypatch.setattr("veilkern.crafting.stream.streaming", craft_nothing)
    assert craft(work, "veils")[0] != 0 and seen == [True]
    assert not (work / "veils.key").exists()  # nothing came of it
    monkeypatch.undo()
    assert craft(work, "veils")[0] == 0 and vk.read_key(work / "veils.key")


def test_a_key_file_of_ones_own_or_a_blend_makes_none(work):
    (work / "own").write_bytes(KEY)
    (work / "own").chmod(0o600)
    assert craft(work, "a", "--key-file", work / "own")[0] == 0 and not (work / "a.key").exists()
    assert vk.VeilBank.load(work / "a").key_id == keyed.key_id(KEY)
    assert craft(work, "b", scheme="blend")[0] == 0 and not (work / "b.key").exists()
    few = vk.VeilBank.load(work / "a").take([0])
    few.save(work / "a")
    code, text = craft(work, "a", "--resume")
    assert code != 0 and "crafted with a key of your own" in text and not (work / "a.key").exists()


def test_a_seed_makes_the_key_of_the_file(work):
    assert craft(work, "a", "--seed", 5)[0] == 0
    key = vk.read_key(work / "a.key")
    assert vk.VeilBank.load(work / "a").key_id == keyed.key_id(key)
    code, text = craft(work, "a", "--seed", 6, "--overwrite")
    assert code != 0 and "holds another key" in text and vk.read_key(work / "a.key") == key


def test_rotating_takes_the_key_along(work):
    assert craft(work, "old")[0] == 0
    code, text = craft(work, "new", "--veils", work / "old", "--rotate-all")
    assert code == 0, text
    old, new = vk.VeilBank.load(work / "old"), vk.VeilBank.load(work / "new")
    assert (work / "new.key").read_bytes() == (work / "old.key").read_bytes()
    assert new.key_id == old.key_id and new.generations == [1, 1, 1] and not torch.equal(new.veils, old.veils)
    code, text = craft(work, "newer", "--veils", work / "old", "--rotate-all", scheme="blend")
    assert code != 0 and re.search(r"scheme sealed \(now blend\)|key of your own", text)


def test_rotating_crafts_as_before(work):
    """Scheme, steps and all else are those of the bank, but for what is asked for."""
    assert craft(work, "old", "--levels", 32, "--robust", "none")[0] == 0
    command = ["craft", work / "faces", "--model", f"{work / 'net.py'}:load", "--input-size", 16, "--no-check"]
    command += ["--veils", work / "old", "--rotate", vk.VeilBank.load(work / "old").names[1]]
    done = CliRunner().invoke(app, [*map(str, command), "--out", str(work / "new")])
    assert done.exit_code == 0, (done.output, done.exception)
    old, new = vk.VeilBank.load(work / "old"), vk.VeilBank.load(work / "new")
    assert new.config == old.config and new.levels == 32 and new.generations == [0, 1, 0]
    done = CliRunner().invoke(app, [*map(str, command), "--out", str(work / "newer"), "--steps", "4"])
    assert isinstance(done.exception, ValueError) and "steps 3 (now 4)" in str(done.exception)
    assert "scheme" not in str(done.exception)


def test_the_bank_that_is_written_beside_has_its_key_too(work, small_bank, monkeypatch):
    from veilkern.cli._target import Target

    real = Target.save

    def save(self, made):
        small_bank.save(work / "veils")
        return real(self, made)

    monkeypatch.setattr(Target, "save", save)
    code, text = craft(work, "veils")
    assert code == 1 and "it stays" in text
    written = work / "veils.crafted-1"
    key = vk.read_key(work / f"{written.name}.key")
    assert vk.VeilBank.load(written).key_id == keyed.key_id(key)


def test_a_key_that_nobody_can_put_there_ends_it_before_any_work(work, monkeypatch):
    monkeypatch.setattr("veilkern.crafting.stream.streaming", lambda *_, **__: pytest.fail("work was done"))

    def full(path, *_, **__):
        raise OutputError(f"{path}: cannot be written: No space left on device")

    monkeypatch.setattr("veilkern.cli._key.atomic_write", full)
    code, text = craft(work, "veils")
    assert code != 0 and "veils.key: cannot be written" in text
