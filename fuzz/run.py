"""Search for faults with damaged files and odd arguments: python fuzz/run.py [--seconds 60] [--target bank] [--seed 7]

Every target runs in a process of its own, with bounded memory and time an input, so that a crash is caught; what went
wrong is kept in --out as <target>-<hash> with the cause beside it, and `--replay FILE` does it again. The inputs hang
on --seed and their number alone. Exit status 1 when anything was found.
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import faulthandler
import functools
import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

TARGETS = {
    "bank": "file_targets:Bank",
    "photo": "file_targets:Photo",
    "protected": "file_targets:Protected",
    "ops": "op_target:Ops",
}
ROOM = 768 << 20  # bytes that inputs of at most 1 MiB may take beside what the process has
SECONDS_AN_INPUT = int(os.environ.get("VEILKERN_FUZZ_LIMIT", "30"))
KEPT_ALIKE = 2  # inputs kept of faults that end at the same line


def load(name: str, folder: Path):
    """The target of this name, or module:class, with a folder to work in."""
    module, _, attribute = TARGETS.get(name, name).partition(":")
    return getattr(importlib.import_module(module), attribute)(folder)


def limit_memory() -> None:
    """A MemoryError beyond ROOM more bytes than now; not under AddressSanitizer, which maps terabytes."""
    if hasattr(ctypes.CDLL(None), "__asan_init"):
        return
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))


def where(error: BaseException) -> str:
    """Kind of fault and the last line of ours it went through: what is one fault and what is another."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename]
    return f"{type(error).__name__} {frames[-1].filename}:{frames[-1].lineno} {str(error)[:60]}"


def keep(out: Path, name: str, data: bytes, cause: str) -> Path:
    """Write a failing input and its cause."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name.replace(':', '.')}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    path.with_suffix(".txt").write_text(cause)
    return path


def child(name: str, seed: int, start: int, last: int, until: float, out: Path, work: Path) -> None:
    """Input after input; the number and bytes of the one under way lie in `work`, should this process die."""
    target = load(name, Path(tempfile.mkdtemp(dir=work)))
    limit_memory()
    faults: collections.Counter[str] = collections.Counter()
    number = start
    while number < last and time.time() < until:
        data = target.input(number, random.Random(f"{seed} {name} {number}"))
        (work / "input").write_bytes(data)
        (work / "number").write_text(f"{number}")
        faulthandler.dump_traceback_later(SECONDS_AN_INPUT, exit=True)
        try:
            target.check(data)
        except Exception as error:
            fault = where(error)
            faults[fault] += 1
            if faults[fault] <= KEPT_ALIKE:
                path = keep(out, name, data, f"input {number} of seed {seed}\n{traceback.format_exc()}")
                print(f"{name}: {fault}\n  {path}", file=sys.stderr, flush=True)
        faulthandler.cancel_dump_traceback_later()
        number += 1
    print(json.dumps({"inputs": number - start, "faults": sum(faults.values())}))


def search(name: str, seconds: float, inputs: int, seed: int, out: Path) -> tuple[int, int]:
    """Children on one target until the time is up, a new one after each that died; inputs tried and faults found."""
    until, start, faults, tried = time.time() + seconds, 0, 0, 0
    while start < inputs and time.time() < until:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as work:
            order = f"{start} {inputs} {until}"
            command = [sys.executable, __file__, "--child", order, "--target", name, "--seed", f"{seed}", "--out", out]
            environment = {**os.environ, "VEILKERN_FUZZ_WORK": work, "PYTHONFAULTHANDLER": "1"}
            environment["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "8"  # else torch keeps code for every shape, beyond ROOM
            with (Path(work) / "errors").open("w+") as errors:
                run = functools.partial(subprocess.run, stdout=subprocess.PIPE, stderr=errors, text=True, check=False)
                done = run(command, env=environment)
                errors.seek(0)
                told = errors.read()
            sys.stderr.write(told[-4000:])
            if done.returncode == 0:
                result = json.loads(done.stdout.splitlines()[-1])
                return tried + result["inputs"], faults + result["faults"]
            if not (Path(work) / "number").exists():
                raise SystemExit(f"{name}: the target does not start (exit status {done.returncode})")
            how = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit status {done.returncode}"
            last = int((Path(work) / "number").read_text())
            path = keep(out, name, (Path(work) / "input").read_bytes(), f"input {last} of seed {seed}: {how}\n{told}")
            print(f"{name}: the process ended with {how}\n  {path}", file=sys.stderr, flush=True)
            tried, start, faults = tried + last + 1 - start, last + 1, faults + 1
    return tried, faults


def replay(path: Path) -> None:
    """One kept input again, in this process."""
    name = path.name.rpartition("-")[0]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as work:
        target = load(name.replace(".", ":"), Path(work))
        limit_memory()
        target.check(path.read_bytes())
    print(f"{path}: nothing wrong")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together")
    parser.add_argument("--inputs", type=int, default=sys.maxsize, help="at most, of each target")
    parser.add_argument("--target", action="append", help=f"one of {', '.join(TARGETS)}, or module:class; default: all")
    parser.add_argument("--seed", type=int, help="default: another one each day")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--replay", type=Path, metavar="FILE")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.replay:
        replay(given.replay)
        return 0
    seed = int(time.time() // 86400) if given.seed is None else given.seed
    if given.child:
        start, last, until = given.child.split()
        work = Path(os.environ["VEILKERN_FUZZ_WORK"])
        child(given.target[0], seed, int(start), int(last), float(until), given.out, work)
        return 0
    targets, found = given.target or list(TARGETS), 0
    if given.out == parser.get_default("out"):
        shutil.rmtree(given.out, ignore_errors=True)
    for name in targets:
        tried, faults = search(name, given.seconds / len(targets), given.inputs, seed, given.out)
        print(f"{name}: {tried} inputs, {faults} faults (seed {seed})", flush=True)
        found += faults
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
