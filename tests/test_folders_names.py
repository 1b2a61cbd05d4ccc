"""Folders of photos: names of outputs, links, and what vanishes."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import pytest
from folder_cases import contents, faces, people, small_bank
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import veilkern as vk
from veilkern.data.people import _entries
from veilkern.veils.folder_plan import Outcome, _key, distinct, protected_name, recovered_name
from veilkern.veils.folders import protect_folder, recover_folder

names_of_photos = st.lists(
    st.builds(
        "".join,
        st.tuples(
            st.sampled_from(["a", "A", "b", "ä", "a\u0308", "ß", "ss", "a.png", "a.jpg", "a.PNG", "x.b"]),
            st.lists(st.sampled_from([".png", ".jpg", ".PNG", ".webp", ".jpeg"]), min_size=1, max_size=3).map("".join),
        ),
    ),
    unique=True,
    max_size=12,
)


@given(names_of_photos, names_of_photos)
def test_output_names(names, more):
    """Each photo has its own, whatever else is there; only case or a way to write a letter can make two of them one."""
    outputs = {name: protected_name(Path(name)) for name in {*names, *more}}
    assert len(set(outputs.values())) == len(outputs) and all(o.endswith(".png") for o in outputs.values())
    outcome = Outcome()
    kept = distinct([(Path(name), outputs[name]) for name in outputs], outcome)
    assert len(kept) + len(outcome.problems) == len(outputs)
    assert len({_key(output) for _, output in kept}) == len(kept)
    assert {Path(p.file) for p in outcome.problems}.isdisjoint(file for file, _ in kept)
    assert len({recovered_name(Path(o)) for o in outputs.values()}) == len(outputs)


def test_whose_output_is_one_file_with_whose_is_told():
    outcome = Outcome()
    same = [(Path("p/a.png"), "a.png"), (Path("p/A.png"), "A.png"), (Path("p/b.png"), "b.png")]
    assert distinct(same, outcome) == [same[2]]
    for problem, (output, other) in zip(outcome.problems, (("a.png", "A.png"), ("A.png", "a.png")), strict=True):
        assert problem.cause == (
            f"not written: its output {output} would be one file with that of {other} on some systems; rename one"
        )


def test_photos_of_one_stem_do_not_collide(faces, tmp_path, small_bank):
    """a.png, a.webp and a.png.png: with overwrite they were written into two files."""
    person = faces / "person-000"
    image = Image.open(person / "00.png")
    for name in ("00.jpg", "00.webp", "00.png.png", "00.jpg.png"):
        image.save(person / name, **({} if name.endswith("png") else {"quality": 95}))
    image.convert("RGB").save(person / "03.PNG", "PNG")
    for overwrite in (False, True):
        done = protect_folder(faces, small_bank, tmp_path / "hidden", overwrite=overwrite)
        assert (done.written, done.problems) == (29, [])
    names = {p.name for p in (tmp_path / "hidden" / "person-000").iterdir()}
    new = {"00.jpg.png", "00.webp.png", "00.png.png.png", "00.jpg.png.png", "03.PNG.png"}
    assert names == {f"{i:02d}.png" for i in range(6)} | new
    back = recover_folder(tmp_path / "hidden", small_bank, tmp_path / "back")
    assert back.written == 29 and {p.name for p in (tmp_path / "back" / "person-000").iterdir()} == names


@pytest.mark.parametrize(
    "one,two", [("Bild.jpg", "bild.jpg"), ("\u00e4.png", "a\u0308.png"), ("Stra\u00dfe.png", "STRASSE.png")]
)
def test_names_that_are_one_on_some_systems(faces, tmp_path, small_bank, one, two):
    image = Image.open(faces / "person-000" / "00.png")
    for name in (one, two):
        image.save(faces / "person-000" / name)
    if len({p.name for p in (faces / "person-000").iterdir()}) < 8:
        pytest.skip("this is such a system")
    done = protect_folder(faces, small_bank, tmp_path / "hidden", overwrite=True)
    assert done.written == 24 and {Path(p.file).name for p in done.problems} == {one, two}
    assert all("rename one" in p.cause for p in done.problems)
    hidden = tmp_path / "hidden" / "person-000"
    for name in (one, two):
        shutil.copy(hidden / "00.png", hidden / Path(name).with_suffix(".png"))
    back = recover_folder(tmp_path / "hidden", small_bank, tmp_path / "back")
    assert back.written == 24 and len(back.problems) == 2


def test_persons_that_are_one_on_some_systems(faces, tmp_path, small_bank):
    two = dataclasses.replace(small_bank, names=["person-000", "Person-000", *small_bank.names[2:]])
    (faces / "person-001").rename(faces / "Person-000")
    if len(list(faces.iterdir())) < 4:
        pytest.skip("this is such a system")
    done = protect_folder(faces, two, tmp_path / "hidden")
    assert done.written == 12 and sorted(p.file.rpartition("/")[2] for p in done.problems) == [
        "Person-000",
        "person-000",
    ]


def test_names_that_cannot_be_written(faces, tmp_path, small_bank):
    image = Image.open(faces / "person-000" / "00.png")
    for name in ("a:b.png", "a\nb.png", "x" * 250 + ".jpg"):
        image.save(faces / "person-000" / name)
    done = protect_folder(faces, small_bank, tmp_path / "hidden")
    assert done.written == 24 and len(done.problems) == 3
    assert all("every system can write" in p.cause and str(p).isprintable() for p in done.problems)


@pytest.mark.parametrize("run", [protect_folder, recover_folder])
def test_folders_that_vanish_and_links_to_themselves(faces, tmp_path, small_bank, monkeypatch, run):
    given = faces
    if run is recover_folder:
        protect_folder(faces, small_bank, tmp_path / "hidden")
        given = tmp_path / "hidden"
    (given / "loop").symlink_to(given / "loop")

    def vanishing(folder):
        if folder.name == "person-001":
            shutil.rmtree(folder)
        return _entries(folder)

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "person-002").symlink_to(tmp_path / "out" / "person-002")
    (given / "person-003" / "00.png").unlink()
    (given / "person-003" / "00.png").symlink_to(given / "person-003" / "00.png")
    os.mkfifo(given / "person-003" / "fifo.png")
    monkeypatch.setattr("veilkern.data.people._entries", vanishing)
    done = run(given, small_bank, tmp_path / "out")
    assert done.written == 6 + 5
    assert sum("person-001" in p.file and "No such file" in p.cause for p in done.problems) == 1
    assert sum("person-002" in p.file and "link to itself" in p.cause for p in done.problems) == 6
    assert sum("person-003" in p.file for p in done.problems) == 2 and len(done.problems) == 9


def test_photos_that_vanish_while_others_are_protected(faces, tmp_path, small_bank, monkeypatch):
    def vanishing(*arguments, **options):
        shutil.rmtree(faces / "person-001", ignore_errors=True)
        return vk.protect(*arguments, **options)

    monkeypatch.setattr("veilkern.veils.folders.protect", vanishing)
    done = protect_folder(faces, small_bank, tmp_path / "hidden")
    assert done.written == 18 and len(done.problems) == 6 and all("not a file" in p.cause for p in done.problems)


def test_links_in_the_place_of_outputs_are_never_followed(faces, tmp_path, small_bank):
    out = tmp_path / "hidden" / "person-000"
    out.mkdir(parents=True)
    before = contents(faces)
    (out / "00.png").symlink_to(faces / "person-000" / "01.png")
    (out / "01.png").symlink_to(tmp_path / "new.png")
    os.link(faces / "person-000" / "02.png", out / "02.png")
    os.link(faces / "person-000" / "04.png", out / "03.png")
    done = protect_folder(faces, small_bank, tmp_path / "hidden", overwrite=True)
    assert [Path(p.file).name for p in done.problems] == ["00.png", "01.png", "02.png"]
    assert contents(faces) == before and not (tmp_path / "new.png").exists()


def test_a_persons_folder_that_is_its_own_output(faces, tmp_path, small_bank):
    """FACES made of links into OUT."""
    (tmp_path / "links").mkdir()
    for folder in faces.iterdir():
        (tmp_path / "links" / folder.name).symlink_to(folder)
    before = contents(faces)
    done = protect_folder(tmp_path / "links", small_bank, faces, overwrite=True)
    assert done.written == 0 and len(done.problems) == 4 and "itself" in done.problems[0].cause
    assert contents(faces) == before
