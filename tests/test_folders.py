"""Folders in, folders out: nothing lost, nothing outside, bad photos passed over."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil

import pytest
import torch
from folder_cases import contents, faces, people, pixels, small_bank
from PIL import Image
from typer.testing import CliRunner

import veilkern as vk
from veilkern.cli import app
from veilkern.cli.folders import LEAKS
from veilkern.data.marks import KEYWORD
from veilkern.data.photos import encode_png, read_mark, read_photo, read_protected, write_png
from veilkern.data.png import with_text
from veilkern.errors import OutputError, PhotoError
from veilkern.veils.folders import protect_folder, recover_folder


@pytest.mark.parametrize("lossless", [False, True])
def test_there_and_back(faces, tmp_path, small_bank, people, lossless):
    done = protect_folder(faces, small_bank, tmp_path / "hidden", lossless=lossless)
    assert (done.written, done.problems) == (24, [])
    back = recover_folder(tmp_path / "hidden", small_bank, tmp_path / "back")
    assert (back.written, back.problems) == (24, [])
    for p, name in enumerate(people.names):
        for i, image in enumerate(people.photos(p)):
            hidden = read_protected(tmp_path / "hidden" / name / f"{i:02d}.png", size=(112, 112))
            assert torch.equal(hidden, vk.protect(image[None], small_bank, [name], lossless=lossless)[0])
            error = (pixels(tmp_path / "back" / name / f"{i:02d}.png").int() - image.int()).abs().max()
            assert error == 0 if lossless else error <= 2


def test_gaussian(faces, tmp_path, small_bank, people):
    protect_folder(faces, small_bank, tmp_path / "hidden")
    recover_folder(tmp_path / "hidden", small_bank, tmp_path / "soft", gaussian_sigma=1.0)
    wanted = vk.recover(vk.protect(people.images[:1], small_bank, [0]), small_bank, [0], gaussian_sigma=1.0)[0]
    assert torch.equal(pixels(tmp_path / "soft" / "person-000" / "00.png"), wanted)


def test_bad_photos_and_strangers_are_passed_over(faces, tmp_path, small_bank):
    (faces / "person-001" / "00.png").write_bytes(b"broken")
    Image.new("L", (112, 112)).save(faces / "person-001" / "grey.png")
    (faces / "stranger").mkdir()
    Image.new("RGB", (112, 112)).save(faces / "stranger" / "a.png")
    done = protect_folder(faces, small_bank, tmp_path / "hidden")
    assert done.written == 23
    causes = {p.file.removeprefix(f"{faces}/"): p.cause for p in done.problems}
    assert set(causes) == {"person-001/00.png", "person-001/grey.png", "stranger"} and "no veil" in causes["stranger"]
    assert not (tmp_path / "hidden" / "stranger").exists()
    (tmp_path / "hidden" / "person-002" / "00.png").write_bytes(
        (tmp_path / "hidden" / "person-002" / "00.png").read_bytes()[:900]
    )
    Image.open(tmp_path / "hidden" / "person-002" / "01.png").save(tmp_path / "hidden" / "person-002" / "lossy.jpg")
    back = recover_folder(tmp_path / "hidden", small_bank, tmp_path / "back")
    assert back.written == 22 and sorted(p.file.rpartition("/")[2] for p in back.problems) == ["00.png", "lossy.jpg"]


def test_originals_are_never_overwritten(faces, tmp_path, small_bank):
    before = (faces / "person-000" / "00.png").read_bytes()
    for out in (faces, faces / ".." / "faces"):
        with pytest.raises(OutputError, match="the output folder is the input folder"):
            protect_folder(faces, small_bank, out, overwrite=True)
    (tmp_path / "link").symlink_to(faces)
    with pytest.raises(OutputError, match="the output folder is the input folder"):
        protect_folder(faces, small_bank, tmp_path / "link", overwrite=True)
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "person-000").symlink_to(faces / "person-000")
    done = protect_folder(faces, small_bank, tmp_path / "hidden", overwrite=True)
    assert done.written == 18 and ["this folder itself" in p.cause for p in done.problems] == [True]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "person-000").symlink_to(tmp_path / "elsewhere")
    done = protect_folder(faces, small_bank, tmp_path / "out", overwrite=True)
    assert done.written == 18 and all("out of the output folder" in p.cause for p in done.problems)
    assert not list((tmp_path / "elsewhere").iterdir())
    assert (faces / "person-000" / "00.png").read_bytes() == before


def test_outputs_are_kept_unless_overwrite(faces, tmp_path, small_bank):
    protect_folder(faces, small_bank, tmp_path / "hidden")
    first = (tmp_path / "hidden" / "person-000" / "00.png").read_bytes()
    again = protect_folder(faces, small_bank, tmp_path / "hidden", lossless=True)
    assert again.written == again.skipped == 0 and len(again.problems) == 24
    assert "there already, protected with 8 bits instead of 16" in again.problems[0].cause
    assert (tmp_path / "hidden" / "person-000" / "00.png").read_bytes() == first
    assert protect_folder(faces, small_bank, tmp_path / "hidden", lossless=True, overwrite=True).written == 24


def test_again_with_a_new_photo(faces, tmp_path, small_bank):
    first = protect_folder(faces, small_bank, tmp_path / "hidden")
    assert (first.written, first.skipped) == (24, 0)
    before = contents(tmp_path / "hidden")
    Image.open(faces / "person-000" / "00.png").save(faces / "person-000" / "new.png")
    Image.open(faces / "person-000" / "00.png").save(faces / "person-000" / "00.jpg")  # takes no other's name
    again = protect_folder(faces, small_bank, tmp_path / "hidden")
    assert (again.written, again.skipped, again.problems, again.notices) == (2, 24, [], [])
    after = contents(tmp_path / "hidden")
    assert after.items() > before.items()
    assert set(after) - set(before) == {"person-000/new.png", "person-000/00.jpg.png"}
    redone = protect_folder(faces, small_bank, tmp_path / "hidden", overwrite=True)
    assert (redone.written, redone.skipped) == (26, 0) and contents(tmp_path / "hidden") == after
    assert repr(again) == "Outcome(2 written, 24 done already, 0 problems, 0 notices)"


def test_what_is_done_is_not_even_read(faces, tmp_path, small_bank):
    protect_folder(faces, small_bank, tmp_path / "hidden")
    (faces / "person-000" / "00.png").write_bytes(b"lost since")
    os.utime(faces / "person-000" / "00.png", (0, 0))
    again = protect_folder(faces, small_bank, tmp_path / "hidden")
    assert (again.skipped, again.problems, again.notices) == (24, [], [])
    os.utime(faces / "person-000" / "00.png")  # now: later than its protected photo
    (notice,) = protect_folder(faces, small_bank, tmp_path / "hidden").notices
    assert notice.file == str(faces / "person-000") and "1 photos are newer" in notice.cause


def test_something_else_in_the_place_of_an_output_is_kept_and_listed(faces, tmp_path, small_bank, people):
    out = tmp_path / "hidden"
    protect_folder(faces, small_bank, out)
    one = out / "person-000"
    other = dataclasses.replace(small_bank, veils=small_bank.veils.roll(1, 0))
    protect_folder(faces, other, tmp_path / "other")
    protect_folder(faces, dataclasses.replace(small_bank, blend=60), tmp_path / "blend")
    there = {
        "00.png": (b"no PNG at all", "not a PNG"),
        "01.png": ((one / "01.png").read_bytes()[:-30], "corrupt or truncated"),
        "02.png": ((faces / "person-000" / "02.png").read_bytes(), "no photo that veilkern protected"),
        "03.png": ((tmp_path / "other" / "person-000" / "03.png").read_bytes(), "protected with another veil"),
        "04.png": ((tmp_path / "blend" / "person-000" / "04.png").read_bytes(), "another blend, 60 instead of 51"),
    }
    for name, (data, _) in there.items():
        (one / name).write_bytes(data)
    (one / "05.png").unlink()
    (one / "05.png").mkdir()
    again = protect_folder(faces, small_bank, out)
    assert (again.written, again.skipped, len(again.problems)) == (0, 18, 6)
    for problem, (name, (data, words)) in zip(again.problems, there.items(), strict=False):
        assert problem.file.endswith(name) and words in problem.cause and "kept" in problem.cause
        assert (one / name).read_bytes() == data
    assert "not a file" in again.problems[5].cause
    assert protect_folder(faces, small_bank, out, overwrite=True).written == 23


def test_banks_are_merged_and_renamed_but_the_veil_counts(faces, tmp_path, small_bank):
    protect_folder(faces, small_bank, tmp_path / "hidden")
    merged = dataclasses.replace(small_bank, key_id="another")
    assert protect_folder(faces, merged, tmp_path / "hidden").skipped == 24
    back = recover_folder(tmp_path / "hidden", merged, tmp_path / "back")
    assert (back.written, back.problems) == (24, [])


def test_recover_again(faces, tmp_path, small_bank):
    protect_folder(faces, small_bank, tmp_path / "hidden")
    recover_folder(tmp_path / "hidden", small_bank, tmp_path / "back")
    (tmp_path / "back" / "person-000" / "00.png").unlink()
    write_png(tmp_path / "back" / "person-000" / "01.png", torch.zeros((3, 112, 112), dtype=torch.uint8))
    (tmp_path / "back" / "person-000" / "02.png").write_bytes(b"something")
    before = contents(tmp_path / "back")
    again = recover_folder(tmp_path / "hidden", small_bank, tmp_path / "back")
    assert (again.written, again.skipped) == (1, 21)
    assert ["another picture" in p.cause or "not a PNG" in p.cause for p in again.problems] == [True, True]
    assert contents(tmp_path / "back").items() > before.items()


def test_a_veil_of_somebody_else_is_refused(faces, tmp_path, small_bank, people):
    """Recovered with it, the photo would be noise."""
    hidden = tmp_path / "hidden"
    protect_folder(faces, small_bank, hidden)
    mixed = hidden / "person-001"
    shutil.copy(hidden / "person-000" / "00.png", mixed / "of-person-000.png")
    foreign = dataclasses.replace(small_bank, veils=small_bank.veils.flip(3))
    protect_folder(faces, foreign, tmp_path / "foreign")
    shutil.copy(tmp_path / "foreign" / "person-001" / "01.png", mixed / "foreign.png")
    protect_folder(faces, dataclasses.replace(small_bank, blend=60), tmp_path / "blend")
    shutil.copy(tmp_path / "blend" / "person-001" / "01.png", mixed / "blend.png")
    protect_folder(faces, small_bank, tmp_path / "deep", lossless=True)
    mark = read_mark(tmp_path / "deep" / "person-001" / "01.png")
    write_png(mixed / "8-bit.png", people.images[0], mark)
    later = with_text(encode_png(people.images[0]), KEYWORD, mark.text().replace("blend-1", "sealed-9"))
    (mixed / "later.png").write_bytes(later)
    back = recover_folder(hidden, small_bank, tmp_path / "back")
    causes = {p.file.rpartition("/")[2]: p.cause for p in back.problems}
    assert back.written == 24 and back.notices == []
    assert "protected with the veil of person-000, not with that of person-001" in causes["of-person-000.png"]
    assert "a veil that is not in this bank" in causes["foreign.png"] and "another blend, 60" in causes["blend.png"]
    assert "saved again" in causes["8-bit.png"] and "another scheme or version" in causes["later.png"]
    assert not (tmp_path / "back" / "person-001" / "of-person-000.png").exists()
    forced = recover_folder(hidden, small_bank, tmp_path / "forced", force=True)
    assert (forced.written, forced.problems) == (29, [])


def test_protected_photos_are_not_protected_twice(faces, tmp_path, small_bank):
    protect_folder(faces, small_bank, tmp_path / "hidden")
    twice = protect_folder(tmp_path / "hidden", small_bank, tmp_path / "twice")
    assert twice.written == 0 and len(twice.problems) == 24 and "protected already" in twice.problems[0].cause
    assert protect_folder(tmp_path / "hidden", small_bank, tmp_path / "twice", force=True).written == 24
    with pytest.raises(PhotoError, match="protected already"):
        vk.read_people(tmp_path / "hidden")


def test_photos_without_a_mark_come_back_with_a_notice(faces, tmp_path, small_bank, people):
    folder = tmp_path / "hidden" / "person-000"
    folder.mkdir(parents=True)
    for i in range(2):
        write_png(folder / f"{i}.png", vk.protect(people.images[i : i + 1], small_bank, [0])[0])
    back = recover_folder(tmp_path / "hidden", small_bank, tmp_path / "back")
    assert (back.written, back.problems) == (2, []) and len(back.notices) == 1
    assert "2 photos without veilkern's mark" in back.notices[0].cause


def test_no_mark_of_veilkern_on_what_is_recovered_nor_of_the_photo_on_what_is_protected(faces, tmp_path, small_bank):
    exif = Image.Exif()
    exif[0x010E] = "a secret place"
    Image.open(faces / "person-000" / "00.png").save(faces / "person-000" / "00.png", exif=exif)
    protect_folder(faces, small_bank, tmp_path / "hidden")
    recover_folder(tmp_path / "hidden", small_bank, tmp_path / "back")
    hidden, back = (contents(tmp_path / name)["person-000/00.png"] for name in ("hidden", "back"))
    assert b"veilkern" in hidden and b"secret" not in hidden and b"veilkern" not in back
    assert set(json.loads(read_mark(tmp_path / "hidden" / "person-000" / "00.png").text())) == {
        "veil", "blend", "lossless", "bank", "scheme",
    }  # fmt: skip
    texts = {read_mark(path).text() for path in (tmp_path / "hidden" / "person-000").iterdir()}
    assert len(texts) == 1  # the same on all photos of a person: nothing of the photo is in it


def test_folders_with_nothing_in_them(faces, tmp_path, small_bank):
    (tmp_path / "empty").mkdir()
    with pytest.raises(PhotoError, match="no person's folder in it"):
        protect_folder(tmp_path / "empty", small_bank, tmp_path / "hidden")
    (tmp_path / "empty" / "person-000").mkdir()
    for run in (protect_folder, recover_folder):
        done = run(tmp_path / "empty", small_bank, tmp_path / "hidden")
        assert (done.written, [str(p) for p in done.problems]) == (
            0,
            [f"{tmp_path}/empty/person-000: no photo in this folder"],
        )
    for run in (protect_folder, recover_folder):
        with pytest.raises(PhotoError, match="holds photos itself and no person's folder; pass the folder above"):
            run(faces / "person-000", small_bank, tmp_path / "hidden")


def test_output_inside_the_input(faces, small_bank):
    with pytest.raises(OutputError, match="lies in the input folder"):
        protect_folder(faces, small_bank, faces / "hidden")
    assert not (faces / "hidden").exists()


def test_an_output_folder_that_is_a_link_to_itself(faces, tmp_path, small_bank):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OutputError, match="cannot be made"):
        protect_folder(faces, small_bank, tmp_path / "loop")


def test_what_the_command_line_says(faces, tmp_path, small_bank):
    small_bank.save(tmp_path / "veils")
    hidden, back = str(tmp_path / "hidden"), str(tmp_path / "back")

    def run(*arguments):
        done = CliRunner().invoke(app, [*map(str, arguments), "--veils", str(tmp_path / "veils")])
        return done.exit_code, done.output

    note = f"note {tmp_path / 'veils'}: {LEAKS}\n"
    assert run("protect", faces, "--out", hidden) == (0, f"24 photos protected in {hidden}\n{note}")
    shutil.copy(faces / "person-000" / "00.png", faces / "person-000" / "new.png")
    counts = f"1 photos protected in {hidden}, 24 there already, skipped\n"
    assert run("protect", faces, "--out", hidden) == (0, counts + note)
    counts = f"0 photos protected in {hidden}, 25 there already, skipped\n"
    assert run("protect", faces, "--out", hidden) == (0, counts)
    assert run("protect", faces, "--out", hidden, "--overwrite") == (0, f"25 photos protected in {hidden}\n{note}")
    code, text = run("protect", hidden, "--out", back)
    assert code == 1 and f"0 photos protected in {back}\n" in text and "25 left out:" in text
    assert run("protect", hidden, "--out", tmp_path / "twice", "--force")[0] == 0
    shutil.move(f"{hidden}/person-000/00.png", f"{hidden}/person-001/x.png")
    code, text = run("recover", hidden, "--out", back)
    assert code == 1 and f"24 photos recovered in {back}\n" in text and "1 left out:" in text
    assert f"{hidden}/person-001/x.png: protected with the veil of person-000, not with that of person-001" in text
    counts = f"1 photos recovered in {back}, 24 there already, skipped\n"
    assert run("recover", hidden, "--out", back, "--force") == (0, counts)


def test_a_full_disk_in_the_middle(faces, tmp_path, small_bank, monkeypatch):
    count, sync = [0], os.fsync

    def full_at_the_end(handle):
        count[0] += 1
        if count[0] > 20:
            raise OSError(28, "No space left on device")
        sync(handle)

    monkeypatch.setattr("veilkern.data.files.os.fsync", full_at_the_end)
    done = protect_folder(faces, small_bank, tmp_path / "hidden")
    monkeypatch.undo()
    assert 0 < done.written < 24 and done.written + len(done.problems) == 24
    assert all("No space left on device" in p.cause for p in done.problems)
    found = [p for p in (tmp_path / "hidden").rglob("*") if p.is_file()]
    for path in found:  # whole files only
        read_photo(path, protected=True)
    assert not any(p.suffix == ".tmp" for p in found)


def test_no_input_and_no_output(faces, tmp_path, small_bank):
    with pytest.raises(PhotoError, match="not a folder"):
        protect_folder(tmp_path / "absent", small_bank, tmp_path / "hidden")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be made"):
        protect_folder(faces, small_bank, tmp_path / "file" / "out")


def test_sizes_that_do_not_fit(small_bank):
    photos = torch.zeros((1, 3, 64, 64), dtype=torch.uint8)
    with pytest.raises(ValueError, match="the bank's veils are 112 x 112, the photos 64 x 64"):
        vk.protect(photos, small_bank, [0])
    with pytest.raises(ValueError, match="the bank's veils are 112 x 112"):
        vk.recover(photos, small_bank, [0])
    with pytest.raises(TypeError, match="bank must be a VeilBank"):
        vk.protect(photos, None, [0])
    with pytest.raises(KeyError, match="no veil for nobody"):
        vk.protect(torch.zeros((1, 3, 112, 112), dtype=torch.uint8), small_bank, ["nobody"])
