"""rotate: protected photos from one bank and key to another."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from sealed_cases import (
    KEY,
    NAMES,
    OTHER,
    SIDE,
    bank,
    bank_of,
    faces,
    hidden,
    on_disk,
    photos_in,
    pixels_of,
    require_recovered,
    run,
)

import veilkern as vk
from veilkern.data.photos import read_mark, read_protected, write_png
from veilkern.errors import OutputError, PhotoError
from veilkern.veils import keyed
from veilkern.veils.folders import protect_folder, recover_folder
from veilkern.veils.rotate import rotate_folder


def test_rotate_in_place_to_a_new_key(faces, hidden, bank, tmp_path):
    before = {name: path.read_bytes() for name, path in photos_in(hidden).items()}
    new = bank.under_key(OTHER)
    outcome = rotate_folder(hidden, bank, new, key=KEY, new_key=OTHER)
    assert (outcome.written, outcome.skipped, outcome.problems) == (6, 0, [])
    assert all(path.read_bytes() != before[name] for name, path in photos_in(hidden).items())
    require_recovered(hidden, faces, new, OTHER, tmp_path)
    again = rotate_folder(hidden, bank, new, key=KEY, new_key=OTHER)
    assert (again.written, again.skipped, again.problems) == (0, 6, [])


def test_rotate_goes_on_where_it_stopped(faces, hidden, bank, tmp_path, monkeypatch):
    """Interrupted at any photo: each is under the one key or the other, whole, and the same call ends the work."""
    from veilkern.veils import rotate

    new, write, left = bank_of(9, OTHER), rotate.write, [3]

    def stops(*arguments):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(*arguments)

    monkeypatch.setattr(rotate, "write", stops)
    with pytest.raises(KeyboardInterrupt):
        rotate_folder(hidden, bank, new, key=KEY, new_key=OTHER)
    monkeypatch.setattr(rotate, "write", write)
    outcome = rotate_folder(hidden, bank, new, key=KEY, new_key=OTHER)
    assert (outcome.written, outcome.skipped, outcome.problems) == (3, 3, [])
    require_recovered(hidden, faces, new, OTHER, tmp_path)


def test_rotate_into_another_folder(faces, hidden, bank, tmp_path):
    before = {name: path.read_bytes() for name, path in photos_in(hidden).items()}
    new = bank_of(9, OTHER, levels=32)
    for written, skipped in ((6, 0), (0, 6)):
        outcome = rotate_folder(hidden, bank, new, tmp_path / "new", key=KEY, new_key=OTHER)
        assert (outcome.written, outcome.skipped, outcome.problems) == (written, skipped, [])
    assert {name: path.read_bytes() for name, path in photos_in(hidden).items()} == before
    require_recovered(tmp_path / "new", faces, new, OTHER, tmp_path)
    write_png(tmp_path / "new" / "Ada" / "0.png", pixels_of(faces / "Ada" / "0.png"))
    outcome = rotate_folder(hidden, bank, new, tmp_path / "new", key=KEY, new_key=OTHER)
    assert len(outcome.problems) == 1 and "not this photo under the new bank; kept" in str(outcome.problems[0])
    mixed = tmp_path / "mixed"  # some of them rotated already
    shutil.copytree(hidden, mixed)
    shutil.copy(tmp_path / "new" / "Bill" / "2.png", mixed / "Bill" / "2.png")
    outcome = rotate_folder(mixed, bank, new, tmp_path / "all", key=KEY, new_key=OTHER)
    assert (outcome.written, outcome.problems) == (6, [])
    require_recovered(tmp_path / "all", faces, new, OTHER, tmp_path)


def test_rotate_loses_nothing_in_8_bits(faces, bank, tmp_path):
    protect_folder(faces, bank, tmp_path / "eight", key=KEY)
    recover_folder(tmp_path / "eight", bank, tmp_path / "one", key=KEY)
    new = bank_of(9, OTHER)
    rotate_folder(tmp_path / "eight", bank, new, key=KEY, new_key=OTHER)
    recover_folder(tmp_path / "eight", new, tmp_path / "two", key=OTHER)
    for name, path in photos_in(tmp_path / "one").items():
        assert torch.equal(pixels_of(path), pixels_of(tmp_path / "two" / name))


def test_rotate_from_blended_to_sealed(faces, bank, tmp_path):
    blended = vk.VeilBank(torch.randint(0, 256, bank.veils.shape, dtype=torch.uint8), NAMES, 51)
    protect_folder(faces, blended, tmp_path / "hidden", lossless=True)
    outcome = rotate_folder(tmp_path / "hidden", blended, bank, new_key=KEY)
    assert (outcome.written, outcome.problems) == (6, [])
    require_recovered(tmp_path / "hidden", faces, bank, KEY, tmp_path)


def test_rotate_leaves_alone_what_it_does_not_know(faces, hidden, bank, tmp_path):
    """Without a mark, damaged, of a third bank, of nobody in the new bank: listed, byte for byte as before."""
    new = bank_of(9, OTHER).take(["Ada"])
    path = hidden / "Ada" / "0.png"
    write_png(path, read_protected(path, size=(SIDE, SIDE)))
    path = hidden / "Ada" / "1.png"
    pixels = read_protected(path, size=(SIDE, SIDE)).to(torch.int32)
    write_png(path, (pixels ^ 256).to(torch.uint16), read_mark(path))
    third = bank_of(5, OTHER)
    protect_folder(faces, third, tmp_path / "third", key=OTHER, lossless=True)
    shutil.copy(tmp_path / "third" / "Ada" / "2.png", hidden / "Ada" / "2.png")
    before = {name: path.read_bytes() for name, path in photos_in(hidden).items()}
    outcome = rotate_folder(hidden, bank, new, key=KEY, new_key=OTHER)
    causes = " | ".join(map(str, outcome.problems))
    assert outcome.written == 0 and len(outcome.problems) == 4
    for words in (
        "no mark of veilkern's",
        "its tag does not match",
        "not in this bank",
        "no veil of this person in the new",
    ):
        assert words in causes
    assert {name: path.read_bytes() for name, path in photos_in(hidden).items()} == before
    forced = rotate_folder(hidden, bank, new, key=KEY, new_key=OTHER, force=True)
    assert forced.written == 1 and len(forced.problems) == 3  # whose mark says something else is not overwritten
    assert [n for n, path in photos_in(hidden).items() if path.read_bytes() != before[n]] == ["Ada/0.png"]


def test_rotate_does_not_take_another_photo_for_done(hidden, bank, tmp_path):
    """Of the same name, person and bank: its pixels tell."""
    new = bank_of(9, OTHER)
    rotate_folder(hidden, bank, new, tmp_path / "new", key=KEY, new_key=OTHER)
    shutil.copy(tmp_path / "new" / "Ada" / "1.png", tmp_path / "new" / "Ada" / "0.png")
    outcome = rotate_folder(hidden, bank, new, tmp_path / "new", key=KEY, new_key=OTHER)
    assert outcome.skipped == 5 and "not this photo under the new bank; kept" in str(outcome.problems[0])


def test_rotate_replaces_no_link_and_loses_no_bit_in_place(faces, bank, tmp_path):
    protect_folder(faces, bank, tmp_path / "hidden", key=KEY)
    outside = tmp_path / "outside.png"
    (tmp_path / "hidden" / "Ada" / "0.png").rename(outside)
    (tmp_path / "hidden" / "Ada" / "0.png").symlink_to(outside)
    before = outside.read_bytes()
    outcome = rotate_folder(tmp_path / "hidden", bank, bank_of(9, OTHER), key=KEY, new_key=OTHER)
    assert outcome.written == 5 and "a link; never replaced" in str(outcome.problems[0])
    assert outside.read_bytes() == before
    coarse = bank_of(9, OTHER, levels=16)
    outcome = rotate_folder(tmp_path / "hidden", bank_of(9, OTHER), coarse, key=OTHER, new_key=OTHER)
    assert outcome.written == 0 and any("hold less of it" in str(problem) for problem in outcome.problems)
    assert (
        rotate_folder(tmp_path / "hidden", bank_of(9, OTHER), coarse, tmp_path / "c", key=OTHER, new_key=OTHER).written
        == 5
    )


def test_rotate_is_checked_before_it_begins(hidden, bank, tmp_path):
    small = vk.VeilBank(bank.veils[:, :, :20], NAMES, 0, key_id=keyed.key_id(KEY), levels=64)
    cases = [
        ((bank, small), {"key": KEY, "new_key": KEY}, ValueError, "must be of .24, 24. photos like bank"),
        ((bank, bank), {"key": OTHER, "new_key": KEY}, ValueError, "key must be the master key"),
        ((bank, bank), {"key": KEY}, ValueError, "key must be given"),
    ]
    for banks, keys, error, words in cases:
        with pytest.raises(error, match=words):
            rotate_folder(hidden, *banks, **keys)
    with pytest.raises(PhotoError, match="not a folder"):
        rotate_folder(tmp_path / "nothing", bank, bank, key=KEY, new_key=KEY)
    with pytest.raises(OutputError, match="is the input folder"):
        rotate_folder(hidden, bank, bank, hidden, key=KEY, new_key=KEY)


def test_the_command_rotate(faces, on_disk, tmp_path):
    run("protect", faces, "--veils", on_disk, "--out", tmp_path / "a")
    keys = ("--new-key-file", tmp_path / "other.key")
    new = tmp_path / "new.safetensors"
    done = run("rotate", tmp_path / "a", "--veils", on_disk, "--new-veils", new)
    assert isinstance(done.exception, OutputError) and "give --new-key-file" in str(done.exception)
    done = run("rotate", tmp_path / "a", "--veils", on_disk, "--new-veils", new, *keys)
    assert done.exit_code == 0 and "6 photos rotated" in done.output, done.output
    assert torch.equal(vk.VeilBank.load(new).veils, vk.VeilBank.load(on_disk).veils)
    done = run("rotate", tmp_path / "a", "--veils", on_disk, "--new-veils", new, *keys)
    assert done.exit_code == 0 and "0 photos rotated" in done.output and "6 there already" in done.output
    done = run("recover", tmp_path / "a", "--veils", new, "--out", tmp_path / "b", "--key-file", tmp_path / "other.key")
    assert done.exit_code == 0 and "6 photos recovered" in done.output


def test_rotate_writes_no_bank_under_a_wrong_key(faces, on_disk, tmp_path):
    run("protect", faces, "--veils", on_disk, "--out", tmp_path / "a")
    new, other = tmp_path / "new.safetensors", tmp_path / "other.key"
    done = run(
        "rotate", tmp_path / "a", "--veils", on_disk, "--new-veils", new, "--key-file", other, "--new-key-file", other
    )
    assert isinstance(done.exception, ValueError) and not new.exists()
    read, write = os.pipe()  # a key from a process: it can be read once
    os.write(write, OTHER)
    os.close(write)
    done = run("rotate", tmp_path / "a", "--veils", on_disk, "--new-veils", new, "--new-key-file", f"/dev/fd/{read}")
    assert done.exit_code == 0 and "6 photos rotated" in done.output, done.output
    os.close(read)
