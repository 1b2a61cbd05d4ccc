"""The journal, and a craft that dies in every way: who is finished is on disk, and --resume ends with the same bits."""

from __future__ import annotations

import dataclasses
import os
import signal
import stat
import subprocess
import sys
import time

import pytest
import torch
from typer.testing import CliRunner

import veilkern as vk
import veilkern.data.people as people_module
from veilkern.cli import app
from veilkern.cli._target import Target
from veilkern.crafting.journal import Journal
from veilkern.data.files import locked
from veilkern.data.photos import write_png

SIDE = 16
NETWORK = """
import os, time, torch
from torch import nn

class Slow(nn.Module):
    calls = 0

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 16))

    def forward(self, x):
        assert x.numel() >= 0  # a branch: torch.fx, and so the engine, leaves the module as it is
        Slow.calls += 1
        time.sleep(float(os.environ.get("TEST_SLEEP", 0)))
        if os.environ.get("TEST_FAILS") == "memory" and Slow.calls > 26:
            raise MemoryError
        return self.net(x)

def load():
    torch.manual_seed(0)
    if os.environ.get("TEST_FAILS") == "disk":
        import errno, veilkern.crafting.stream
        from veilkern.errors import OutputError
        def full(path, *_, **__):
            raise OutputError(f"{path}: cannot be written: {os.strerror(errno.ENOSPC)}")
        veilkern.crafting.stream.atomic_write = full
    return Slow()
"""


def noise(people=6, photos=3, seed=0) -> vk.People:
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (people, photos, 3, SIDE, SIDE), generator=g, dtype=torch.uint8)
    return vk.People.from_images(list(images), [f"p{i}" for i in range(people)])


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with faces/, net.py and key; and veils.safetensors, what a craft without any trouble writes."""
    folder = tmp_path_factory.mktemp("kills")
    people = noise()
    for image, file in zip(people.images, people.files, strict=True):
        (folder / "faces" / file).parent.mkdir(parents=True, exist_ok=True)
        write_png(folder / "faces" / file, image)
    (folder / "net.py").write_text(NETWORK)
    (folder / "key").write_bytes(b"a key of more than sixteen bytes")
    (folder / "key").chmod(0o600)
    code, text = craft(folder, folder / "veils.safetensors")
    assert code == 0, text
    assert not list(folder.glob("*.journal")) and not list(folder.glob("*.tmp"))
    return folder


def arguments(folder, out, *more) -> list[str]:
    command = ["craft", folder / "faces", "--model", f"{folder / 'net.py'}:load", "--out", out, "--input-size", SIDE]
    command += ["--steps", 5, "--photos-in-flight", 2, "--no-early-stop", "--no-check"]
    if "--seed" not in more:
        command += ["--key-file", folder / "key"]
    return [str(word) for word in (*command, *more)]


def start(folder, out, *more, **environment):
    command = [sys.executable, "-m", "veilkern", *arguments(folder, out, *more)]
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def craft(folder, out, *more, **environment):
    """Exit code and everything printed."""
    child = start(folder, out, *more, **environment)
    return (text := child.communicate(timeout=100)[0]) and (child.returncode, text)


def craft_here(folder, out, *more) -> str:
    """In this process: "" when all went well, else what was wrong."""
    found = CliRunner().invoke(app, arguments(folder, out, *more))
    if found.exit_code == 0:
        return ""
    return found.output if isinstance(found.exception, SystemExit) else f"{found.exception}"


def wait_for_a_veil(child, journal) -> None:
    """Until the journal has an entry, but is not complete."""
    while not journal.exists() or journal.stat().st_size < 3000:
        assert child.poll() is None, child.communicate()[0]
        time.sleep(0.01)


@pytest.mark.parametrize("death", ["SIGKILL", "SIGTERM", "SIGINT", "memory", "disk"])
@pytest.mark.thorough
@pytest.mark.process
def test_every_way_of_dying_keeps_who_is_finished(work, tmp_path, death):
    out, journal = tmp_path / "veils.safetensors", tmp_path / "veils.safetensors.journal"
    if death.startswith("SIG"):
        child = start(work, out, TEST_SLEEP="0.03")
        wait_for_a_veil(child, journal)
        child.send_signal(getattr(signal, death))
        text = child.communicate(timeout=60)[0]
        assert child.returncode == {"SIGKILL": -9, "SIGTERM": 143, "SIGINT": 130}[death] and "Traceback" not in text
        assert death == "SIGKILL" or "--resume goes on" in text
    else:
        code, text = craft(work, out, TEST_FAILS=death)
        assert code == 1 and "Traceback" not in text
        assert {"memory": "p5: failed: out of memory", "disk": "No space left on device"}[death] in text
        assert death == "memory" or f"veils are in {journal}" in text
    if death == "memory":
        kept = vk.VeilBank.load(out).names
    else:
        assert not out.exists() and stat.S_IMODE(journal.stat().st_mode) == 0o600
        kept = list(Journal.open(journal).entries)
    if death == "disk":  # never begun anew unasked
        code, text = craft(work, out)
        assert code == 1 and "there already, with 6 finished veils" in text
    assert 0 < len(kept) < 6 or death == "disk"
    code, text = craft(work, out, "--resume")
    assert code == 0, text
    assert out.read_bytes() == (work / "veils.safetensors").read_bytes()
    assert {p.name for p in tmp_path.iterdir() if p.suffix != ".lock"} == {out.name}


@pytest.mark.process
def test_a_second_craft_on_the_same_bank_is_refused_at_once(work, tmp_path):
    out = tmp_path / "veils"
    with locked(out):
        code, text = craft(work, out, "--resume")
    assert code == 1 and "at work on it" in text and not out.exists()


@pytest.mark.thorough
@pytest.mark.process
def test_two_resumes_at_once_lose_nobody(work, tmp_path):
    out = tmp_path / "veils"
    children = [start(work, out, "--resume", TEST_SLEEP="0.01") for _ in range(2)]
    texts = [child.communicate(timeout=100)[0] for child in children]
    codes = sorted(child.returncode for child in children)
    assert codes in ([0, 0], [0, 1]) and "at work on it" in "".join(texts)
    assert out.read_bytes() == (work / "veils.safetensors").read_bytes()


@pytest.mark.parametrize(
    "options,foreign,joined",
    [
        (["--resume"], False, True),
        ([], False, True),
        (["--overwrite"], False, False),
        ([], True, False),
        (["--resume"], True, False),
    ],
)
def test_a_bank_that_appears_meanwhile(work, tmp_path, small_bank, monkeypatch, options, foreign, joined):
    """Whoever another program adds is kept; a bank that the veils cannot be joined to stays, and so do the veils."""
    whole, out = vk.VeilBank.load(work / "veils.safetensors"), tmp_path / "veils.safetensors"
    someone = dataclasses.replace(whole.take(["p0"]), names=["someone"])
    appeared = small_bank if foreign else someone.join(dataclasses.replace(whole.take(["p1"]), names=["another"]))
    if options:
        someone.save(out)
    real = Target.save

    def save(self, made):
        appeared.save(out)
        self.journal.unlink()  # somebody tidies up: it is not needed any more
        return real(self, made)

    monkeypatch.setattr(Target, "save", save)
    text = craft_here(work, out, *options)
    if joined:
        assert text == ""
        found = vk.VeilBank.load(out)
        assert set(found.names) == {*whole.names, "someone", "another"}
    else:
        assert "it stays" in text and vk.VeilBank.load(out).names == appeared.names
        found = vk.VeilBank.load(tmp_path / "veils.crafted-1.safetensors")
    assert torch.equal(found.take(whole.names).veils, whole.veils)
    assert not list(tmp_path.glob("*.journal"))


def test_a_bank_and_a_journal_with_the_same_people(work, tmp_path):
    """What an --overwrite that was killed leaves."""
    out = tmp_path / "veils.safetensors"
    whole = vk.VeilBank.load(work / "veils.safetensors")
    whole.save(out)
    begun = Journal.create(tmp_path / "veils.safetensors.journal", header_of(whole))
    begun.append(whole.records[2], whole.veils[2])
    assert "both have a veil of p2" in craft_here(work, out, "--resume")
    assert craft_here(work, out, "--resume", "--overwrite") == ""
    assert out.read_bytes() == (work / "veils.safetensors").read_bytes() and not begun.path.exists()
    begun = Journal.create(begun.path, header_of(whole))
    begun.append({**whole.records[2], "name": "gone"}, whole.veils[2])
    assert "has a veil of gone" in craft_here(work, tmp_path / "veils.safetensors", "--resume", "--overwrite")


def header_of(bank: vk.VeilBank) -> dict:
    model = {"network": bank.model["name"], "fingerprint": bank.model["fingerprint"]}
    return model | {"size": list(bank.size), "config": bank.config, "key_id": bank.key_id, "key": bank.key}


def test_resume_refuses_what_differs_before_any_work(work, tmp_path, monkeypatch):
    other_key = tmp_path / "key"
    other_key.write_bytes(b"another key of sixteen bytes or more")
    other_key.chmod(0o600)
    other_net = tmp_path / "net.py"
    other_net.write_text(NETWORK.replace("manual_seed(0)", "manual_seed(1)"))
    bank, begun = tmp_path / "bank", tmp_path / "begun"
    bank.write_bytes((work / "veils.safetensors").read_bytes())
    whole = vk.VeilBank.load(bank)
    Journal.create(tmp_path / "begun.journal", header_of(whole)).append(whole.records[0], whole.veils[0])
    before = (tmp_path / "begun.journal").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(vk, "read_people", lambda *_, **__: pytest.fail("work was done"))
        for options, words in (
            (["--lam", 0.5, "--steps", 6], "(now 0.5), steps 5 (now 6)"),
            (["--key-file", other_key], "key id"),
            (["--seed", 3], "key id"),
            (["--model", f"{other_net}:load"], "another network net:load"),
            (["--input-mean", 0.5], "another network net:load"),
            (["--input-size", 24], "photo size [16, 16] (now [24, 24])"),
        ):
            for out in (bank, begun):
                assert words in craft_here(work, out, "--resume", *options)
    assert (tmp_path / "begun.journal").read_bytes() == before
    alike = ["--patience", 3, "--photos-in-flight", 5, "--stop-distance", 0.1, "--early-stop"]
    assert craft_here(work, bank, "--resume", *alike) == ""


def test_resume_without_a_key_file(work, tmp_path):
    """A recorded key is used again, whether fresh or from a seed; a key of one's own is asked for."""
    out = tmp_path / "veils.safetensors"
    plain = [word for word in arguments(work, out) if word not in ("--key-file", str(work / "key"))]
    few = tmp_path / "faces"
    few.mkdir()
    for name in ("p0", "p1"):
        (few / name).symlink_to(work / "faces" / name)
    for options, recorded in (([], True), (["--seed", "5"], False)):
        out.unlink(missing_ok=True)
        assert CliRunner().invoke(app, ["craft", str(few), *plain[2:], *options]).exit_code == 0
        first = vk.VeilBank.load(out)
        assert bool(first.key) is recorded
        assert CliRunner().invoke(app, [*plain, "--resume"]).exit_code == 0
        both = vk.VeilBank.load(out)
        assert (both.key_id, both.key, both.config) == (first.key_id, first.key, first.config) and len(both) == 6
    out.write_bytes((work / "veils.safetensors").read_bytes())
    found = CliRunner().invoke(app, [*plain, "--resume"])
    assert found.exit_code and "crafted with a key of your own" in f"{found.exception}"


def test_rotate(work, tmp_path):
    old, new = work / "veils.safetensors", tmp_path / "new"
    before = old.read_bytes()
    assert craft_here(work, new, "--veils", old, "--rotate", "p1", "--rotate", "p4") == ""
    a, b = vk.VeilBank.load(old), vk.VeilBank.load(new)
    assert b.names == a.names and b.generations == [0, 1, 0, 0, 1, 0] and b.key_ids == a.key_ids
    differ = (a.veils != b.veils).flatten(1).double().mean(1)
    assert [bool(d > 0.5) for d in differ] == [False, True, False, False, True, False] and differ[0] == 0
    assert craft_here(work, tmp_path / "newer", "--veils", new, "--rotate-all") == ""
    assert vk.VeilBank.load(tmp_path / "newer").generations == [1, 2, 1, 1, 2, 1]
    assert "--out must be another file" in craft_here(work, old, "--veils", old, "--rotate-all", "--overwrite")
    assert "needs --veils" in craft_here(work, tmp_path / "x", "--rotate", "p1")
    assert "no veil in" in craft_here(work, tmp_path / "x", "--veils", old, "--rotate", "nobody")
    assert "there already" in craft_here(work, new, "--veils", old, "--rotate", "p1", "--resume")
    assert old.read_bytes() == before


def test_a_name_that_is_free_again_starts_from_other_noise(work, tmp_path):
    """Who was p1 is zed now; whoever comes as p1 next, or rotates, has a generation of its own."""
    bank = tmp_path / "bank"
    bank.write_bytes((work / "veils.safetensors").read_bytes())
    vk.update_bank(bank, lambda old: old.rename({"p1": "zed"}))
    assert craft_here(work, bank, "--resume") == ""
    after = vk.VeilBank.load(bank)
    assert after.record("p1")["generation"] == 1 and after.next_generations()["p1"] == 2
    zed, new = (after.veils[after.rows(name)[0]].double().flatten() - 127.5 for name in ("zed", "p1"))
    assert abs(torch.corrcoef(torch.stack([zed, new]))[0, 1]) < 0.2


def test_the_command_reads_a_person_when_her_turn_comes(work, tmp_path, monkeypatch):
    """A folder larger than memory: veils are in the journal long before the last photo is read."""
    out, done = tmp_path / "veils", []
    real = people_module.read_person

    def read(person, *rest):
        journal = tmp_path / "veils.journal"
        done.append(len(Journal.open(journal).entries) if journal.exists() else 0)
        return real(person, *rest)

    monkeypatch.setattr(people_module, "read_person", read)
    assert craft_here(work, out, "--photos-in-flight", 1, "--no-check") == ""
    # Of six persons the one that is crafted and the one that did not fit any more are read.
    assert done == [0, 0, 1, 2, 3, 4]


@pytest.mark.parametrize("flags", ([], ["--json"]))
def test_an_empty_folder_is_no_success(tmp_path, flags):
    (tmp_path / "faces").mkdir()
    (tmp_path / "net.py").write_text(NETWORK)
    text = craft_here(tmp_path, tmp_path / "out", "--seed", 1, *flags)
    assert "no person's folder" in text and not (tmp_path / "out").exists()


@pytest.mark.process
def test_an_interrupted_command_counts_everybody(work, tmp_path):
    out = tmp_path / "veils"
    child = start(work, out, "--photos-in-flight", "1", TEST_SLEEP="0.03")
    wait_for_a_veil(child, tmp_path / "veils.journal")
    child.send_signal(signal.SIGINT)
    assert " of 6 veils finished" in child.communicate(timeout=60)[0] and child.returncode == 130


def test_a_key_that_no_veil_came_of_goes(tmp_path):
    """All photos are bad; the key would be a stray secret."""
    for name in ("a", "b"):
        (tmp_path / "faces" / name).mkdir(parents=True)
        (tmp_path / "faces" / name / "x.png").write_bytes(b"noise")
    (tmp_path / "net.py").write_text(NETWORK)
    words = ["craft", tmp_path / "faces", "--model", f"{tmp_path}/net.py:load", "--scheme", "sealed"]
    words += ["--out", tmp_path / "v", "--input-size", SIDE]
    found = CliRunner().invoke(app, [str(word) for word in words])
    assert found.exit_code != 0 and "no usable photo" in found.output + str(found.exception)
    assert not {path.name for path in tmp_path.iterdir() if path.suffix != ".lock"} - {"faces", "net.py"}
