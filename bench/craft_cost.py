"""What a craft costs: memory a photo, against autograd's, and time a person, by how many are crafted in one call.

`python bench/craft_cost.py memory --out bench/results/craft_cost.jsonl`, `people` or `places`.

memory   the most that a process of its own takes, by Linux's count, for a forward pass and the slope at the input of 16
         photos, beyond what it has before and after
people   time a person, crafted as by bench_craft.py (20 steps, from the photos to the bank), median of three rounds
places   time a photo, forwards and backwards, by how many are in the network at a time
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from bench_craft import NETWORKS, STEPS, network, ours, people
from common import interleaved, machine

from veilkern.engine import frozen

PHOTOS = 16
COUNTS = (2, 40, 400)
PLACES = (1, 2, 4, 8)
ROUNDS = 3
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # or glibc keeps what is freed, and counts it as taken


def memory_rows(names: list[str]):
    """Bytes a photo of each way, each in a process of its own."""
    for name in names:
        found = {}
        for way in ("autograd_trained", "autograd_frozen", "veilkern"):
            command = [sys.executable, __file__, "one", "--network", name, "--way", way]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | RETURNED)
            found[f"{way}_mib_photo"] = round(int(done.stdout) / 2**20 / PHOTOS, 2)
        ours = found["veilkern_mib_photo"]
        shares = {
            f"x_{way}": round(found[f"{way}_mib_photo"] / ours, 1) for way in ("autograd_trained", "autograd_frozen")
        }
        yield {"op": "craft memory", "size": f"{name}, {PHOTOS} photos", **found, **shares}


def one(name: str, way: str) -> int:
    """Bytes that the passes of PHOTOS photos take at most, beyond what stays when they are over."""
    model = network(name)
    if way == "autograd_trained":
        model.module.requires_grad_(True)
    if way == "veilkern":
        model, why = frozen(model, width=PHOTOS)
        assert not why, why

    def both_ways(count: int) -> None:
        x = torch.rand(count, 3, 112, 112).requires_grad_()
        model.embed(x).sum().backward()
        model.module.zero_grad(set_to_none=True)

    both_ways(PHOTOS)  # what libraries keep for another time
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the most so far is what there is now
    before = _status("VmRSS")
    both_ways(PHOTOS)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def people_rows(names: list[str]):
    """Milliseconds a person, by how many there are: the median of rounds in which every number of them has its turn."""
    for name in names:
        model = network(name)
        everybody = {count: people(count) for count in COUNTS}
        for scheme in ("blend", "sealed"):
            ours(model, everybody[COUNTS[0]], scheme)
            found: dict[int, list[float]] = {count: [] for count in COUNTS}
            for _ in range(ROUNDS):
                for count, persons in everybody.items():
                    began = time.perf_counter()
                    for _ in range(max(1, 20 // count)):
                        ours(model, persons, scheme)
                    found[count].append((time.perf_counter() - began) / max(1, 20 // count) / count)
            yield {
                "op": "craft people",
                "size": f"{name}, {scheme}, {STEPS} steps of one photo, ten photos a person",
                **{f"ms_person_of_{count}": round(1000 * statistics.median(found[count]), 1) for count in COUNTS},
            }


def place_rows(names: list[str]):
    """Milliseconds a photo, forwards and backwards, by how many are in the network at a time."""
    for name in names:
        model = network(name)
        calls = {}
        for width in PLACES:
            photos, (fast, _) = torch.rand(width, 3, 112, 112), frozen(model, width=width)
            calls[str(width)] = functools.partial(_slopes, fast, photos)
        times = interleaved(calls)
        ms = {f"ms_photo_of_{width}": round(1000 * times[str(width)] / width, 2) for width in PLACES}
        yield {"op": "craft places", "size": name, **ms}


def _slopes(model, photos: torch.Tensor) -> None:
    model.embed_normalised(photos.clone().requires_grad_()).sum().backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("memory", "people", "places", "one"), help="one: a process of `memory`")
    parser.add_argument("--network", choices=NETWORKS, action="append")
    parser.add_argument("--way", choices=("autograd_trained", "autograd_frozen", "veilkern"))
    parser.add_argument("--out", type=Path, help="append JSON lines here")
    options = parser.parse_args()
    if options.what == "one":
        print(one(options.network[0], options.way))
        return
    rows = {"memory": memory_rows, "people": people_rows, "places": place_rows}[options.what]
    started = time.monotonic()
    for row in rows(options.network or (list(NETWORKS) if options.what != "people" else ["mobilefacenet"])):
        print("  ".join(f"{k} {v}" for k, v in row.items()), f"({time.monotonic() - started:.0f} s)", flush=True)
        if options.out is not None:
            with options.out.open("a") as file:
                file.write(json.dumps(row | machine()) + "\n")


if __name__ == "__main__":
    main()
