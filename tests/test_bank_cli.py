"""veilkern bank: what it says and does, as users type it; no veil or key on any screen."""

from __future__ import annotations

import io
import json
import stat
import subprocess
import sys
import warnings

import pytest
import torch
from rich.cells import cell_len

import veilkern as vk
from veilkern.cli import main
from veilkern.data.files import locked
from veilkern.veils import keyed

KEY = bytes(range(16, 48))
LONG = "日" * 70 + "-a-name-that-no-terminal-of-80-columns-holds"


def bank(names, seed=0, **change):
    veils = torch.randint(
        0, 256, (len(names), 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    records = [
        {"name": n, "status": "converged", "steps": 40 + i, "photo_ids": ["aa", "bb"]} for i, n in enumerate(names)
    ]
    values = {"records": records, "model": {"name": "net", "fingerprint": "f"}, "config": {"steps": 80}, "version": "0"}
    return vk.VeilBank(veils, list(names), 51, **(values | change))


@pytest.fixture
def run(capsys, monkeypatch):
    """Exit code, stdout and stderr of a command, through main() as the script does, on a screen of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["veilkern", "bank", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        shown = capsys.readouterr()
        assert KEY.hex() not in shown.out + shown.err and "tensor" not in shown.out + shown.err
        return end.value.code or 0, shown.out, shown.err

    return call


@pytest.fixture
def path(tmp_path):
    bank(["Ann", "Bob", LONG], key=KEY.hex(), key_id=keyed.key_id(KEY)).save(tmp_path / "bank")
    return tmp_path / "bank"


def test_list(run, path):
    code, out, _ = run("list", path)
    lines = out.splitlines()
    assert code == 0 and "3 veils of 8 x 8, blend 51/255, for net" in lines[0] and len(lines) == 5
    assert lines[1].split()[:4] == ["person", "status", "steps", "photos"]
    assert lines[4].split() == [LONG, "converged", "42", "2", "0", keyed.key_id(KEY)]  # not cut, not folded
    assert {cell_len(line[: line.index("converged")]) for line in lines[2:]} == {cell_len(LONG) + 2}  # one column
    code, out, _ = run("list", path, "--json")
    found = json.loads(out)
    assert (found["veils"], found["size"], found["blend"], found["model"]["fingerprint"]) == (3, [8, 8], 51, "f")
    assert found["people"][1] == {
        "name": "Bob", "status": "converged", "steps": 41, "photos": 2, "generation": 0, "key_id": keyed.key_id(KEY)
    }  # fmt: skip


def test_list_of_an_empty_bank_and_of_one_without_records(run, tmp_path):
    bank([]).save(tmp_path / "none")
    assert run("list", tmp_path / "none")[0] == 0
    bank(["Ann"], records=[]).save(tmp_path / "bare")
    code, out, _ = run("list", tmp_path / "bare")
    assert code == 0 and out.splitlines()[2].split() == ["Ann", "–", "–", "–", "0", "–"]


def test_show(run, path):
    code, out, _ = run("show", path, LONG)
    shown = dict(line.split(None, 1) for line in out.splitlines())
    assert code == 0 and shown["name"] == LONG and shown["photos"] == "2" and shown["steps"] == "42"
    code, out, _ = run("show", path, "Bob", "--json")
    assert json.loads(out)["name"] == "Bob" and "aa" not in out
    code, out, err = run("show", path, "Eve")
    assert code == 1 and f"{path}: no veil for Eve" in err


def test_merge(run, path, tmp_path):
    bank(["Eve"], 1, key_id="k2").save(tmp_path / "other")
    before = path.read_bytes()
    code, out, _ = run("merge", path, tmp_path / "other", "--out", tmp_path / "both")
    assert code == 0 and "4 veils in" in out and path.read_bytes() == before
    both = vk.VeilBank.load(tmp_path / "both")
    assert both.names == ["Ann", "Bob", LONG, "Eve"] and both.key_of("Ann") == KEY and both.key_of("Eve") is None
    assert torch.equal(both.veils[3:], bank(["Eve"], 1).veils)
    whole = (tmp_path / "both").read_bytes()
    code, _, err = run("merge", path, tmp_path / "other", "--out", tmp_path / "both")
    assert code == 1 and "there already" in err and (tmp_path / "both").read_bytes() == whole
    code, out, _ = run("merge", path, tmp_path / "other", "--out", path, "--overwrite")  # into one of them
    assert code == 0 and vk.VeilBank.load(path).names == both.names


def test_split(run, path, tmp_path):
    whole, parts = vk.VeilBank.load(path), [tmp_path / "parts" / f"bank-{n}" for n in (1, 2)]
    code, out, _ = run("split", path, "--people", 2, "--out", tmp_path / "parts")
    assert code == 0 and "3 veils in 2 banks" in " ".join(out.split())
    first, second = map(vk.VeilBank.load, parts)
    assert first.names == ["Ann", "Bob"] and second.names == [LONG] and torch.equal(second.veils, whole.veils[2:])
    assert [stat.S_IMODE(part.stat().st_mode) for part in parts] == [0o600, 0o600]
    assert run("merge", *parts, "--out", tmp_path / "again")[0] == 0
    again = vk.VeilBank.load(tmp_path / "again")
    assert again.names == whole.names and torch.equal(again.veils, whole.veils) and again.records == whole.records
    assert again.key_of("Ann") == KEY
    before = parts[0].read_bytes()
    code, _, words = run("split", path, "--people", 1, "--out", tmp_path / "parts")
    assert code == 1 and "there already; kept" in " ".join(words.split()) and parts[0].read_bytes() == before
    assert not (tmp_path / "parts" / "bank-3").exists()
    assert run("split", path, "--people", 1, "--out", tmp_path / "parts", "--overwrite")[0] == 0
    assert vk.VeilBank.load(tmp_path / "parts" / "bank-3").names == [LONG]
    assert vk.VeilBank.load(path).names == whole.names


def test_splits_that_cannot_be(run, path, tmp_path):
    assert run("split", path, "--people", 0, "--out", tmp_path)[0] == 2
    bank([]).save(tmp_path / "empty")
    assert "nobody is in it" in run("split", tmp_path / "empty", "--people", 1, "--out", tmp_path / "parts")[2]
    (tmp_path / "file").write_text("")
    assert run("split", path, "--people", 1, "--out", tmp_path / "file")[0] == 1
    path.rename(tmp_path / "b")
    (tmp_path / "b-1").symlink_to(tmp_path / "b")
    code, _, words = run("split", tmp_path / "b", "--people", 9, "--out", tmp_path, "--overwrite")
    assert code == 2 and "itself" in words and vk.VeilBank.load(tmp_path / "b").names[0] == "Ann"


def test_merges_that_cannot_be(run, path, tmp_path):
    bank(["Ann"], 1).save(tmp_path / "again")
    bank(["Eve"], 1, config={"steps": 5}).save(tmp_path / "other")
    for second, words in (("again", "both banks have a veil of Ann"), ("other", "differ in config: steps 80 (now 5)")):
        code, _, err = run("merge", path, tmp_path / second, "--out", tmp_path / "both")
        assert code == 1 and words in err and not (tmp_path / "both").exists()
    assert run("merge", path, "--out", tmp_path / "both")[0] == 2
    code, _, err = run("merge", path, tmp_path / "absent", "--out", tmp_path / "both")
    assert code == 1 and "no such veil file" in err


def test_remove(run, path, monkeypatch):
    before = path.read_bytes()
    for options in (["--yes"], []):  # before anything is asked
        code, out, err = run("remove", path, "Ann", "Eve", *options)
        assert code == 1 and "no veil for Eve" in err and out == "" and path.read_bytes() == before
    for answer in ("n\n", "\n", ""):
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        code, out, _ = run("remove", path, "Ann")
        assert code == 1 and "the photos that they protect are lost" in out and path.read_bytes() == before
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert run("remove", path, "Ann")[0] == 0
    code, out, _ = run("remove", path, "Bob", "Bob", "--yes")
    assert code == 0 and "1 removed, 1 veils" in out
    left = vk.VeilBank.load(path)
    assert left.names == [LONG] and left.key_of(LONG) == KEY and path.stat().st_mode & 0o777 == 0o600


def test_rename(run, path):
    assert run("rename", path, "Ann", "Zoë")[0] == 0
    found = vk.VeilBank.load(path)
    assert found.names == ["Zoë", "Bob", LONG] and found.record("Zoë")["keyed_as"] == "Ann"
    before = path.read_bytes()
    for old, new, words in (
        ("Zoë", "Bob", "has a veil of Bob already"),
        ("Eve", "x", "no veil for Eve"),
        ("Bob", "..", "plain"),
    ):
        code, _, err = run("rename", path, old, new)
        assert code == 1 and words in err and path.read_bytes() == before


def test_check(run, path, tmp_path):
    code, out, err = run("check", path)
    assert code == 0 and "in order" in out and err == ""
    bad = bank(["Ann", "ann", "Zoe\u0308", "Zoë", "even"], key=KEY.hex(), key_id="wrong")
    bad.veils[1] = bad.veils[3]
    bad.veils[4] = 7
    bad.save(path)
    path.chmod(0o644)
    words = [
        "others than its owner can read it",
        "one folder on some file systems: Ann, ann",
        "one folder on some file systems: Zoe\u0308, Zoë",
        "the same veil: ann, Zoë",
        "no veil but an even colour: even",
        "the recorded key is not that of key id wrong",
    ]
    code, out, err = run("check", path)
    assert code == 1 and "6 problems" in out and all(word in out for word in words) and err == ""
    code, out, _ = run("check", path, "--json")
    assert code == 1 and len(json.loads(out)["problems"]) == 6
    bank(["Ann"]).save(path)
    for bit in range(6):
        path.chmod(0o600 | 1 << bit)
        assert "others than its owner can read it" in run("check", path)[1]
    path.write_bytes(path.read_bytes()[:-1])
    code, _, err = run("check", path)
    assert code == 1 and "truncated" in err


def test_a_bank_that_another_is_at_work_on(run, path, monkeypatch):
    monkeypatch.setattr("veilkern.cli.bank.WAIT", 0.1)
    before = path.read_bytes()
    with locked(path):
        for command in (["remove", path, "Ann", "--yes"], ["rename", path, "Ann", "x"]):
            code, _, err = run(*command)
            assert code == 1 and "at work on it" in err and path.read_bytes() == before


@pytest.mark.thorough
@pytest.mark.process
def test_two_at_once_lose_nothing(tmp_path):
    names = [f"p{i}" for i in range(6)]
    bank(names).save(tmp_path / "bank")
    commands = [["remove", tmp_path / "bank", name, "--yes"] for name in names[:1]]
    commands += [["rename", tmp_path / "bank", name, f"new-{name}"] for name in names[1:2]]
    children = [subprocess.Popen([sys.executable, "-m", "veilkern", "bank", *map(str, c)]) for c in commands]
    assert [child.wait(timeout=120) for child in children] == [0] * 2
    assert vk.VeilBank.load(tmp_path / "bank").names == ["new-p1", "p2", "p3", "p4", "p5"]
