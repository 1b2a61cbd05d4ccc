"""A dataset of small noise photos, as a folder, as Parquet and as tars; and a network that any process can make."""

from __future__ import annotations

import importlib.util
import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
from torch import nn

import veilkern as vk
from veilkern.crafting.run import describe, master_key
from veilkern.data.photos import encode_png
from veilkern.datasets import craft as crafting
from veilkern.datasets.source import Reading

SIDE, COUNTS = 8, [3, 1, 2, 5, 1, 2, 2, 4, 1, 2]
KEY = b"a key of datasets, of 32 bytes.."
CONFIGS = {
    "blend": vk.CraftConfig(steps=3, photos_in_flight=4),
    "sealed": vk.CraftConfig(steps=3, scheme="sealed", block=(3, 3), photos_in_flight=4),
}


def model() -> vk.FaceModel:
    torch.manual_seed(3)
    return vk.FaceModel(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 6)), size=SIDE, name="linear")


def photos(seed: int = 0) -> dict[str, dict[str, bytes]]:
    """PNG bytes by person and file name."""
    g = torch.Generator().manual_seed(seed)
    return {
        f"p{p}": {
            f"{i}.png": encode_png(torch.randint(0, 256, (3, SIDE, SIDE), generator=g, dtype=torch.uint8))
            for i in range(count)
        }
        for p, count in enumerate(COUNTS)
    }


def as_folder(root: Path, people: dict[str, dict[str, bytes]]) -> Path:
    for person, files in people.items():
        (root / person).mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (root / person / name).write_bytes(data)
    return root


def as_parquet(path: Path, people: dict[str, dict[str, bytes]], *, struct: bool = False, file: bool = True) -> Path:
    import pyarrow
    from pyarrow import parquet

    rows = [(person, name, data) for person, files in people.items() for name, data in files.items()]
    images = [{"bytes": data, "path": name} if struct else data for _, name, data in rows]
    columns = {"other": list(range(len(rows))), "image": images, "person": [row[0] for row in rows]}
    if file:
        columns["file"] = [row[1] for row in rows]
    path.parent.mkdir(exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path)
    return path


def as_tar(path: Path, people: dict[str, dict[str, bytes]], *, owners: bool = False) -> Path:
    """owners: the folders say nothing, a .json beside each photo does."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for person, files in people.items():
            for name, data in files.items():
                base = f"{len(archive.getnames()):06d}" if owners else f"{person}/{name.removesuffix('.png')}"
                _add(archive, f"{base}.png", data)
                if owners:
                    _add(archive, f"{base}.json", json.dumps({"person": person}).encode())
    return path


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def halves(people: dict[str, dict[str, bytes]]) -> list[dict[str, dict[str, bytes]]]:
    names = list(people)
    return [{name: people[name] for name in part} for part in (names[:4], names[4:])]


PEOPLE = photos()
READING = Reading((SIDE, SIDE))


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


def written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def has(module: str) -> bool:

    return importlib.util.find_spec(module) is not None


def job_of(folder: Path, config: vk.CraftConfig, key=KEY, **more) -> crafting._Job:
    folder.mkdir(exist_ok=True)
    header = describe(model(), (SIDE, SIDE), config, master_key(KEY, config))
    values = {"model": model, "config": config, "key": key, "header": header, "folder": folder} | more
    return crafting._Job(**{"reading": READING, "threads": 1, "gpus": 0.0} | values)


def whole(root: Path, config: vk.CraftConfig) -> vk.CraftResult:
    people = vk.read_people(as_folder(root, PEOPLE), size=SIDE)
    return vk.craft(model(), people, config, key=KEY, threads=1, progress=False)
