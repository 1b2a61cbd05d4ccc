"""The stage `smoke` of bench/gpu.sh: every op by every backend for GPUs on a few values, against the reference.

`python bench/gpu_smoke.py --rows FILE` writes a row for each: `right`, why the backend does not serve it, or what went
wrong. Each has a process of its own, several at a time: a kernel that ends its process, or leaves the device unusable
to it, takes none of the others along. Exit status 1 where one is wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import DRY, machine
from forked import every
from rows import append, read

import veilkern as vk
from veilkern import backends
from veilkern.errors import BackendError
from veilkern.testing.entry import Entry, Sample
from veilkern.testing.making import on
from veilkern.testing.table import TABLE

BACKENDS = ("cuda", "triton")
SECONDS = 60  # a kernel that hangs would take all the time there is
ORDINARY = 4  # a Triton kernel takes seconds to compile for each kind of call


def samples(entry: Entry, name: str) -> list[Sample]:
    """For Triton a few ordinary ones, and one each that is odd or lies otherwise in memory; for the CUDA kernels, which
    are compiled already and serve some calls only, all. In a dry run ordinary ones."""
    if name == "cuda":
        return [s for s in entry.samples if s.light and (s.kind == "ordinary" or not DRY)]
    kinds = {kind: [s for s in entry.samples if s.kind == kind] for kind in ("ordinary", "odd", "channels_last")}
    ordinary = kinds["ordinary"]
    few = ordinary[:: -(-len(ordinary) // ORDINARY)]
    return ordinary[:1] if DRY else few + kinds["odd"][:1] + kinds["channels_last"][:1]


def spoiled(op: str, rows: list[dict]) -> set[str]:
    """The backends whose kernel of this op must not be called again: it ended its process, or left the device unusable,
    or hangs. (One of Triton's that was not done in time was still being compiled.)"""
    bad = [r for r in rows if r.get("stage") in ("smoke", "warm") and r["op"].rstrip("_") == op.rstrip("_")]
    found = {r["backend"] for r in bad if "its process" in r["result"] or "CUDA error" in r["result"]}
    return found | {r["backend"] for r in bad if "not end in time" in r["result"] and r["backend"] == "cuda"}


def refusal(error: BackendError) -> str:
    """What the backend says, without the words around it."""
    return str(error).partition(": ")[2].removeprefix("no backend serves this call (").removesuffix(")")


def tried(entry: Entry, name: str) -> str:
    """`right`, or why not, in a line."""
    backend = backends._load(name)
    if not backend.available:
        return f"absent: {backend.reason}"
    if entry.launcher in backend.lacks:
        return backend.lacks[entry.launcher]
    device = backend.devices[0]
    if name == "cuda" and not DRY:  # a device that runs it wrongly would otherwise look like one that is not served
        from veilkern.backends.cuda._probe import failure

        if wrong := failure(entry.launcher, torch.device(device, 0)):
            return f"WRONG: on its own examples: {wrong}"
    right, left = 0, {}
    with vk.use_backend(name):
        for sample in samples(entry, name):
            try:
                found = entry.call(on(device, sample.make()))
            except BackendError as error:
                left[sample.label] = refusal(error).removeprefix(f"{name}: ")
                continue
            entry.require(tuple(t.cpu() for t in found), entry.truth(sample.make()), sample.make())
            right += 1
    words = f"right, {right} of {right + len(left)} samples" if right else "serves none of its samples"
    return "; ".join([words, *sorted(set(left.values()))])


def one(path: Path, entry: Entry, name: str) -> None:
    """A row, whatever happens."""
    row = {"stage": "smoke", "op": entry.name, "backend": name} | ({"dry": True} if DRY else {})
    started = time.monotonic()
    try:
        result = tried(entry, name)
    except Exception as error:
        traceback.print_exc()
        result = f"WRONG: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    append(path, row | {"result": result, "took_s": round(time.monotonic() - started, 2)})
    print(f"{entry.name}, {name}: {result}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, required=True, help="JSON lines are added here")
    parser.add_argument("--until", type=float, default=float("inf"), help="the moment (Unix time) to be done by")
    options = parser.parse_args()
    if DRY:
        backends.list_backends()  # once for all; on a GPU nothing may look at it before the processes part
    pairs = [(entry, name) for name in BACKENDS for entry in TABLE.values()]
    until = min(options.until, time.time() + (600 if DRY else SECONDS))
    ended = every([(one, (options.rows, *pair)) for pair in pairs], until=until)
    for (entry, name), how in zip(pairs, ended, strict=True):
        if how is not None:
            result = f"NOT KNOWN: {how}" if "in time" in how else f"WRONG: its process {how}"
            append(options.rows, {"stage": "smoke", "op": entry.name, "backend": name, "result": result})
            print(f"{entry.name}, {name}: {result}", flush=True)
    rows = [row for row in read(options.rows) if row.get("stage") == "smoke"]
    counts = [
        f"{name} {sum(r['backend'] == name and r['result'].startswith('right') for r in rows)} right"
        for name in BACKENDS
    ]
    for fault in ("WRONG", "NOT KNOWN"):
        found = [f"{row['op']} ({row['backend']})" for row in rows if row["result"].startswith(fault)]
        counts += [f"{fault}: {', '.join(found)}"] if found else []
    bad = any(row["result"].startswith(("WRONG", "NOT KNOWN: did not end")) for row in rows)
    print(f"{vk.__file__}; {machine()['backend']}")
    print(f"of {len(TABLE)} ops: {'; '.join(counts)}", flush=True)
    os._exit(bad)  # a device that a kernel spoiled may refuse to be left in order


if __name__ == "__main__":
    main()
