"""Photos a second and waiting times of `veilkern serve` at 1, 8 and 64 clients, beside the same service with NumPy.

    python bench/serve_load.py [--seconds 3] [--rounds 3]

One interleaved run on loopback: every server is up from the beginning, and each case asks one after the other, round
after round. The load comes from this process, which shares the machine's cores with the servers. Raw requests carry
uint8 [N, 112, 112, 3], PNG ones a multipart form. Writes bench/results/serve.jsonl and the table of docs/figures.md.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import machine
from rows import append, described, replace_between
from serve_client import Load, drive, request
from serve_server import ARITHMETICS

import veilkern as vk
from veilkern.data.photos import encode_png

HERE = Path(__file__).parent
PEOPLE, SIDE, CLIENTS = 64, 112, (1, 8, 64)
RAW, FORM = "application/octet-stream", "multipart/form-data; boundary=xXx"
CASES = [("raw", 1), ("raw", 16), ("png", 1)]
SECRET = {"VEILKERN_TOKEN": "bench-bench-bench-bench"}


def bank() -> vk.VeilBank:
    veils = np.random.default_rng(0).integers(0, 256, (PEOPLE, 3, SIDE, SIDE), dtype=np.uint8)
    return vk.VeilBank(torch.from_numpy(veils), [f"person {i}" for i in range(PEOPLE)], 51)


def requests(kind: str, photos: int) -> list[bytes]:
    """A few different requests of `photos` photos, of mixed people."""
    rng, found = np.random.default_rng(1), []
    for turn in range(32):
        images = rng.integers(0, 256, (photos, SIDE, SIDE, 3), dtype=np.uint8)
        names = [f"person {(turn + i) % PEOPLE}" for i in range(photos)]
        if kind == "raw":
            path = "/v1/protect?" + "&".join(f"person={quote(name)}" for name in names)
            found.append(request(path, images.tobytes(), RAW))
        else:
            part = '--xXx\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n'
            body = part.format("person", "").encode() + names[0].encode() + b"\r\n"
            smooth = np.repeat(np.repeat(images[:, ::16, ::16], 16, 1), 16, 2)  # a photo's size as a file, about
            data = encode_png(torch.from_numpy(smooth[0]).permute(2, 0, 1))
            body += part.format("photo", '; filename="a.png"').encode() + data + b"\r\n--xXx--\r\n"
            found.append(request("/v1/protect", body, FORM))
    return found


def ask(port: int, clients: int, asked: list[bytes], seconds: float) -> tuple[Load, float]:
    """A load of so many clients, and how long it took."""
    end, turn = time.perf_counter() + seconds, itertools.cycle(asked)

    def judge(_, reply) -> None:
        assert reply is not None and reply.status == 200, reply

    def following():
        return (None, next(turn)) if time.perf_counter() < end else None

    begun = time.perf_counter()
    load = asyncio.run(drive(("127.0.0.1", port), clients, following, judge))
    return load, time.perf_counter() - begun


def started(bank_file: Path, arithmetic: str) -> tuple[subprocess.Popen, int]:
    """A server, and its port, once it serves."""
    command = [sys.executable, HERE / "serve_server.py", bank_file, arithmetic]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | SECRET
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    for _ in range(600):
        try:
            asyncio.run(asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 1))
            return process, port
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{arithmetic}: did not start")


def measure(ports: dict[str, int], seconds: float, rounds: int) -> list[dict]:
    """A row a case: photos a second, and the medians over rounds of the p50 and p99 of each arithmetic."""
    rows = []
    for (kind, photos), clients in itertools.product(CASES, CLIENTS):
        asked, found = requests(kind, photos), {name: [] for name in ports}
        for round_ in range(rounds + 1):
            for name, port in ports.items():
                load, took = ask(port, clients, asked, seconds if round_ else 0.5)
                if round_:  # the first is to warm up
                    rate = photos * len(load.seconds) / took
                    found[name].append((rate, load.percentile(0.5), load.percentile(0.99)))
        row: dict = {"case": f"{kind}, {photos} photo{'s' * (photos > 1)} a request", "clients": clients, "served": {}}
        for name, values in found.items():
            rate, p50, p99 = (statistics.median(column) for column in zip(*values, strict=True))
            row["served"][name] = {"photos_per_s": round(rate), "p50_ms": round(p50, 2), "p99_ms": round(p99, 2)}
        rows.append(row | machine())
        print(row, flush=True)
    return rows


def table(rows: list[dict]) -> list[str]:
    head = ["request", "clients"]
    head += [f"{name}: {what}" for name in ARITHMETICS for what in ("photos/s", "p50 / p99, ms")] + ["x numpy"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [row["case"], str(row["clients"])]
        for name in ARITHMETICS:
            one = row["served"][name]
            cells += [f"{one['photos_per_s']:,}", f"{one['p50_ms']} / {one['p99_ms']}"]
        ratio = row["served"]["veilkern"]["photos_per_s"] / row["served"]["numpy"]["photos_per_s"]
        lines.append("| " + " | ".join([*cells, f"{ratio:.2f}"]) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of one arithmetic in one round of a case")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bank_file = Path(folder) / "veils.safetensors"
        bank().save(bank_file)
        servers = {name: started(bank_file, name) for name in ARITHMETICS}
        try:
            ports = {name: port for name, (_, port) in servers.items()}
            rows = measure(ports, options.seconds, options.rounds)
        finally:
            for process, _ in servers.values():
                process.terminate()
                process.wait()
    results = HERE / "results" / "serve.jsonl"
    results.unlink(missing_ok=True)
    for row in rows:
        append(results, row)
    about = f"`python bench/serve_load.py`: {described(rows[0])}"
    replace_between(HERE.parent / "docs" / "figures.md", "serve", [about, "", *table(rows)])


if __name__ == "__main__":
    main()
