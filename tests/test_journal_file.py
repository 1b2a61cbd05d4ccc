"""The journal's file: it reads back, keeps what is whole however it was cut or damaged, and fills no place twice."""

from __future__ import annotations

import errno
import os
import stat
from types import SimpleNamespace

import pytest
import torch

from veilkern.crafting.journal import Journal
from veilkern.errors import BankError, OutputError

SIDE = 16
HEADER = {"size": [SIDE, SIDE], "key": "", "key_id": "", "config": {}}


def filled(path, people=4) -> tuple[Journal, list[bytes]]:
    """A journal of so many persons, and the file after the header and after each of them."""
    journal = Journal.create(path, HEADER)
    states = [path.read_bytes()]
    for i in range(people):
        journal.append({"name": f"p{i}", "n": i}, torch.full((3, SIDE, SIDE), i, dtype=torch.uint8))
        states.append(path.read_bytes())
    return journal, states


def test_a_journal_reads_back(tmp_path):
    filled(tmp_path / "j")
    assert stat.S_IMODE((tmp_path / "j").stat().st_mode) == 0o600
    found = Journal.open(tmp_path / "j")
    assert found.header == HEADER and not found.problems and list(found.entries) == ["p0", "p1", "p2", "p3"]
    record, veil = found.entries["p2"], found.veil("p2")
    assert record == {"name": "p2", "n": 2} and bool((veil == 2).all()) and veil.shape == (3, SIDE, SIDE)
    with pytest.raises(OutputError, match="there already"):
        Journal.create(tmp_path / "j", HEADER)


def test_a_veil_that_is_no_longer_where_it_was_is_refused(tmp_path):
    path = tmp_path / "j"
    journal, states = filled(path)
    damaged = bytearray(states[-1])
    damaged[len(states[2]) + 200] ^= 1
    path.write_bytes(damaged)
    assert bool((journal.veil("p1") == 1).all())
    with pytest.raises(BankError, match="changed while it was in use: the veil of p2"):
        journal.veil("p2")
    swapped = states[2][: len(states[0])] + states[2][len(states[1]) :] + states[1][len(states[0]) :]
    path.write_bytes(swapped)
    with pytest.raises(BankError, match="the veil of p0"):
        journal.veil("p0")
    path.write_bytes(states[-1])
    path.unlink()  # by somebody who tidies up
    assert [int(journal.veil(f"p{i}").max()) for i in range(3)] == [0, 1, 2]
    journal._file = SimpleNamespace(seek=lambda place: path.stat())  # fails as a disk does
    with pytest.raises(BankError, match="cannot be read"):
        journal.veil("p0")


def test_cut_anywhere_a_journal_keeps_what_is_whole(tmp_path):
    path = tmp_path / "j"
    _, states = filled(path)
    whole = states[-1]
    for length in range(len(states[0]), len(whole), 97):
        path.write_bytes(whole[:length])
        found = Journal.open(path)
        count = sum(len(state) <= length for state in states[1:])
        assert len(found.entries) == count and not found.problems
        found.append({"name": "new"}, torch.zeros(3, SIDE, SIDE, dtype=torch.uint8))
        again = Journal.open(path)
        assert [*again.entries] == [*[f"p{i}" for i in range(count)], "new"] and not again.problems
    for length in range(len(states[0])):
        path.write_bytes(whole[:length])
        with pytest.raises(BankError, match="not a journal of veilkern, or its beginning is damaged"):
            Journal.open(path)


def test_what_a_death_left_of_a_part_goes_with_the_next(tmp_path):
    """However long it is: the next part lies where it began, and nothing of it lies behind."""
    for left in (1, 40, 5000):
        path = tmp_path / f"journal-{left}"
        _, states = filled(path, 2)
        path.write_bytes(states[2] + b"\x55" * left)
        journal = Journal.take_up(path, True)
        journal.append({"name": "p2"}, torch.full((3, SIDE, SIDE), 2, dtype=torch.uint8))
        again = Journal.take_up(path, True)
        assert list(again.entries) == ["p0", "p1", "p2"] and again.problems == []


def test_damage_costs_the_entry_it_is_in(tmp_path):
    path = tmp_path / "j"
    _, states = filled(path)
    for place in range(len(states[0]), len(states[-1]), 61):
        damaged = bytearray(states[-1])
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        found = Journal.open(path)
        hit = sum(len(state) <= place for state in states) - 1
        assert list(found.entries) == [f"p{i}" for i in range(4) if i != hit]
        # Damage to the mark or the length of the last entry cannot be told from one that was cut short.
        assert len(found.problems) == 1 or hit == 3
        assert all("is damaged; its person is crafted again" in problem for problem in found.problems)
        found.append({"name": "new"}, torch.zeros(3, SIDE, SIDE, dtype=torch.uint8))
        assert "new" in Journal.open(path).entries


def test_a_header_of_another_version_or_kind(tmp_path, monkeypatch):
    path = tmp_path / "j"
    monkeypatch.setattr("veilkern.crafting.journal.FORMAT_VERSION", 2)
    Journal.create(path, HEADER)
    monkeypatch.undo()
    with pytest.raises(BankError, match="journal format 2; this veilkern reads 1"):
        Journal.open(path)
    with pytest.raises(BankError, match="cannot be read"):
        Journal.open(tmp_path / "absent")


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "j"
    journal, _ = filled(path)
    real = os.fsync

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device; the 4 finished veils in it are safe"):
        journal.append({"name": "p4"}, torch.zeros(3, SIDE, SIDE, dtype=torch.uint8))
    assert list(journal.entries) == ["p0", "p1", "p2", "p3"]
    monkeypatch.setattr(os, "fsync", real)
    journal.append({"name": "p5"}, torch.zeros(3, SIDE, SIDE, dtype=torch.uint8))
    found = Journal.open(path)
    assert list(found.entries) == ["p0", "p1", "p2", "p3", "p5"] and not found.problems


def test_a_journal_that_is_tidied_away_is_written_again(tmp_path):
    path = tmp_path / "j"
    journal, states = filled(path)
    path.unlink()
    journal.append({"name": "p9"}, torch.full((3, *HEADER["size"]), 9, dtype=torch.uint8))
    again = Journal.open(path)
    assert list(again.entries) == [*list(journal.entries)] and not again.problems
    assert path.read_bytes().startswith(states[-1]) and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert int(again.veil("p9").max()) == 9


def test_a_journal_that_is_cut_short_in_use_is_not_filled_with_nothing(tmp_path):
    path = tmp_path / "j"
    journal, states = filled(path)
    path.write_bytes(states[1])
    with pytest.raises(OutputError, match="another program cut it short"):
        journal.append({"name": "p9"}, torch.zeros((3, *HEADER["size"]), dtype=torch.uint8))
    assert path.read_bytes() == states[1]


def test_another_file_in_the_journals_place_is_left_alone(tmp_path):
    path = tmp_path / "j"
    journal, _ = filled(path)
    (tmp_path / "other").write_bytes(b"somebody else's" * 1000)
    (tmp_path / "other").replace(path)
    with pytest.raises(OutputError, match="another program put another file there"):
        journal.append({"name": "p9"}, torch.zeros((3, *HEADER["size"]), dtype=torch.uint8))
    assert path.read_bytes() == b"somebody else's" * 1000
    assert [int(journal.veil(f"p{i}").max()) for i in range(3)] == [0, 1, 2]
