"""Datasets: sources cut into units, and what a worker makes of a unit here (test_datasets_ray.py: on Ray)."""

from __future__ import annotations

import itertools
import json
import stat
from pathlib import Path

import pytest
import torch
from dataset_cases import CONFIGS, KEY, SIDE, as_folder, as_parquet, as_tar, halves, model, photos

import veilkern as vk
from veilkern.crafting.run import describe, master_key
from veilkern.data.people import Problem
from veilkern.data.photos import encode_png, read_mark
from veilkern.datasets import craft as crafting
from veilkern.datasets import protect as protecting
from veilkern.datasets.cluster import Cluster
from veilkern.datasets.encoded import Encoded, read_encoded, write_encoded
from veilkern.datasets.joining import join_shards
from veilkern.datasets.source import Reading, Unit, people_of, units_of
from veilkern.errors import BankError, OutputError, PhotoError

PEOPLE = photos()
READING = Reading((SIDE, SIDE))
FILES = ("parquet", "parquet of structs", "parquet without names", "tar", "tar with owners")


def source_of(kind: str, root: Path):
    """PEOPLE as a source of this kind."""
    if kind == "folder":
        return as_folder(root / "faces", PEOPLE)
    for n, part in enumerate(halves(PEOPLE)):
        if kind.startswith("parquet"):
            pytest.importorskip("pyarrow", reason="Parquet is for the `ray` extra")
            named = not kind.endswith("names")
            as_parquet(root / "faces" / f"{n}.parquet", part, struct="structs" in kind, file=named)
        else:
            as_tar(root / "faces" / f"{n}.tar", part, owners="owners" in kind)
    return root / "faces"


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
        (lambda root: _written(root / "a.txt", b"x"), r"ending in \.parquet or \.tar"),
        (lambda root: "nowhere://bucket/*.tar", "nowhere://bucket.*cannot be read"),
        (lambda root: [_written(root / d / "a.tar", b"x") for d in "bc"], "several files have this name"),
    ],
)
def test_no_source_is_an_error_that_names_it(tmp_path, make, cause):
    with pytest.raises(PhotoError, match=cause):
        units_of(make(tmp_path), 2, [])


def _written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


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
    source = as_parquet(tmp_path / "a.parquet", bad) if _has("pyarrow") else as_tar(tmp_path / "a.tar", bad)
    problems: list[Problem] = []
    found = everybody(source, problems=problems)
    assert {name: len(images) for name, images in found.items()} == {"p0": 1, "p1": 5}
    listed = "\n".join(map(str, problems))
    for part in ("bad.png", "none.png: the file is empty", "../up: not a name", "nobody: no usable photo"):
        assert part in listed, listed


def _has(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None


@pytest.mark.parametrize("name", ("a.parquet", "a.tar"))
def test_written_files_are_read_again_and_never_replaced_unasked(tmp_path, name):
    pytest.importorskip("pyarrow", reason="Parquet is for the `ray` extra")
    made = [Encoded(person, file, data) for person, files in PEOPLE.items() for file, data in files.items()]
    write_encoded(tmp_path / name, made, replace=False)
    assert read_encoded(str(tmp_path / name)) == made
    with pytest.raises(OutputError, match="there already"):
        write_encoded(tmp_path / name, made[:1], replace=False)
    assert read_encoded(str(tmp_path / name)) == made


def job_of(folder: Path, config: vk.CraftConfig, key=KEY, **more) -> crafting._Job:
    folder.mkdir(exist_ok=True)
    header = describe(model(), (SIDE, SIDE), config, master_key(KEY, config))
    values = {"model": model, "config": config, "key": key, "header": header, "folder": folder} | more
    return crafting._Job(**{"reading": READING, "threads": 1, "gpus": 0.0} | values)


def whole(root: Path, config: vk.CraftConfig) -> vk.CraftResult:
    people = vk.read_people(as_folder(root, PEOPLE), size=SIDE)
    return vk.craft(model(), people, config, key=KEY, threads=1, progress=False)


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


def protect_job(tmp_path: Path, veils: Path, **more) -> protecting._Job:
    flags = dict.fromkeys(("lossless", "resize", "convert", "overwrite", "force"), False)
    return protecting._Job(**{"veils": veils, "keys": (KEY,), "out": tmp_path / "out"} | flags | more)


@pytest.fixture
def bank(tmp_path) -> Path:
    whole(tmp_path / "plain", CONFIGS["sealed"]).bank.save(tmp_path / "bank")
    return tmp_path / "bank"


@pytest.mark.parametrize("lossless", (False, True))
@pytest.mark.parametrize("kind", ("parquet", "tar"))
def test_a_file_gives_a_file_of_protected_photos(tmp_path, bank, kind, lossless):
    source = source_of(kind, tmp_path)
    job = protect_job(tmp_path, bank, lossless=lossless)
    job.out.mkdir()
    worker, veils = protecting.ProtectWorker(job), vk.VeilBank.load(bank)
    for unit in units_of(source, 1, []):
        found = worker(unit)
        originals = read_encoded(unit.where)
        assert found["written"] == len(originals) and not found["problems"]
        protected = read_encoded(str(tmp_path / "out" / unit.name))
        assert [(p.person, p.file) for p in protected] == [(p.person, p.file) for p in originals]
        for before, after in zip(originals, protected, strict=True):
            _written(tmp_path / "photo.png", after.data)
            hidden = _pixels(tmp_path / "photo.png")
            clear = vk.recover(hidden[None], veils, [before.person], key=KEY)[0].int()
            _written(tmp_path / "photo.png", before.data)
            error = (clear - _pixels(tmp_path / "photo.png").int()).abs().max()
            assert error <= (0 if lossless else 4)
        done = worker(unit)
        assert (done["written"], done["skipped"]) == (0, len(originals))


def _pixels(path: Path) -> torch.Tensor:
    from veilkern.data.photos import read_marked

    return read_marked(path, size=(SIDE, SIDE))[0]


def test_a_protected_file_that_is_there_is_compared_and_kept(tmp_path, bank):
    source = as_tar(tmp_path / "a.tar", PEOPLE)
    job = protect_job(tmp_path, bank)
    job.out.mkdir()
    (unit,) = units_of(source, 1, [])
    protecting.ProtectWorker(job)(unit)
    there = (job.out / "a.tar").read_bytes()
    with pytest.raises(OutputError, match="8 bits instead of 16"):
        protecting.ProtectWorker(protect_job(tmp_path, bank, lossless=True))(unit)
    assert (job.out / "a.tar").read_bytes() == there
    again = protecting.ProtectWorker(protect_job(tmp_path, bank, overwrite=True))(unit)
    assert again["written"] == sum(map(len, PEOPLE.values())) and (job.out / "a.tar").read_bytes() != there
    as_tar(tmp_path / "out" / "a.tar", PEOPLE)
    with pytest.raises(OutputError, match="not by veilkern"):
        protecting.ProtectWorker(job)(unit)


@pytest.mark.parametrize("how", ["a link to the folder", "by a URL", "below another name", "a link to the file"])
def test_originals_are_never_replaced(tmp_path, bank, monkeypatch, how):
    source, root = tmp_path / "faces", tmp_path / "faces"
    before = as_tar(root / "a.tar", PEOPLE).read_bytes()
    (tmp_path / "out").mkdir()
    out = {"a link to the folder": tmp_path / "link", "below another name": tmp_path / "out" / ".." / "faces"}.get(
        how, root
    )
    if how == "a link to the folder":
        out.symlink_to(root)
    if how == "a link to the file":
        out = tmp_path / "out"
        (out / "a.tar").symlink_to(root / "a.tar")
        (unit,) = units_of(source, 1, [])
        with pytest.raises(OutputError, match="never replaced"):
            protecting.ProtectWorker(protect_job(tmp_path, bank, overwrite=True))(unit)
    else:
        given = f"file://{source}" if how == "by a URL" else [source / "a.tar"]
        for one in (given, source):
            monkeypatch.setattr(protecting, "run", lambda *_: pytest.fail("work was done"))
            monkeypatch.setattr(protecting, "require_ray", lambda: None)
            with pytest.raises(OutputError, match="lies in the input folder|is the input folder"):
                vk.protect_dataset(one, bank, out, key=KEY, overwrite=True)
    assert (root / "a.tar").read_bytes() == before


def test_what_a_protected_file_lacks_is_added(tmp_path, bank):
    """Who had no veil, or a photo that could not be read, is listed each time, and protected once that is mended."""
    few = {"p0": PEOPLE["p0"] | {"bad.png": b"noise"}, "p1": PEOPLE["p1"], "new": PEOPLE["p2"]}
    source, job = as_tar(tmp_path / "a.tar", few), protect_job(tmp_path, bank)
    job.out.mkdir()
    (unit,) = units_of(source, 1, [])
    first, second = (protecting.ProtectWorker(job)(unit) for _ in range(2))
    assert (first["written"], second["written"], second["skipped"]) == (4, 0, 4)
    assert first["problems"] == second["problems"] and len(first["problems"]) == 2
    kept = {(p.person, p.file): p.data for p in read_encoded(str(job.out / "a.tar"))}
    vk.update_bank(bank, lambda now: now.rename({"p2": "new"}))
    third = protecting.ProtectWorker(job)(unit)
    assert (third["written"], third["skipped"], len(third["problems"])) == (2, 4, 1)
    after = {(p.person, p.file): p.data for p in read_encoded(str(job.out / "a.tar"))}
    assert len(after) == 6 and kept.items() <= after.items()


def test_names_with_folders_in_parquet(tmp_path, bank):
    pytest.importorskip("pyarrow", reason="Parquet is for the `ray` extra")
    one, two, *_ = PEOPLE["p0"].values()
    source = as_parquet(tmp_path / "a.parquet", {"p0": {"f/1.png": one, "/g/1.png": two}})
    job = protect_job(tmp_path, bank)
    job.out.mkdir()
    (unit,) = units_of(source, 1, [])
    found = protecting.ProtectWorker(job)(unit)
    assert found["written"] == 2 and not found["problems"]
    assert [p.file for p in read_encoded(str(job.out / "a.parquet"))] == ["f/1.png", "g/1.png"]


def test_what_cannot_be_protected_in_a_file_is_listed(tmp_path, bank):
    odd = {
        "p0": {"a.jpg": b"noise", "a.png": PEOPLE["p0"]["0.png"], "A.png": PEOPLE["p0"]["1.png"]},
        "stranger": PEOPLE["p1"],
        "p1": {"big.png": encode_png(torch.zeros(3, 9, 9, dtype=torch.uint8)), "0.jpg": PEOPLE["p1"]["0.png"]},
    }
    source, job = as_parquet_or_tar(tmp_path, odd), protect_job(tmp_path, bank)
    job.out.mkdir()
    (unit,) = units_of(source, 1, [])
    found = protecting.ProtectWorker(job)(unit)
    listed = "\n".join(f"{file}: {cause}" for file, cause in found["problems"])
    for part in ("a.jpg", "A.png", "stranger: no veil", "big.png: 9 x 9"):
        assert part in listed, listed
    assert found["written"] == 1 and [p.file for p in read_encoded(str(job.out / unit.name))] == ["0.jpg.png"]


def as_parquet_or_tar(root: Path, people) -> Path:
    return as_parquet(root / "a.parquet", people) if _has("pyarrow") else as_tar(root / "a.tar", people)


def test_a_folder_is_protected_as_protect_folder_does(tmp_path, bank):
    root = as_folder(tmp_path / "faces", PEOPLE)
    (root / "p3" / "bad.png").write_bytes(b"noise")
    worker = protecting.ProtectWorker(protect_job(tmp_path, bank))
    listed = []
    for unit in units_of(root, 3, []):
        found = worker(unit)
        listed += found["problems"]
        assert (again := worker(unit))["written"] == 0 and again["skipped"] == found["written"]
    assert len(listed) == 1 and "bad.png" in listed[0][0]
    clear = vk.VeilBank.load(bank)
    for person, files in PEOPLE.items():
        for name in files:
            assert read_mark(tmp_path / "out" / person / name).key_id == clear.key_id


def test_shards_of_veils_protect_the_units_that_they_are_of(tmp_path):
    source = source_of("tar", tmp_path)
    shards = tmp_path / "shards"
    worker = crafting.CraftWorker(job_of(shards, CONFIGS["sealed"]))
    units = units_of(source, 1, [])
    for unit in units:
        worker(unit)
    job = protect_job(tmp_path, shards)
    job.out.mkdir()
    protector = protecting.ProtectWorker(job)
    assert [protector(unit)["written"] for unit in units] == [11, 12]
    with pytest.raises(BankError, match="no such shard"):
        protector(Unit("other.tar", units[0].where))


@pytest.mark.parametrize(
    "values,cause",
    [({"workers": 0}, "workers"), ({"cores": True}, "cores"), ({"gpus": -1}, "gpus"), ({"workers": 1.5}, "workers")],
)
def test_clusters_are_checked(values, cause):
    with pytest.raises(ValueError, match=f"Cluster: {cause} must be"):
        Cluster(**values)
