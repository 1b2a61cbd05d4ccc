"""Load and faults: many kinds of requests, one in ten malformed, while banks are swapped and workers die.

    python bench/serve_faults.py [--requests 10000] [--clients 64] [--swaps 10] [--kills 2]

`veilkern serve` with two workers on loopback. Every picture is compared, bit by bit, with that of the integer formula
under the one bank or the other; a photo of the one bank is recovered or refused by its mark, never taken for the
other's. Fails on a wrong picture, a status that should not be, a request lost without a worker's death, or memory that
grew. Writes bench/results/serve_faults.json and its lines in docs/figures.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from common import machine
from rows import described, replace_between
from serve_client import Load, Reply, drive, request

import veilkern as vk
from veilkern.data.photos import encode_png
from veilkern.veils.marking import Marking

HERE = Path(__file__).parent
PEOPLE, SIDE, WORKERS = 16, 112, 2
TOKEN = "bench-bench-bench-bench"
RAW, FORM = "application/octet-stream", "multipart/form-data; boundary=xXx"
ADMITTED = {"Authorization": f"Bearer {TOKEN}"}
AFTER = 1.0  # seconds after a kill in which its requests are seen to be lost
MALFORMED = {400, 401, 404, 413, 415, 422}


def bank_of(seed: int) -> vk.VeilBank:
    veils = np.random.default_rng(seed).integers(0, 256, (PEOPLE, 3, SIDE, SIDE), dtype=np.uint8)
    return vk.VeilBank(torch.from_numpy(veils), [f"person {i}" for i in range(PEOPLE)], 51)


def form(person: str, data: bytes) -> bytes:
    """A multipart body."""
    part = '--xXx\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n'
    head = part.format("person", "") + person + "\r\n" + part.format("photo", '; filename="a.png"')
    return head.encode() + data + b"\r\n--xXx--\r\n"


def pixels(data: bytes) -> bytes:
    """Of a PNG, [H, W, 3]."""
    return np.array(Image.open(io.BytesIO(data))).tobytes()


class Mix:
    """The requests, and what may come of each: a status, and of 200 which bodies (of PNG: which pixels)."""

    def __init__(self, banks: list[vk.VeilBank], count: int, seed: int):
        self.banks, self.left, self.rng = banks, count, np.random.default_rng(seed)
        self.kinds = [self._raw, self._png, self._recovered_raw, self._recovered_png]
        self.made = [self.kinds[turn % 4]() for turn in range(48)]
        self.bad = self._malformed()

    def next(self) -> tuple[object, bytes] | None:
        if self.left <= 0:
            return None
        self.left -= 1
        pool = self.bad if self.rng.random() < 0.1 else self.made
        return pool[self.rng.integers(len(pool))]

    def _some(self, most: int) -> tuple[torch.Tensor, list[str]]:
        count = int(self.rng.integers(1, most + 1))
        images = torch.from_numpy(self.rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8))
        return images, [f"person {self.rng.integers(PEOPLE)}" for _ in range(count)]

    def _raw(self):
        images, names = self._some(8)
        right = {vk.protect(images, bank, names, layout="NHWC").numpy().tobytes() for bank in self.banks}
        path = "/v1/protect?" + "&".join(f"person={quote(name)}" for name in names)
        return ({200}, right, False), request(path, images.numpy().tobytes(), RAW)

    def _png(self):
        images, names = self._some(1)
        right = {vk.protect(images, bank, names, layout="NHWC").numpy().tobytes() for bank in self.banks}
        body = form(names[0], encode_png(images[0].permute(2, 0, 1)))
        return ({200}, right, True), request("/v1/protect", body, FORM)

    def _recovered_raw(self):
        """Raw photos have no mark: what is not of the bank in use comes back as noise, of a kind that is known."""
        images, names = self._some(4)
        hidden = vk.protect(images, self.banks[0], names, layout="NHWC")
        right = {vk.recover(hidden, bank, names, layout="NHWC").numpy().tobytes() for bank in self.banks}
        path = "/v1/recover?" + "&".join(f"person={quote(name)}" for name in names)
        return ({200}, right, False), request(path, hidden.numpy().tobytes(), RAW, ADMITTED)

    def _recovered_png(self):
        images, names = self._some(1)
        bank = self.banks[int(self.rng.integers(2))]
        hidden = vk.protect(images, bank, names, layout="NHWC")
        right = {vk.recover(hidden, bank, names, layout="NHWC").numpy().tobytes()}
        photo = hidden[0].permute(2, 0, 1)
        marked = encode_png(photo, Marking(bank, None).made(bank.row_of(names[0]) or 0, photo))
        return ({200, 422}, right, True), request("/v1/recover", form(names[0], marked), FORM, ADMITTED)

    def _malformed(self):
        photo = encode_png(torch.zeros(3, SIDE, SIDE, dtype=torch.uint8))
        sent = [
            request("/v1/protect?person=person%201", b"short", RAW),
            request("/v1/protect", form("nobody", photo), FORM),
            request("/v1/protect", form("person 1", photo[:-20]), FORM),
            request("/v1/protect", form("person 1", b"no photo"), FORM),
            request("/v1/protect", b"no form", FORM),
            request("/v1/protect", b"{}", "application/json"),
            request("/v1/recover", form("person 1", photo), FORM),
            request("/v1/recover", form("person 1", b"\x89PNG\r\n\x1a\n" + bytes(50)), FORM, ADMITTED),
            request("/v1/none", b"", RAW),
        ]
        return [((MALFORMED, set(), False), one) for one in sent]


class Judge:
    """Looks at each answer."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.right = self.malformed = self.refused = 0

    def __call__(self, what, reply: Reply | None) -> None:
        if reply is None:
            return
        statuses, right, png = what
        if reply.status not in statuses:
            self.wrong.append(f"{reply.status}, not {sorted(statuses)}: {reply.body[:200]!r}")
        elif reply.status == 200:
            self.right += 1
            if (pixels(reply.body) if png else reply.body) not in right:
                self.wrong.append(f"a wrong picture of {len(reply.body)} bytes")
        elif right:
            self.refused += 1
        else:
            self.malformed += 1


def workers_of(process: subprocess.Popen) -> list[int]:
    found = subprocess.run(["pgrep", "-f", "spawn_main", "-P", str(process.pid)], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def resident(pid: int) -> float:
    """MiB of a process that are its own."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024


async def disturb(process, bank_file: Path, banks, mix: Mix, swaps: int, kills: int, gone: list[float]) -> None:
    """Swap the bank and kill workers, spread over the requests that are left."""
    steps, total = swaps + kills, mix.left
    for step in range(steps):
        while mix.left > total * (1 - (step + 1) / (steps + 1)):
            await asyncio.sleep(0.01)
        if kills and (step + 1) % (steps // kills) == 0:
            gone.append(time.monotonic())
            os.kill(workers_of(process)[0], signal.SIGKILL)
        else:
            await asyncio.to_thread(banks[step % 2].save, bank_file)
            os.kill(process.pid, signal.SIGHUP)


async def run(process, port: int, bank_file: Path, banks, options) -> tuple[Load, Judge, list[float], int]:
    """The load, who judged it, growth and size of a worker's memory, and how many were lost without a death."""
    address, judge, gone = ("127.0.0.1", port), Judge(), []
    warm = Mix(banks, 2000, 1)
    await drive(address, options.clients, warm.next, judge)
    before = [resident(pid) for pid in workers_of(process)]
    mix = Mix(banks, options.requests, 2)
    disturbing = asyncio.ensure_future(disturb(process, bank_file, banks, mix, options.swaps, options.kills, gone))
    load = await drive(address, options.clients, mix.next, judge)
    await disturbing
    for _ in range(600):
        if len(workers_of(process)) == WORKERS:
            break
        await asyncio.sleep(0.1)
    again = Mix(banks, 2000, 3)
    await drive(address, options.clients, again.next, judge)
    stray = sum(not any(0 <= lost - death < AFTER for death in gone) for lost in load.lost)
    return load, judge, [max(resident(pid) for pid in workers_of(process)) - max(before), max(before)], stray


@contextlib.contextmanager
def started(bank_file: Path) -> Iterator[tuple[subprocess.Popen, int]]:
    """The service, and its port."""
    command = [sys.executable, HERE / "serve_server.py", bank_file, "veilkern", "--workers", str(WORKERS)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"VEILKERN_TOKEN": TOKEN},
    )
    assert process.stdout is not None
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(60)


def measured(options: argparse.Namespace) -> tuple[dict, Judge]:
    """What came of it, and who looked."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        bank_file, banks = Path(folder) / "veils.safetensors", [bank_of(0), bank_of(1)]
        banks[0].save(bank_file)
        with started(bank_file) as (process, port):
            load, judge, (grown, before), stray = asyncio.run(run(process, port, bank_file, banks, options))
    found = {name: getattr(options, name) for name in ("requests", "clients", "swaps", "kills")}
    found |= {
        "answers": {str(status): count for status, count in sorted(load.statuses.items())},
        "lost": len(load.lost),
        "stray": stray,
        "wrong": len(judge.wrong),
        "p50_ms": round(load.percentile(0.5), 1),
        "p99_ms": round(load.percentile(0.99), 1),
        "seconds": round(time.monotonic() - begun, 1),
        "own_memory_mib": round(before),
        "grown_mib": round(grown, 1),
        "exit": process.returncode,
    }
    return found | machine(), judge


def faults(found: dict) -> list[str]:
    """In which way it is not as it should be."""
    bars = {
        "a wrong picture or status": found["wrong"] == 0,
        # What a killed worker had in hand: of each client at most one request, and at once.
        "requests lost": found["lost"] <= found["kills"] * found["clients"] and found["stray"] == 0,
        "memory grew": found["grown_mib"] < 0.1 * found["own_memory_mib"],
        "it did not stop as it should": found["exit"] == 0,
    }
    return [name for name, fine in bars.items() if not fine]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--swaps", type=int, default=10)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="into bench/results and docs/figures.md")
    options = parser.parse_args()
    found, judge = measured(options)
    print(json.dumps(found, indent=1))
    print("\n".join(judge.wrong[:10] + faults(found)))
    if options.write:
        (HERE / "results" / "serve_faults.json").write_text(json.dumps(found, indent=1) + "\n")
        replace_between(HERE.parent / "docs" / "figures.md", "serve faults", lines(found))
    return 1 if faults(found) else 0


def lines(found: dict) -> list[str]:
    answers = ", ".join(f"{count:,} of status {status}" for status, count in found["answers"].items())
    asked = f"{found['requests']:,} requests from {found['clients']} clients"
    disturbed = f"the bank swapped {found['swaps']} times, a worker of two killed {found['kills']} times"
    memory = f"{found['own_memory_mib']} MiB after the first 2,000 requests, {found['grown_mib']:+} MiB at the end"
    return [
        f"`python bench/serve_faults.py --write`: {described(found)}",
        "",
        f"{asked}, {disturbed}: {answers}; {found['lost']} without an answer, all within {AFTER:g} s of a kill; "
        f"{found['wrong']} wrong pictures. p50 {found['p50_ms']} ms, p99 {found['p99_ms']} ms. Own memory of a worker: "
        f"{memory}.",
    ]


if __name__ == "__main__":
    sys.exit(main())
