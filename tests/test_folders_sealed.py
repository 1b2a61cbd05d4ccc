"""Folders of sealed photos: marks, tags, keys."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
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
from veilkern.data.marks import KEYWORD, SEALED
from veilkern.data.photos import encode_png, read_mark, read_protected, write_png
from veilkern.data.png import with_text
from veilkern.errors import OutputError
from veilkern.veils import keyed
from veilkern.veils.folders import protect_folder, recover_folder
from veilkern.veils.rotate import rotate_folder
from veilkern.veils.tags import TAG_BYTES


def test_there_and_back(faces, hidden, bank, tmp_path):
    require_recovered(hidden, faces, bank, KEY, tmp_path)
    mark = read_mark(hidden / "Ada" / "0.png")
    assert (mark.scheme, mark.levels, mark.rounds, mark.blend, mark.lossless) == (SEALED, 64, 20, 0, True)
    assert mark.key_id == mark.bank == keyed.key_id(KEY) and len(mark.tag) == 2 * TAG_BYTES
    text = json.loads(mark.text())
    assert not {"nonce", "key"} & set(text)


def test_a_second_run_skips_and_another_key_does_not_count_as_done(faces, hidden, bank, tmp_path):
    again = protect_folder(faces, bank, hidden, key=KEY, lossless=True)
    assert (again.written, again.skipped, again.problems) == (0, 6, [])
    other = protect_folder(faces, bank.under_key(OTHER), hidden, key=OTHER, lossless=True)
    assert other.skipped == other.written == 0 and len(other.problems) == 6
    assert "protected with another key, id" in str(other.problems[0])
    eight = protect_folder(faces, bank, hidden, key=KEY)
    assert "16 bits instead of 8" in str(eight.problems[0])
    blended = vk.VeilBank(bank.veils, NAMES, 51)
    assert "another scheme, sealed instead of blended" in str(protect_folder(faces, blended, hidden).problems[0])


@pytest.mark.parametrize(
    "change,words",
    [
        ({"key": OTHER}, "another key, id"),
        ({"seed": 3}, "a veil that is not in this bank"),
        ({"levels": 32}, "a veil that is not in this bank"),
    ],
)
def test_recover_with_what_is_not_theirs(hidden, tmp_path, change, words):
    """Listed photo by photo, nothing written; by force what comes is written, noise as it is."""
    key = change.get("key", KEY)
    outcome = recover_folder(hidden, bank_of(**change), tmp_path / "back", key=key)
    assert outcome.written == 0 and len(outcome.problems) == 6 and all(words in str(p) for p in outcome.problems)
    assert recover_folder(hidden, bank_of(**change), tmp_path / "back", key=key, force=True).written == 6


def test_photos_of_the_other_scheme(faces, hidden, bank, tmp_path):
    blended = vk.VeilBank(bank.veils, NAMES, 51)
    outcome = recover_folder(hidden, blended, tmp_path / "back")
    assert outcome.written == 0 and "another scheme, sealed instead of blended" in str(outcome.problems[0])
    protect_folder(faces, blended, tmp_path / "mixed")
    outcome = recover_folder(tmp_path / "mixed", bank, tmp_path / "back", key=KEY)
    assert outcome.written == 0 and "another scheme, blended instead of sealed" in str(outcome.problems[0])


def test_wrong_keys_stop_before_any_work(faces, bank, tmp_path):
    for call in (protect_folder, recover_folder):
        for key, words in ((None, "key must be given"), (OTHER, "key must be the master key")):
            with pytest.raises(ValueError, match=words):
                call(faces, bank, tmp_path / "out", key=key)
    assert not (tmp_path / "out").exists()


def test_a_damaged_photo_is_told(faces, hidden, bank, tmp_path):
    """One pixel by one: its tag does not match; --force gives what there is."""
    path = hidden / "Bill" / "1.png"
    mark, pixels = read_mark(path), read_protected(path, size=(SIDE, SIDE)).to(torch.int32)
    pixels[1, 20, 20] ^= 256
    write_png(path, pixels.to(torch.uint16), mark)
    outcome = recover_folder(hidden, bank, tmp_path / "back", key=KEY)
    assert outcome.written == 5 and str(outcome.problems[0]).startswith(str(path))
    assert "its tag does not match: damaged, changed or not sealed by the holder of this key" in str(
        outcome.problems[0]
    )
    forced = recover_folder(hidden, bank, tmp_path / "back", key=KEY, force=True)
    assert forced.written == 1 and forced.skipped == 5
    found, truth = pixels_of(tmp_path / "back" / "Bill" / "1.png"), pixels_of(faces / "Bill" / "1.png")
    assert (found != truth).sum() == 1


def test_photos_that_changed_places_are_told(hidden, bank, tmp_path):
    """Bill's in Ada's folder, with Bill's mark or with Ada's own."""
    mark = read_mark(hidden / "Ada" / "0.png")
    shutil.copy(hidden / "Bill" / "0.png", hidden / "Ada" / "0.png")
    write_png(hidden / "Ada" / "1.png", read_protected(hidden / "Bill" / "1.png", size=(SIDE, SIDE)), mark)
    outcome = recover_folder(hidden, bank, tmp_path / "back", key=KEY)
    causes = [str(problem) for problem in outcome.problems]
    assert outcome.written == 4 and "the veil of Bill, not with that of Ada" in causes[0]
    assert "its tag does not match" in causes[1]


def test_a_mark_that_anybody_wrote_stops_nobody(hidden, bank, tmp_path):
    """Of any content: that photo is listed, and all others have their turn."""
    path = hidden / "Ada" / "0.png"
    mark, pixels = read_mark(path), read_protected(path, size=(SIDE, SIDE))
    values = json.loads(mark.text())
    for change in (
        {"tag": "\u00e9" * 32}, {"tag": 5}, {"tag": None}, {"levels": 64.0}, {"lossless": 1}, {"rounds": True},
        {"veil": ["a"]}, {"scheme": 3}, {"key_id": {}}, {"scheme": "blend-1"}, {"tag": "\ud800"},
    ):  # fmt: skip
        path.write_bytes(with_text(encode_png(pixels), KEYWORD, json.dumps(values | change)))
        for call in (
            lambda out: recover_folder(hidden, bank, out, key=KEY),
            lambda out: rotate_folder(hidden, bank, bank_of(9, OTHER), out, key=KEY, new_key=OTHER),
        ):
            outcome = call(tmp_path / "out")
            assert outcome.written == 5 and len(outcome.problems) == 1 and "0.png" in str(outcome.problems[0]), change
            shutil.rmtree(tmp_path / "out")


def test_a_sealed_photo_without_its_mark_is_not_taken_for_whole(hidden, bank, tmp_path):
    path = hidden / "Ada" / "0.png"
    write_png(path, read_protected(path, size=(SIDE, SIDE)))
    outcome = recover_folder(hidden, bank, tmp_path / "back", key=KEY)
    assert outcome.written == 5 and "no mark of veilkern's on it: not sealed, or saved again" in str(
        outcome.problems[0]
    )
    assert recover_folder(hidden, bank, tmp_path / "back", key=KEY, force=True).written == 1


def test_a_persons_master_key_that_is_missing_stops_nobody(faces, bank, tmp_path):
    """Of a bank merged from two: who has no key here is listed, before and after others; with both keys all is done."""
    both = bank.take(["Ada"]).join(bank_of(5, OTHER).take(["Bill"]))
    for key, written, missing in ((KEY, 3, "Bill"), (OTHER, 3, "Ada"), (iter([KEY, OTHER]), 6, None)):
        out = tmp_path / f"{missing}"
        outcome = protect_folder(faces, both, out, key=key)
        assert outcome.written == written and len(outcome.problems) == (missing is not None)
        if missing:
            assert missing in str(outcome.problems[0]) and "needs the master key of id" in str(outcome.problems[0])
    for key, written in ((KEY, 3), (iter([KEY, OTHER]), 6)):
        assert recover_folder(tmp_path / "None", both, tmp_path / f"back-{written}", key=key).written == written
        new = rotate_folder(tmp_path / "None", both, bank, tmp_path / f"new-{written}", key=[KEY, OTHER], new_key=KEY)
        assert new.written == 6
    outcome = rotate_folder(tmp_path / "None", both, bank, tmp_path / "newer", key=OTHER, new_key=KEY)
    assert outcome.written == 3 and "Ada" in str(outcome.problems[0])
    outcome = rotate_folder(tmp_path / "None", both, both.under_key(KEY), tmp_path / "x", key=[KEY, OTHER], new_key=KEY)
    assert outcome.written == 6


def test_modes_are_never_widened(faces, hidden, bank, tmp_path):
    before = os.umask(0o022)
    try:
        for path in photos_in(hidden).values():
            path.chmod(0o600)
        rotate_folder(hidden, bank, bank_of(9, OTHER), key=KEY, new_key=OTHER)
        assert {path.stat().st_mode & 0o777 for path in photos_in(hidden).values()} == {0o600}
        recover_folder(hidden, bank_of(9, OTHER), tmp_path / "back", key=OTHER)
        (tmp_path / "back" / "Ada" / "0.png").chmod(0o640)
        recover_folder(hidden, bank_of(9, OTHER), tmp_path / "back", key=OTHER, overwrite=True)
        assert (tmp_path / "back" / "Ada" / "0.png").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_tags_of_tensors(bank):
    rng = np.random.default_rng(3)
    photos = torch.from_numpy(rng.integers(0, 256, (4, 3, SIDE, SIDE), dtype=np.uint8))
    who = ["Ada", "Bill", "Bill", "Ada"]
    for lossless in (False, True):
        sealed = vk.protect(photos, bank, who, key=KEY, lossless=lossless)
        tags = vk.tags(sealed, bank, who, key=KEY)
        assert tags.shape == (4, TAG_BYTES) and tags.dtype == torch.uint8
        assert vk.check_tags(sealed, tags, bank, who, key=KEY).all()
        last = sealed.permute(0, 2, 3, 1)
        assert torch.equal(vk.tags(last.numpy(), bank, who, key=KEY, layout="NHWC"), tags)
        broken = (sealed.to(torch.int32) ^ 1 if lossless else sealed ^ 1).to(sealed.dtype)
        assert not vk.check_tags(broken, tags, bank, who, key=KEY).any()
        assert vk.check_tags(sealed, tags, bank, ["Ada"] * 4, key=KEY).tolist() == [True, False, False, True]
        tags[2, 15] ^= 1
        assert vk.check_tags(sealed, tags, bank, who, key=KEY).tolist() == [True, True, False, True]
    other_veils = bank_of(4)  # the same key and persons: recovered under these, it would be noise
    assert not vk.check_tags(sealed, vk.tags(sealed, bank, who, key=KEY), other_veils, who, key=KEY).any()
    under = bank.under_key(OTHER)
    assert not torch.equal(vk.tags(sealed, under, who, key=OTHER), vk.tags(sealed, bank, who, key=KEY))
    for call, words in (
        (lambda: vk.check_tags(sealed, tags[:3], bank, who, key=KEY), r"tags must be uint8 \[4, 16\]"),
        (lambda: vk.check_tags(sealed, None, bank, who, key=KEY), "got NoneType"),
        (lambda: vk.tags(sealed, vk.VeilBank(bank.veils, NAMES, 51), who, key=None), "must be a sealed one"),
        (lambda: vk.tags(sealed, bank, [0, 1, 2, 0], key=KEY), "rows must lie in 0..1"),
        (lambda: vk.tags(sealed, bank, [0], key=KEY), "one entry per photo, 4, got 1"),
        (lambda: vk.tags(sealed, bank, who, key=OTHER), "key must be the master key"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    assert vk.tags(sealed[:0], bank, [], key=KEY).shape == (0, TAG_BYTES)


def test_the_commands_find_the_key(faces, on_disk, tmp_path):
    done = run("protect", faces, "--veils", on_disk, "--out", tmp_path / "a")
    assert done.exit_code == 0, done.output
    done = run("recover", tmp_path / "a", "--veils", on_disk, "--out", tmp_path / "b")
    assert done.exit_code == 0 and "6 photos recovered" in done.output
    done = run("protect", faces, "--veils", on_disk, "--out", tmp_path / "c", "--key-file", tmp_path / "other.key")
    assert isinstance(done.exception, ValueError) and "key must be the master key" in str(done.exception)
    (tmp_path / "veils.safetensors.key").rename(tmp_path / "away.key")
    done = run("protect", faces, "--veils", on_disk, "--out", tmp_path / "c")
    assert isinstance(done.exception, OutputError) and "name its file with --key-file" in str(done.exception)
    done = run(
        "recover", tmp_path / "a", "--veils", on_disk, "--out", tmp_path / "d", "--key-file", tmp_path / "away.key"
    )
    assert done.exit_code == 0 and "6 photos recovered" in done.output


def test_protect_says_what_blending_gives_away(faces, bank, tmp_path):
    path = tmp_path / "blended"
    vk.VeilBank(bank.veils, NAMES, 51).save(path)
    done = run("protect", faces, "--veils", path, "--out", tmp_path / "a")
    assert done.exit_code == 0 and done.output.count("give each other away") == 1 and "--scheme sealed" in done.output
    done = run("protect", faces, "--veils", path, "--out", tmp_path / "a", "--key-file", tmp_path / "k")
    assert isinstance(done.exception, ValueError) and "--key-file is for sealed banks" in str(done.exception)


def test_keys_of_a_merged_bank_on_the_command_line(faces, on_disk, tmp_path):
    both = vk.VeilBank.load(on_disk).take(["Ada"]).join(bank_of(5, OTHER).take(["Bill"]))
    both.save(tmp_path / "both")
    keys = ("--key-file", f"{on_disk}.key", "--key-file", tmp_path / "other.key")
    done = run("protect", faces, "--veils", tmp_path / "both", "--out", tmp_path / "a", *keys)
    assert done.exit_code == 0 and "6 photos protected" in done.output
    done = run("recover", tmp_path / "a", "--veils", tmp_path / "both", "--out", tmp_path / "b", *keys[:2])
    assert done.exit_code == 1 and "3 photos recovered" in done.output and "needs the master key of id" in done.output


def test_no_two_persons_have_one_key(bank):
    """However they come together: renamed, joined, with records of any kind."""
    renamed = bank.rename({"Ada": "Eve"})
    with pytest.raises(ValueError, match="Eve and Ada must not have one sealing key"):
        renamed.join(bank_of(5).take(["Ada"]))
    with pytest.raises(ValueError, match="must not have one sealing key"):
        vk.VeilBank(bank.veils, NAMES, 0, [{}, {"keyed_as": "Ada"}], key_id=bank.key_id, levels=64)
    later = vk.VeilBank(bank.veils[:1], ["Ada"], 0, [{"generation": 1}], key_id=bank.key_id, levels=64)
    assert len(renamed.join(later)) == 3
    for bad, words in (
        ({"keyed_as": 5}, "keyed_as of records must be str"),
        ({"keyed_as": "a\0b"}, "must hold no NUL"),
    ):
        with pytest.raises(ValueError, match=words):
            vk.VeilBank(bank.veils, NAMES, 0, [bad, {}], key_id=bank.key_id, levels=64)


def test_a_bank_under_another_key(bank):
    assert bank.under_key(OTHER).key_ids == [keyed.key_id(OTHER)] * 2
    joined = bank.take(["Ada"]).join(bank_of(5, OTHER).take(["Bill"]))
    assert len(set(joined.key_ids)) == 2 and joined.under_key(KEY).key_ids == [keyed.key_id(KEY)] * 2
    with pytest.raises(ValueError, match="the veils of a bank that blends are the keys"):
        vk.VeilBank(bank.veils, NAMES, 51).under_key(KEY)
    with pytest.raises(ValueError, match="at least 16 bytes"):
        bank.under_key(b"short")
