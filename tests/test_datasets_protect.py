"""Datasets: what a worker makes of a unit's photos here, protected (test_datasets_ray.py: on Ray)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dataset_cases import (
    CONFIGS,
    KEY,
    PEOPLE,
    SIDE,
    as_folder,
    as_parquet,
    as_tar,
    has,
    job_of,
    source_of,
    whole,
    written,
)

import veilkern as vk
from veilkern.data.photos import encode_png, read_mark
from veilkern.datasets import craft as crafting
from veilkern.datasets import protect as protecting
from veilkern.datasets.encoded import read_encoded
from veilkern.datasets.source import Unit, units_of
from veilkern.errors import BankError, OutputError


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
            written(tmp_path / "photo.png", after.data)
            hidden = _pixels(tmp_path / "photo.png")
            clear = vk.recover(hidden[None], veils, [before.person], key=KEY)[0].int()
            written(tmp_path / "photo.png", before.data)
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
    return as_parquet(root / "a.parquet", people) if has("pyarrow") else as_tar(root / "a.tar", people)


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
