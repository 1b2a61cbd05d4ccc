"""The stages `time`, `eager` and `compile` of bench/gpu.sh: all cases of all benchmarks, in one process each.

`python bench/gpu_time.py time --rows FILE` writes a row for each case as soon as it is measured; what is in FILE
already is not measured again. Every stage times ours and the copy too: its ratios are those of one interleaved run.

time      ours as it is served, by the other backend too where that has it, and a copy
eager     plain PyTorch
compile   torch.compile in its default mode, the largest case of each benchmark first; then in its max-autotune mode

A rival that fails is named in its row, and the others go on. Exit status 1 where one of ours failed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
import common
from common import DEVICE, DRY, ROUNDS, Calls, Case, machine, row_of
from forked import every
from gpu_smoke import BACKENDS, refusal, spoiled
from rows import append, read
from run import SCRIPTS

import veilkern as vk
from veilkern import backends
from veilkern.errors import BackendError
from veilkern.testing.table import TABLE

MODES = {"default": "", "max-autotune-no-cudagraphs": "_max_autotune"}  # and what a rival's name gets behind it
LEAST = {"time": 4, "eager": 8, "compile": 15}  # seconds that must be left for a case to be begun
Named = tuple[str, int, Case]


def kind_of(name: str) -> str:
    """The stage that a rival belongs to."""
    return next((kind for kind in ("eager", "compile") if name.startswith(kind)), "time")


def op_of(script: Path) -> str:
    """The op that a benchmark is named after, as the table of ops calls it."""
    stem = script.stem.removeprefix("bench_")
    return f"{stem}_" if f"{stem}_" in TABLE else stem


def cases_of(script: Path) -> list[Named]:
    """(op, its how manieth, case) of a benchmark; in a dry run one of a few values for each set of rivals."""
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    named = [(op_of(script), i, case) for i, case in enumerate(module.CASES)]
    if DRY:
        few = {
            (c.names, c.rivals.args[0].__name__ if callable(c.rivals.args[0]) else ""): (op, i, c)
            for op, i, c in named
            if c.moved < 2**20
        }
        return list(few.values())
    return named


@contextlib.contextmanager
def noting(names: set[str]) -> Iterator[None]:
    """Inside, the backends that serve a call are put into names."""
    plain = backends.select

    def select(op, *arguments):
        launcher = plain(op, *arguments)
        names.add(launcher.__module__.removeprefix("veilkern.backends.").partition(".")[0])
        return launcher

    backends.select = select
    try:
        yield
    finally:
        backends.select = plain


def by(name: str, call: Callable[[], object]) -> Callable[[], object]:
    """The call by one backend, whoever would serve it."""

    def forced():
        with vk.use_backend(name):
            return call()

    return forced


def safe(call: Callable[[], object], avoided: set[str]) -> Callable[[], object]:
    """The call as it is served; by another backend where the one that serves it must not be called again."""
    left = [name for name in BACKENDS if name not in avoided]
    return by(left[0], call) if avoided and left else call


def words_of(error: Exception) -> str:
    """An error in a line; raised again where the device cannot be used any more after it."""
    traceback.print_exc()
    if not alive():
        raise error
    if DEVICE != "cpu":
        torch.cuda.empty_cache()
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def ours(calls: Calls, avoided: set[str]) -> tuple[Calls, dict]:
    """Our calls, with one more for each backend that could have served `veilkern` and did not, and what a row says of
    that."""
    found = {name: call for name, call in calls.items() if kind_of(name) == "time"}
    found["veilkern"] = safe(calls["veilkern"], avoided)
    failed = dict.fromkeys(sorted(avoided), "it hung or ended its process before: not called again")
    served, about = set[str](), {}
    try:
        with noting(served):
            found["veilkern"]()
    except Exception as error:
        failed[" + ".join(sorted(served)) or "veilkern"] = words_of(error)
        del found["veilkern"]
        served.clear()
    for name in BACKENDS:
        if served != {name} and name not in avoided:
            try:
                by(name, calls["veilkern"])()
                found[name] = by(name, calls["veilkern"])
            except BackendError as error:
                about[f"not_by_{name}"] = refusal(error)
            except Exception as error:
                failed[name] = words_of(error)
    other = next((name for name in BACKENDS if name in found), None)
    if "veilkern" not in found and other:  # what should have served failed: this is what there is to time
        served, found["veilkern"] = {other}, found.pop(other)
    return found, about | {"served": " + ".join(sorted(served))} | ({"failed": failed} if failed else {})


def alive() -> bool:
    """Whether this process can still use the device: after an access out of bounds it cannot."""
    try:
        if DEVICE != "cpu":
            torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def seconds_of(call: Callable[[], object]) -> float:
    """A call and all that it has begun on the device."""
    started = time.perf_counter()
    call()
    if DEVICE != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def working(calls: Calls) -> tuple[dict[str, float], dict[str, str]]:
    """The seconds of a call of each that comes to an end, by the host's clock, and why the others do not."""
    seconds, failed = {}, {}
    for name, call in calls.items():
        try:
            for _ in range(1 if DRY else 2):  # the first call compiles
                seconds[name] = seconds_of(call)
        except Exception as error:
            seconds.pop(name, None)
            failed[name] = words_of(error)
    return seconds, failed


def row(stage: str, op: str, case: Case, mode: str, rows: list[dict]) -> dict:
    """The row of a case."""
    common.COMPILE_MODE = mode  # what a rival compiles at its first call is compiled so
    calls, about = case.rivals(), {}
    if stage == "time":
        calls, about = ours(calls, spoiled(op, rows))
    else:
        calls = {name: c for name, c in calls.items() if name in ("veilkern", "copy") or kind_of(name) == stage}
        calls["veilkern"] = safe(calls["veilkern"], spoiled(op, rows))
    times, failed = working(calls)
    failed = about.get("failed", {}) | failed
    about |= {"failed": failed} if failed else {}
    if not {"veilkern", "copy"} <= set(times):
        return {"op": op, "size": case.size} | about
    if not DRY:
        took = sum(times.values())
        how = {"rounds": max(3, min(ROUNDS, int(1 / took))), "warmups": 3 if took < 0.1 else 0}
        times = common.interleaved_on_gpu({name: calls[name] for name in times}, **how)
    times = {name + (MODES[mode] if kind_of(name) == "compile" else ""): t for name, t in times.items()}
    return row_of(op, case, times) | about


def warm(named: list[list[Named]], path: Path, rows: list[dict], until: float) -> None:
    """Run ours once, each benchmark in a process of its own: the compiler keeps its kernels on disk, so that all are
    there when they are measured, and a kernel that hangs or ends its process is known and costs no other's figures."""
    ended = every([(once_each, (cases, rows)) for cases in named], until=until)
    with_cuda = by_cuda()
    for cases, how in zip(named, ended, strict=True):
        for op in sorted({op for op, *_ in cases}) if how is not None else ():
            result = how if "in time" in how else f"its process {how}"
            first = "cuda" if op in with_cuda else "triton"
            rows.append({"stage": "warm", "op": op, "backend": first, "result": result})
            append(path, rows[-1])
            print(f"{op}: {result}, in its first calls", flush=True)


def once_each(cases: list[Named], rows: list[dict]) -> None:
    """Our calls of these cases; an error where the device cannot be used any more, and for no other reason."""
    for op, _, case in cases:
        try:
            ours(case.rivals(), spoiled(op, rows))
        except Exception as error:
            print(f"{op}: {words_of(error)}", flush=True)
        if not alive():  # what a kernel did wrong may be known only now
            raise RuntimeError(f"{op}: the device cannot be used any more")


def by_cuda() -> set[str]:
    """The ops with a CUDA kernel."""
    return {op for backend in backends.list_backends() if backend.name == "cuda" for op in backend.ops}


def largest_first(named: list[list[Named]]) -> list[Named]:
    """The last case of every benchmark, then the one before it, and so on."""
    return [cases[-turn] for turn in range(1, max(map(len, named)) + 1) for cases in named if len(cases) >= turn]


def copy_row() -> dict:
    """A copy on the device, of much more than fits its caches: what no kernel that moves memory can beat by much."""
    size = 2**16 if DRY else 2**32
    seconds = common.interleaved({"copy": common.copy_of(size)})["copy"]
    return {"bytes": 2 * size, "ms": round(seconds * 1e3, 3), "gb_s": round(2 * size / seconds / 1e9, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=tuple(LEAST))
    parser.add_argument("--rows", type=Path, required=True, help="JSON lines are added here")
    parser.add_argument("--until", type=float, default=float("inf"), help="the moment (Unix time) to be done by")
    options = parser.parse_args()
    stage, path, before = options.stage, options.rows, read(options.rows)
    named = [cases for script in SCRIPTS if (cases := cases_of(script))]
    begun = any(r.get("stage") == stage for r in before)  # by the process that this one takes the place of
    if stage == "time" and not begun:  # this process has not looked at the GPU yet
        warm(named[:1] if DRY else named, path, before, min(options.until - 15, time.time() + 40))
    about = machine() | {"stage": stage} | ({"dry": True} if DRY else {})
    if stage == "time" and not begun:
        append(path, about | {"stage": "copy"} | copy_row())
    first = by_cuda()
    named.sort(key=lambda cases: not any(op in first for op, *_ in cases))
    for mode in list(MODES)[: 2 if stage == "compile" and not DRY else 1]:
        for op, index, case in largest_first(named):
            key = {"op": op, "case": index} | ({"mode": mode} if stage == "compile" else {})
            done = any(r.get("stage") == stage and key.items() <= r.items() for r in before)
            if done or not any(kind_of(name) == stage for name in case.names):
                continue
            if time.time() + LEAST[stage] > options.until:
                append(path, about | key | {"size": case.size, "left_out": "no time"})
                continue
            started = time.monotonic()
            try:
                found = row(stage, op, case, mode, before)
            except Exception as error:
                traceback.print_exc()
                said = str(error).strip().partition("\n")[0]
                found = {"op": op, "size": case.size, "failed": {"veilkern": f"{type(error).__name__}: {said}"}}
            append(path, found | key | about | {"took_s": round(time.monotonic() - started, 1)})
            print("  ".join(f"{k} {v}" for k, v in found.items()), flush=True)
            if not alive():  # a new process can use it again, and goes on after this case
                os.execv(sys.executable, [sys.executable, *sys.argv])
            if stage == "compile":
                torch._dynamo.reset()
            if DEVICE != "cpu":
                torch.cuda.empty_cache()
    told([r for r in read(path) if r.get("stage") == stage])


def told(rows: list[dict]) -> None:
    """The last line, and the exit status."""
    left = [f"{r['op']} ({r['size']}{', ' + r['mode'] if 'mode' in r else ''})" for r in rows if "left_out" in r]
    failed = [f"{name} of {r['op']} ({r['size']})" for r in rows for name in r.get("failed", ())]
    bad = any({"veilkern", "copy", *BACKENDS} & set(r.get("failed", ())) for r in rows)
    line = f"{sum('ours_ms' in r for r in rows)} cases measured"
    line += f"; failed: {', '.join(failed)}" if failed else ""
    print(line + (f"; left out, no time: {', '.join(left)}" if left else ""), flush=True)
    os._exit(bad)


if __name__ == "__main__":
    main()
