"""Reading folders of photos: everything that users get wrong; and the files that are written."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import veilkern as vk
from veilkern.data.files import atomic_write, inside
from veilkern.data.marks import Mark
from veilkern.data.people import Problem, _entries, person_folders, read_person, why_not_plain
from veilkern.data.photos import encode_png
from veilkern.errors import OutputError, PhotoError

MARK = Mark("0123456789abcdef", 51, False)


def picture(seed=0, size=(112, 112)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def make_folder_with_mistakes(root):
    """Two good persons among everything that can go wrong; returns how many usable photos there are."""
    for name, count, first in (("ann", 3, 20), ("bob", 2, 30)):
        (root / name).mkdir(parents=True)
        for i in range(count):
            picture(first + i).save(root / name / f"{i}.png")
    (root / "ann" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n truncated")
    picture().convert("L").save(root / "ann" / "grey.png")
    picture().resize((50, 50)).save(root / "bob" / "small.png")
    (root / "bob" / "notes.txt").write_text("not a photo")
    (root / "bob" / "Thumbs").mkdir()
    (root / "empty").mkdir()
    (root / "only-bad").mkdir()
    (root / "only-bad" / "x.jpg").write_bytes(b"")
    (root / "single").mkdir()
    picture(7).save(root / "single" / "one.png")
    picture(8).save(root / "loose.png")
    picture(9).save(root / "bob" / "twin-a.png")
    picture(9).save(root / "bob" / "twin-b.png")
    (root / "ann" / "hidden.png").write_bytes(encode_png(torch.zeros((3, 112, 112), dtype=torch.uint8), MARK))
    (root / ".hidden").mkdir()
    (root / "a:b").mkdir()
    return 3 + 4 + 1


def test_a_folder_with_mistakes(tmp_path):
    usable = make_folder_with_mistakes(tmp_path)
    people = vk.read_people(tmp_path)
    assert people.names == ["ann", "bob", "single"] and len(people.images) == usable
    causes = {problem.file.removeprefix(f"{tmp_path}/"): problem.cause for problem in people.problems}
    assert set(causes) == {
        "ann/broken.png",
        "ann/grey.png",
        "ann/hidden.png",
        "bob/small.png",
        "bob/Thumbs",
        "empty",
        "only-bad",
        "only-bad/x.jpg",
        "loose.png",
        "a:b",
    }
    assert "protected already" in causes["ann/hidden.png"] and "every system can write: it has :;" in causes["a:b"]
    assert "greyscale" in causes["ann/grey.png"] and "50 x 50" in causes["bob/small.png"]
    notices = "\n".join(map(str, people.notices))
    assert "one photo only" in notices and "the same picture as twin-a.png" in notices and "notes.txt" in notices
    more = vk.read_people(tmp_path, resize=True, convert=True)
    assert len(more.images) == usable + 2


def test_no_folder_and_no_photo(tmp_path):
    with pytest.raises(PhotoError, match="not a folder"):
        vk.read_people(tmp_path / "absent")
    (tmp_path / "ann").mkdir()
    with pytest.raises(PhotoError, match="no usable photo"):
        vk.read_people(tmp_path)


def test_a_persons_own_folder_is_said_to_be_one(tmp_path, monkeypatch):
    (tmp_path / "ann").mkdir()
    for i in range(5):
        picture(i).save(tmp_path / "ann" / f"{i}.png")
    (tmp_path / "ann" / "Thumbs").mkdir()
    wanted = f"holds photos itself and no person's folder; pass the folder above it, {tmp_path}$"
    with pytest.raises(PhotoError, match=wanted):
        vk.read_people(tmp_path / "ann")
    monkeypatch.chdir(tmp_path / "ann")
    with pytest.raises(PhotoError, match=wanted):
        vk.read_people(".")


def test_folders_that_vanish_or_cannot_be_read_are_listed(tmp_path, monkeypatch):
    for name in ("ann", "bob", "eve"):
        (tmp_path / name).mkdir()
        picture().save(tmp_path / name / "0.png")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")

    def entries(folder):
        if folder.name == "bob":
            raise PermissionError(13, "Permission denied")
        if folder.name == "eve":
            shutil.rmtree(folder)
        return _entries(folder)

    monkeypatch.setattr("veilkern.data.people._entries", entries)
    people = vk.read_people(tmp_path)
    assert people.names == ["ann"]
    causes = [str(p).removeprefix(f"{tmp_path}/") for p in people.problems]
    assert "bob: cannot be read: Permission denied" in causes
    assert "eve: cannot be read: No such file or directory" in causes
    monkeypatch.setattr("veilkern.data.people._entries", lambda folder: (_ for _ in ()).throw(OSError(5, "I/O error")))
    with pytest.raises(PhotoError, match="cannot be read: I/O error"):
        vk.read_people(tmp_path)


def test_names_are_listed_with_the_reason_and_printed_on_one_line(tmp_path):
    names = ["a\nb", "c\x1b[31md", "e.", "CON", "f\udcff"]
    for name in [*names, "ann"]:
        (tmp_path / name).mkdir()
    (tmp_path / "ann" / "x\n\x1b[2J.png").write_bytes(b"no photo")
    problems = []
    assert [folder.name for folder in person_folders(tmp_path, problems)] == ["ann"]
    reasons = {Path(p.file).name: str(p).rpartition("every system can write: ")[2] for p in problems}
    assert reasons == {
        "a\nb": "it has \\n; rename it",
        "c\x1b[31md": "it has \\x1b; rename it",
        "e.": "it ends with a dot or blank; rename it",
        "CON": "it is reserved on Windows; rename it",
        "f\udcff": "it has \\udcff; rename it",
    }
    assert "longer than 255 bytes" in why_not_plain("x" * 256) and "longer than 255 bytes" in why_not_plain("é" * 128)
    assert "reserved on Windows" in why_not_plain("con." + "x" * 251)  # as long as may be
    notices = []
    assert read_person(tmp_path / "ann", (112, 112), False, False, problems, notices) == []
    assert problems[-1].cause.startswith("not a PNG") and all(str(p).isprintable() for p in problems)
    assert str(problems[-1]) == f"{tmp_path}/ann/x\\n\\x1b[2J.png: {problems[-1].cause}"
    assert "\\n" in str(Problem("a", "b\nc"))


def test_what_was_done_to_a_photo_is_told(tmp_path):
    """Converted or made smaller: a notice with the file's name, for each."""
    (tmp_path / "ann").mkdir()
    for name, size in (("grey.png", (112, 112)), ("large.png", (224, 224))):
        mode = "L" if name == "grey.png" else "RGB"
        Image.new(mode, size, 7 if mode == "L" else (1, 2, 3)).save(tmp_path / "ann" / name)
    found = vk.read_people(tmp_path, size=(112, 112), resize=True, convert=True)
    told = {Path(notice.file).name for notice in found.notices if "duplicate" not in notice.cause}
    assert len(found.images) == 2 and {"grey.png", "large.png"} <= told


def test_repr_shows_no_pixels():
    people = vk.People.from_images([torch.zeros((6, 3, 112, 112), dtype=torch.uint8)] * 4)
    assert repr(people) == "People(4 persons, 24 photos of 112 x 112, 0 problems, 0 notices)"
    nobody = vk.People(torch.zeros((0, 3, 4, 5), dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), [], [])
    assert repr(nobody) == "People(0 persons, 0 photos of 4 x 5, 0 problems, 0 notices)"
    assert repr(people.take([])) == repr(nobody).replace("4 x 5", "112 x 112")


def test_people_take_and_split():
    images = [torch.full((n, 3, 4, 4), n, dtype=torch.uint8) for n in (3, 1, 5)]
    people = vk.People.from_images(images, ["a", "b", "c"])
    assert people.counts.tolist() == [3, 1, 5] and people.rows.tolist() == [0] * 3 + [1] + [2] * 5
    first, last = people.split(2)
    assert first.counts.tolist() == [1, 1, 3] and last.names == ["a", "c"] and last.counts.tolist() == [2, 2]
    assert people.take([0, 8]).names == ["a", "c"] and len(people.photos("c")) == 5
    with pytest.raises(ValueError, match="held_out must be 0 or more"):
        people.split(-1)


@pytest.mark.parametrize(
    "change,words",
    [
        ({"images": torch.zeros(2, 3, 4, 4)}, "images must be uint8"),
        ({"images": torch.zeros(2, 1, 4, 4, dtype=torch.uint8)}, "images must be uint8"),
        ({"images": torch.zeros(2, 3, 4, dtype=torch.uint8)}, "images must be uint8"),
        ({"offsets": torch.tensor([0, 1])}, "offsets must rise from 0 to 2"),
        ({"names": ["a", "b"]}, "offsets must be int64 \\[3\\]"),
        ({"files": []}, "files must have 2 entries"),
    ],
)
def test_people_refuse_nonsense(change, words):
    good = {
        "images": torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
        "offsets": torch.tensor([0, 2]),
        "names": ["a"],
        "files": ["x", "y"],
    }
    with pytest.raises(ValueError, match=words):
        vk.People(**(good | change))


def test_atomic_write_keeps_the_old_file_when_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic_write(path, b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("veilkern.data.files.os.fsync", full)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        atomic_write(path, b"new")
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_modes_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "photo", b"x")
        atomic_write(tmp_path / "veil", b"x", mode=0o600)
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("photo", "veil")] == [0o640, 0o600]


def test_atomic_write_cleans_up_on_interrupt(tmp_path, monkeypatch):
    def stop(handle):
        raise KeyboardInterrupt

    monkeypatch.setattr("veilkern.data.files.os.fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_no_such_output_folder(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        atomic_write(tmp_path / "file" / "x", b"")


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "a\\b", "/etc", "c:x", "nul\0", "x" * 300])
def test_names_that_leave_the_folder(tmp_path, name):
    with pytest.raises(OutputError, match="not a plain file name"):
        inside(tmp_path, name, "photo.png")


def test_links_that_leave_the_folder(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ann").symlink_to(tmp_path)
    with pytest.raises(OutputError, match="out of the output folder"):
        inside(tmp_path / "out", "ann", "photo.png")
