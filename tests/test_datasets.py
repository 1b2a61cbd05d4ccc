"""Datasets: sources cut into units, and what a worker makes of a unit here (test_datasets_ray.py: on Ray)."""

from __future__ import annotations

import itertools
import json
import stat
from pathlib import Path

import pytest
import torch
from dataset_cases import (
    CONFIGS,
    KEY,
    PEOPLE,
    READING,
    SIDE,
    as_folder,
    as_parquet,
    as_tar,
    halves,
    has,
    job_of,
    model,
    source_of,
    whole,
    written,
)

import veilkern as vk
from veilkern.crafting.run import describe
from veilkern.data.people import Problem
from veilkern.data.photos import encode_png
from veilkern.datasets import craft as crafting
from veilkern.datasets.cluster import Cluster
from veilkern.datasets.encoded import Encoded, read_encoded, write_encoded
from veilkern.datasets.joining import join_shards
from veilkern.datasets.source import people_of, units_of
from veilkern.errors import BankError, OutputError, PhotoError

FILES = ("parquet", "parquet of structs", "parquet without names", "tar", "tar with owners")


def everybody(source, shards: int = 3, problems: list[Problem] | None = None) -> dict[str, torch.Tensor]:
    problems = [] if problems is None else problems
    parts = [part for unit in units_of(source, shards, problems) for part in people_of(unit, READING, problems, [])]
    return {part.names[0]: part.images for part in parts}


@pytest.mark.parametrize("kind", ("folder", *FILES))
def test_every_kind_of_source_gives_the_same_people(tmp_path, kind):
    wanted = vk.read_people(as_folder(tmp_path / "plain", PEOPLE), size=SIDE)
    found = everybody(source_of(kind, tmp_path))
    assert sorted(found) == wanted.names
    for name in wanted.names:
        assert torch.equal(found[name], wanted.photos(name)), name


def test_a_person_who_comes_later_moves_nobody(tmp_path):
    root = as_folder(tmp_path / "faces", PEOPLE)
    before = {unit.name: unit.people for unit in units_of(root, 4, [])}
    assert len(before) > 1 and sorted(itertools.chain(*before.values())) == sorted(PEOPLE)
    as_folder(root, {"new": PEOPLE["p0"]})
    after = {unit.name: unit.people for unit in units_of(root, 4, [])}
    changed = [name for name in after if after[name] != before.get(name)]
    assert len(changed) == 1 and sorted({*after[changed[0]]} - {*before.get(changed[0], [])}) == ["new"]


def test_sources_by_file_list_pattern_and_url(tmp_path):
    for n, part in enumerate(halves(PEOPLE)):
        as_tar(tmp_path / f"{n}.tar", part)
    (tmp_path / "notes.txt").write_text("no photo")
    one, two = (str(tmp_path / f"{n}.tar") for n in range(2))
    wanted = everybody(tmp_path)
    pytest.importorskip("fsspec", reason="URLs are for the `ray` extra")
    for source in (
        [two, one],
        f"{tmp_path}/*.tar",
        [f"file://{one}", two],
        f"file://{tmp_path}/*.tar",
        f"file://{tmp_path}",
    ):
        found = everybody(source)
        assert list(found) == list(wanted) and all(torch.equal(found[n], wanted[n]) for n in wanted), source
    assert len(units_of(one, 9, [])) == 1


def test_a_file_beside_folders_of_persons_is_listed(tmp_path):
    root = as_folder(tmp_path / "faces", PEOPLE)
    as_tar(root / "backup.tar", PEOPLE)
    problems: list[Problem] = []
    assert sorted(everybody(root, problems=problems)) == sorted(PEOPLE)
    assert [(Path(p.file).name, "not read" in p.cause) for p in problems] == [("backup.tar", True)]


@pytest.mark.parametrize(
    "make,cause",
    [
        (lambda root: [], "empty list"),
        (lambda root: root / "missing", "no Parquet file or tar there"),
        (lambda root: root, "no person's folder|no usable photo"),
        (lambda root: written(root / "a.txt", b"x"), r"ending in \.parquet or \.tar"),
        (lambda root: "nowhere://bucket/*.tar", "nowhere://bucket.*cannot be read"),
        (lambda root: [written(root / d / "a.tar", b"x") for d in "bc"], "several files have this name"),
    ],
)
def test_no_source_is_an_error_that_names_it(tmp_path, make, cause):
    with pytest.raises(PhotoError, match=cause):
        units_of(make(tmp_path), 2, [])


@pytest.mark.parametrize("name", ("a.parquet", "a.tar"))
@pytest.mark.parametrize("damage", ("noise", "empty", "cut"))
def test_a_damaged_file_is_named(tmp_path, name, damage):
    pytest.importorskip("pyarrow", reason="Parquet is for the `ray` extra")
    path = (as_parquet if name.endswith("parquet") else as_tar)(tmp_path / name, PEOPLE)
    data = path.read_bytes()
    path.write_bytes({"noise": b"\x07" * 5000, "empty": b"", "cut": data[: len(data) // 2 + 77]}[damage])
    with pytest.raises(PhotoError, match=str(path)):
        read_encoded(str(path))


def test_columns_that_are_missing_or_wrong_are_named(tmp_path):
    pytest.importorskip("pyarrow", reason="Parquet is for the `ray` extra")
    import pyarrow
    from pyarrow import parquet

    for columns, cause in (
        ({"who": ["a"]}, "no column image, person; it has who"),
        ({"person": [1], "image": [b""]}, "must hold text and bytes"),
        ({"person": ["a"], "image": ["text"]}, "must hold text and bytes"),
    ):
        parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
        with pytest.raises(PhotoError, match=cause):
            read_encoded(str(tmp_path / "a.parquet"))


def test_what_is_wrong_inside_a_file_is_listed_and_the_rest_is_read(tmp_path):
    bad = {
        "p0": {"good.png": PEOPLE["p0"]["0.png"], "bad.png": b"noise", "none.png": b""},
        "../up": {"a.png": PEOPLE["p0"]["1.png"]},
        "nobody": {"a.png": b"noise"},
        "p1": dict(PEOPLE["p3"]),
    }
    source = as_parquet(tmp_path / "a.parquet", bad) if has("pyarrow") else as_tar(tmp_path / "a.tar", bad)
    problems: list[Problem] = []
    found = everybody(source, problems=problems)
    assert {name: len(images) for name, images in found.items()} == {"p0": 1, "p1": 5}
    listed = "\n".join(map(str, problems))
    for part in ("bad.png", "none.png: the file is empty", "../up: not a name", "nobody: no usable photo"):
        assert part in listed, listed


@pytest.mark.parametrize("name", ("a.parquet", "a.tar"))
def test_written_files_are_read_again_and_never_replaced_unasked(tmp_path, name):
    pytest.importorskip("pyarrow", reason="Parquet is for the `ray` extra")
    made = [Encoded(person, file, data) for person, files in PEOPLE.items() for file, data in files.items()]
    write_encoded(tmp_path / name, made, replace=False)
    assert read_encoded(str(tmp_path / name)) == made
    with pytest.raises(OutputError, match="there already"):
        write_encoded(tmp_path / name, made[:1], replace=False)
    assert read_encoded(str(tmp_path / name)) == made


@pytest.mark.parametrize("scheme", CONFIGS)
@pytest.mark.parametrize("kind", ("folder", "tar"))
def test_shards_joined_are_the_bank_of_craft(tmp_path, kind, scheme):
    whole(tmp_path / "plain", CONFIGS[scheme]).bank.save(tmp_path / "wanted")
    source, shards = source_of(kind, tmp_path), tmp_path / "shards"
    worker, paths = crafting.CraftWorker(job_of(shards, CONFIGS[scheme])), []
    units = units_of(source, 3, [])
    for unit in units:
        found = worker(unit)
        assert found["crafted"] == found["people"] > 0 and not found["problems"]
        paths.append(shards / f"{unit.name}.safetensors")
        again = worker(unit)
        assert (again["crafted"], again["people"]) == (0, found["people"])
        json.dumps(found)
    bank = join_shards(paths, tmp_path / "bank", kind == "folder", [])
    assert (tmp_path / "bank").read_bytes() == (tmp_path / "wanted").read_bytes()
    assert stat.S_IMODE((tmp_path / "bank").stat().st_mode) == 0o600
    assert bank.names == sorted(PEOPLE)
    with pytest.raises(OutputError, match="there already"):
        join_shards(paths, tmp_path / "bank", kind == "folder", [])


def test_who_comes_later_joins_the_shard_and_the_others_keep_their_veils(tmp_path):
    """Also where a worker died between the craft of the new ones and the join."""
    root = as_folder(tmp_path / "faces", {name: PEOPLE[name] for name in ("p0", "p1")})
    worker = crafting.CraftWorker(job_of(tmp_path / "shards", CONFIGS["sealed"]))
    (unit,) = units_of(root, 1, [])
    worker(unit)
    shard = tmp_path / "shards" / f"{unit.name}.safetensors"
    as_folder(root, PEOPLE)
    (unit,) = units_of(root, 1, [])
    join, crafting.CraftWorker._join = crafting.CraftWorker._join, staticmethod(lambda path, more: None)
    try:
        worker(unit)
    finally:
        crafting.CraftWorker._join = staticmethod(join)
    more = shard.with_name(f"{unit.name}.more.safetensors")
    assert vk.VeilBank.load(shard).names == ["p0", "p1"] and len(vk.VeilBank.load(more)) == 8
    kept = more.read_bytes()
    found = worker(unit)
    assert (found["crafted"], found["people"]) == (0, 10) and not more.exists()
    more.write_bytes(kept)  # died again, before it could take it away
    assert worker(unit)["people"] == 10 and not more.exists()
    wanted, made = whole(tmp_path / "plain", CONFIGS["sealed"]).bank, vk.VeilBank.load(shard)
    for name in wanted.names:
        assert torch.equal(made.veils[made.row_of(name)], wanted.veils[wanted.row_of(name)]), name


def test_a_shard_of_another_job_is_refused(tmp_path):
    root = as_folder(tmp_path / "faces", PEOPLE)
    (unit,) = units_of(root, 1, [])
    crafting.CraftWorker(job_of(tmp_path / "shards", CONFIGS["sealed"]))(unit)
    other = vk.CraftConfig(**CONFIGS["sealed"].as_dict() | {"steps": 4})
    with pytest.raises(ValueError, match=r"another steps 3 \(now 4\)"):
        crafting.CraftWorker(job_of(tmp_path / "shards", other))(unit)


def test_a_folder_of_shards_goes_on_as_it_was_begun(tmp_path):
    header = describe(model(), (SIDE, SIDE), CONFIGS["sealed"], KEY) | {"threads": 1}
    folder = tmp_path / "shards"
    assert crafting._begun(folder, header) == 0 and not folder.exists()
    crafting._begin(folder, header, 5)
    crafting._begin(folder, header, 7)
    assert crafting._begun(folder, header) == 5 and stat.S_IMODE((folder / "job.json").stat().st_mode) == 0o600
    with pytest.raises(ValueError, match="crafted with 1 threads a worker"):
        crafting._begun(folder, header | {"threads": 2})
    with pytest.raises(ValueError, match="another key id"):
        crafting._begun(folder, header | {"key_id": "0" * 16})
    for text, cause in (
        ("{", "damaged"),
        ("{}", "not of this"),
        (json.dumps({**json.loads((folder / "job.json").read_text()), "shards": "5"}), "damaged: shards"),
    ):
        (folder / "job.json").write_text(text)
        with pytest.raises(BankError, match=cause):
            crafting._begun(folder, header)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(OutputError, match="no folder of shards"):
        crafting._begun(tmp_path / "mine", header)


def test_a_person_of_two_files_keeps_the_first_veil_and_is_listed(tmp_path):
    one, two = ({name: PEOPLE[name] for name in names} for names in (("p0", "p1"), ("p1", "p2")))
    for name, part in (("a", one), ("b", two)):
        as_tar(tmp_path / f"{name}.tar", part)
    worker = crafting.CraftWorker(job_of(tmp_path / "shards", CONFIGS["sealed"]))
    paths = []
    for unit in units_of([tmp_path / "a.tar", tmp_path / "b.tar"], 1, []):
        worker(unit)
        paths.append(tmp_path / "shards" / f"{unit.name}.safetensors")
    problems: list[Problem] = []
    bank = join_shards(paths, tmp_path / "bank", False, problems)
    assert bank.names == ["p0", "p1", "p2"]
    (problem,) = problems
    assert "p1 is in a.tar.safetensors too, whose veil counts" in str(problem)


def test_shards_that_do_not_fit_are_refused(tmp_path):
    root = as_folder(tmp_path / "faces", PEOPLE)
    made = {"sealed": ("sealed", KEY), "blend": ("blend", KEY), "other key": ("sealed", b"another key of 16 bytes")}
    for name, (scheme, key) in made.items():
        people = vk.read_people(root, size=SIDE)
        vk.craft(model(), people, CONFIGS[scheme], key=key, progress=False).bank.save(tmp_path / name)
    for other, cause in (("blend", "differ in scheme"), ("other key", "another key")):
        with pytest.raises(BankError, match=cause):
            join_shards([tmp_path / "sealed", tmp_path / other], tmp_path / "bank", False, [])
    (tmp_path / "other key").write_bytes((tmp_path / "sealed").read_bytes()[:-9])
    with pytest.raises(BankError, match="other key"):
        join_shards([tmp_path / "sealed", tmp_path / "other key"], tmp_path / "bank", False, [])
    assert not (tmp_path / "bank").exists()


def odd_model() -> vk.FaceModel:
    """Gives NaN for photos that are black."""

    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rest = model().module

        def forward(self, x):
            return self.rest(x) / (x.abs().amax((1, 2, 3)) > 0).to(x.dtype)[:, None] * torch.ones(6)

    return vk.FaceModel(Odd(), size=SIDE, name="odd")


BLACK = {"0.png": encode_png(torch.zeros(3, SIDE, SIDE, dtype=torch.uint8))}


def test_odd_people_before_others_cost_nobody_a_veil(tmp_path):
    """Whatever the batches are: that the network is of no use is known at the end."""
    people = {"a": BLACK, "b": BLACK} | {name: PEOPLE[name] for name in ("p0", "p1", "p2")}
    config = vk.CraftConfig(steps=3, photos_in_flight=1)
    parts = list(vk.iter_people(as_folder(tmp_path / "faces", people), size=SIDE))
    made = vk.craft_stream(odd_model(), parts, config, out=tmp_path / "bank", key=KEY, progress=False)
    assert made.bank.names == ["p0", "p1", "p2"]
    assert [r["name"] for r in made.report if r["status"].startswith("failed")] == ["a", "b"]
    worker = crafting.CraftWorker(job_of(tmp_path / "shards", config, model=odd_model))
    found = worker(units_of(as_tar(tmp_path / "a.tar", people), 1, [])[0])
    assert found["people"] == 3 and [file.rpartition(": ")[2] for file, _ in found["problems"]] == ["a", "b"]
    found = worker(units_of(as_tar(tmp_path / "odd.tar", {"a": BLACK}), 1, [])[0])
    assert not found["unusable"] and "odd.tar: a" in found["problems"][0][0]  # one person may be odd
    found = worker(units_of(as_tar(tmp_path / "odd2.tar", {"a": BLACK, "b": BLACK}), 1, [])[0])
    assert "NaN" in found["unusable"] and len(found["problems"]) == 2  # of two it may be the machine


def test_a_file_of_nobody_is_listed(tmp_path):
    worker = crafting.CraftWorker(job_of(tmp_path / "shards", CONFIGS["sealed"]))
    found = worker(units_of(as_tar(tmp_path / "none.tar", {}), 1, [])[0])
    assert found["people"] == 0 and found["problems"] == [(str(tmp_path / "none.tar"), "nobody is in it")]


def test_endings_in_any_case_and_what_is_not_read_is_listed(tmp_path):
    for n, (name, part) in enumerate(zip(("0.tar", "1.TAR"), halves(PEOPLE), strict=True)):
        as_tar(tmp_path / "faces" / f"{n}.tar", part).rename(tmp_path / "faces" / name)
    (tmp_path / "faces" / "2.tar.gz").write_bytes(b"x")
    (tmp_path / "faces" / "_SUCCESS").touch()
    notices: list[Problem] = []
    assert [unit.name for unit in units_of(tmp_path / "faces", 1, [], notices)] == ["0.tar", "1.TAR"]
    assert [Path(notice.file).name for notice in notices] == ["2.tar.gz"]


@pytest.mark.parametrize(
    "values,cause",
    [({"workers": 0}, "workers"), ({"cores": True}, "cores"), ({"gpus": -1}, "gpus"), ({"workers": 1.5}, "workers")],
)
def test_clusters_are_checked(values, cause):
    with pytest.raises(ValueError, match=f"Cluster: {cause} must be"):
        Cluster(**values)
