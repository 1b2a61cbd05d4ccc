"""The unit costs that docs/scale.md reckons with: photos a second of each stage, bytes of each thing.

`python bench/unit_costs.py --faces FACES --out bench/results/unit_costs.jsonl`: FACES as for real_faces.py. One thread
throughout: what a core does; medians of three rounds. people_per_s: from ten photos each to the bank, sealed, 16 people
(IR-50: 2), once.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from bench_craft import network, people
from common import interleaved, machine

import veilkern as vk
from veilkern.data.photos import read_photo, write_png
from veilkern.veils import keyed
from veilkern.veils.folders import protect_folder, recover_folder

KEY = b"unit costs: a key that is no secret"
ROUNDS = 3


def bank_of(names: list[str]) -> vk.VeilBank:
    """Sealed veils without a craft: their cost is another's."""
    g = torch.Generator().manual_seed(0)
    veils = torch.randint(0, 193, (len(names), 3, 112, 112), generator=g, dtype=torch.uint8)
    config = vk.CraftConfig(scheme="sealed").as_dict()
    records = [{"name": name, "status": "converged", "photo_ids": ["0" * 16] * 10} for name in names]
    return vk.VeilBank(veils, names, 0, records, config=config, key_id=keyed.key_id(KEY), levels=64)


def of_folders(faces: Path, work: Path) -> dict:
    """Photos a second of each stage on the photos of `faces`, and the bytes of each thing."""
    photos = vk.read_people(faces)
    files = [faces / file for file in photos.files]
    bank, rows = bank_of(photos.names), photos.rows
    count = len(files)
    found = {"photos": count, "png_bytes": sum(f.stat().st_size for f in files) / count}
    hidden = vk.protect(photos.images, bank, rows, key=KEY)
    jpeg = io.BytesIO()
    Image.open(files[0]).save(jpeg, "JPEG", quality=90)
    found["jpeg_bytes"] = len(jpeg.getvalue())
    (work / "one.jpg").write_bytes(jpeg.getvalue())
    stages = {
        "read_png": lambda: [read_photo(file) for file in files],
        "read_jpeg": lambda: [read_photo(work / "one.jpg") for _ in files],
        "sealed": lambda: vk.protect(photos.images, bank, rows, key=KEY),
        "unsealed": lambda: vk.recover(hidden, bank, rows, key=KEY),
        "written": lambda: [write_png(work / "one.png", image) for image in hidden],
        "protect_folder": lambda: protect_folder(faces, bank, work / "hidden", key=KEY, overwrite=True, progress=False),
        "recover_folder": lambda: recover_folder(
            work / "hidden", bank, work / "back", key=KEY, overwrite=True, progress=False
        ),
    }
    times = interleaved(stages, rounds=ROUNDS)
    found |= {f"{name}_per_s": round(count / seconds, 1) for name, seconds in times.items()}
    made = list((work / "hidden").rglob("*.png"))
    found["sealed_bytes"] = sum(file.stat().st_size for file in made) / len(made)
    bank.save(work / "bank")
    found["bank_bytes_a_person"] = (work / "bank").stat().st_size / len(bank)
    return found


def of_crafts() -> dict:
    """Persons a second, and photos a second through the network alone."""
    found = {}
    for name in ("mobilefacenet", "iresnet50"):
        model, persons = network(name), people(16 if name == "mobilefacenet" else 2)
        for robust in ("none", "mild"):
            config = vk.CraftConfig(scheme="sealed", robust=robust, early_stop=False)
            began = time.perf_counter()
            vk.craft(model, persons, config, key=KEY, progress=False)
            found[f"{name}_{robust}_people_per_s"] = round(len(persons) / (time.perf_counter() - began), 4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=Path, default=os.environ.get("VEILKERN_REAL_FACES"))
    parser.add_argument("--out", type=Path, help="append a JSON line here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        found = of_folders(Path(options.faces) / "people", Path(work))
    row = {"op": "unit costs", "size": "one thread", **{k: round(v, 4) for k, v in found.items()}, **of_crafts()}
    print("\n".join(f"{k}: {v}" for k, v in row.items()))
    if options.out is not None:
        with options.out.open("a") as file:
            file.write(json.dumps(row | machine()) + "\n")


if __name__ == "__main__":
    main()
