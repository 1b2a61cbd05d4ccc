"""What bench/gpu.sh does: stages one after the other before a deadline, each in processes of its own. Plain Python.

What comes back from a machine that is lent for minutes is a few files, also when it is taken away in the middle: so
every line is in its file as soon as it is known, what matters most comes first, and no stage can take the time of those
before it. A stage has its share of the time and what the stages before it have left; what does not fit is left out by
name.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from forked import end_with_parent
from rows import commit, read, report

ROOT = Path(__file__).parents[1]
DEADLINE = 560  # seconds, of the ten minutes that a call is lent; `DEADLINE=300 bench/gpu.sh` is another


@dataclass(frozen=True)
class Stage:
    """share: seconds that are its own; least: with less it is not begun. command: in words that {rows}, {until} (Unix
    time), {site} (where the package goes) and {out} are put into. kept: what it has measured counts, also where it was
    stopped at its limit. shown: a dry run shows the command alone, since it would run nothing without a device."""

    name: str
    share: int
    least: int
    command: str
    environment: dict[str, str] = field(default_factory=dict)
    kept: bool = False
    shown: bool = False


MEASURE = "--rows {rows} --until {until}"
# In this order: what fails must be known before it is timed, and what is timed before it is compared.
STAGES = (
    Stage("build", 100, 20, "bench/gpu_build.py {site}"),
    Stage("smoke", 45, 10, f"bench/gpu_smoke.py {MEASURE}"),
    Stage("time", 65, 20, f"bench/gpu_time.py time {MEASURE}", kept=True),
    Stage("tests", 110, 30, "bench/gpu_tests.py --failures {out}/failures.txt", {"OMP_NUM_THREADS": "1"}),
    Stage("eager", 40, 15, f"bench/gpu_time.py eager {MEASURE}", kept=True),
    Stage("sanitize", 60, 25, "bench/sanitize_gpu.py --until {until}"),
    Stage("tune", 60, 25, f"bench/gpu_tune.py {MEASURE}", {"VEILKERN_LAUNCHES": "{out}"}, kept=True),
    Stage(
        "large", 25, 15, "bench/gpu_tests.py -n 0 -m large --failures {out}/failures_large.txt {tests}/test_gpu.py",
        {"VEILKERN_LARGE": "1"}, shown=True,
    ),
    Stage("compile", 55, 20, f"bench/gpu_time.py compile {MEASURE}", kept=True),
)  # fmt: skip
# Not in the ten minutes: by name only.
MORE = (
    Stage("craft", 120, 60, "bench/bench_craft.py --out {out}/craft.jsonl", kept=True, shown=True),
    Stage("faces", 60, 30, "bench/real_faces.py --device cuda --quick", shown=True),
)


def gpu() -> str | None:
    """The first GPU's name by the driver itself, None without one: torch would take seconds to say it."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count, device, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(100)
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) or count.value == 0:
        return None
    cuda.cuDeviceGet(ctypes.byref(device), 0)
    cuda.cuDeviceGetName(name, len(name), device)
    return name.value.decode()


def version(package: str) -> str:
    """Of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


class Run:
    """The files of one run, and its stages. Lines go into log.txt as the stages write them, into summary.txt one for
    each, into table.md whenever there are new rows."""

    def __init__(self, out: Path, deadline: float, environment: dict[str, str], site: Path, *, dry: bool):
        self.out, self.deadline, self.environment, self.site, self.dry = out, deadline, environment, site, dry
        self.begun, self.failed = time.time(), False
        self.log, self.summary, self.rows = (out / name for name in ("log.txt", "summary.txt", "rows.jsonl"))
        for path in (self.log, self.summary, self.rows):
            path.write_text("")

    def say(self, line: str) -> None:
        """One line for whoever looks on, and for the summary."""
        print(line, flush=True)
        with self.summary.open("a") as file:
            file.write(line + "\n")

    def run(self, stages: Sequence[Stage]) -> None:
        """All, each within its share and what was left before it; the last may take all that there is."""
        mark = self.begun
        for place, stage in enumerate(stages):
            mark += stage.share
            end = self.begun + self.deadline
            end = end if place == len(stages) - 1 else min(mark, end)
            left = end - time.time()
            if left < stage.least:
                self.say(f"{stage.name}: LEFT OUT, it needs {stage.least} s at least and has {max(left, 0):.0f}")
            else:
                self.one(stage, end)

    def words(self, stage: Stage, end: float) -> tuple[list[str], dict[str, str]]:
        """The command and the environment of a stage that must end then."""
        given = {
            "rows": shlex.quote(str(self.rows)), "until": f"{end - 2:.0f}", "site": shlex.quote(str(self.site)),
            "out": shlex.quote(str(self.out)), "tests": shlex.quote(str(ROOT / "tests")),
        }  # fmt: skip
        command = [sys.executable, *shlex.split(stage.command.format(**given))]
        return command, {name: value.format(out=self.out) for name, value in stage.environment.items()}

    def one(self, stage: Stage, end: float) -> None:
        """Run a stage: its line in the summary, and where it failed the end of what it wrote."""
        started = time.time()
        command, more = self.words(stage, end)
        shown = shlex.join([*(f"{k}={v}" for k, v in more.items()), *command])
        with self.log.open("a") as log:
            log.write(f"\n== {stage.name}, {end - started:.0f} s at most: {shown}\n")
        if self.dry and stage.shown:
            self.say(f"{stage.name}: needs a device, would run: {shown}")
            return
        place = self.log.stat().st_size
        status, stopped = self.wait(command, self.environment | more, end)
        said = self.log.read_bytes()[place:].decode(errors="replace").splitlines()
        last = next((line for line in reversed(said) if line.strip()), "")[:400]
        bad = not (stage.kept if stopped else status == 0)
        how = "stopped at its limit" if stopped else "passed" if status == 0 else f"exit {status}"
        self.say(f"{stage.name}: {f'FAILED ({how})' if bad else how}, {time.time() - started:.0f} s: {last}")
        self.failed |= bad
        if bad:
            print("\n".join(said[-30:]), flush=True)
        self.table()

    def wait(self, command: list[str], environment: dict[str, str], end: float) -> tuple[int, bool]:
        """Run a command until then: its exit status, and whether it was stopped. What it leaves running is ended."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=_of_its_own,
            )  # fmt: skip
        try:
            return process.wait(max(end - time.time(), 0)), False
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(3)
            return -1, True
        finally:
            _signal(process, signal.SIGKILL)
            process.wait()

    def table(self) -> None:
        """What is known so far, as a page."""
        try:
            text = report(read(self.rows))
        except Exception as error:  # the rows are what counts, and another machine can read them
            text = f"no table: {type(error).__name__}: {error}"
        if text:
            (self.out / "table.md").write_text(("A dry run: no figures.\n\n" if self.dry else "") + text + "\n")


def _of_its_own() -> None:
    """A group of processes to end together, in the session of this one: a lent machine ends what a session leaves."""
    os.setpgid(0, 0)
    end_with_parent()


def _signal(process: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def environment_of(site: Path, *, dry: bool) -> dict[str, str]:
    """What all stages are given: the package that was built, and on which device."""
    dropped = ("TRITON_INTERPRET", "VEILKERN_CUDA_EMULATE", "VEILKERN_BENCH_DRY", "VEILKERN_SLOW", "VEILKERN_LARGE")
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    environment |= {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(site), environment.get("PYTHONPATH")])),
        "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", "VEILKERN_COMMIT": commit(),
        "OMP_NUM_THREADS": "2" if dry else "4", "VEILKERN_BENCH_COMPILE": "default",
    }  # fmt: skip
    if not dry:
        return environment | {"VEILKERN_BENCH_DEVICE": "cuda"}
    emulated = {"VEILKERN_CUDA_EMULATE": "1"} if importlib.util.find_spec("veilkern_cuda_emulated") else {}
    about = {"VEILKERN_BENCH_DRY": "1", "VEILKERN_BENCH_DEVICE": "cpu", "TRITON_INTERPRET": "1"}
    return environment | about | emulated | {"CUDA_VISIBLE_DEVICES": ""}


def chosen(names: str | None) -> list[Stage]:
    """The stages of these names, in their order; all but those by name only without any."""
    known = {stage.name: stage for stage in (*STAGES, *MORE)}
    wanted = (names or "").replace(",", " ").split()
    if unknown := sorted(set(wanted) - set(known)):
        sys.exit(f"bench/gpu.sh: no stage {', '.join(unknown)}; there are {', '.join(known)}")
    return [stage for stage in known.values() if stage.name in wanted] or list(STAGES)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/gpu.sh", description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="?", type=Path, default=Path(os.environ.get("OUT") or ROOT / "build" / "gpu"))
    parser.add_argument("--stages", default=os.environ.get("STEPS"), help="these only: build,smoke,time")
    parser.add_argument("--dry", action="store_true", help="on the CPU, on a few values: does all of it run?")
    options = parser.parse_args(arguments)
    stages, name, deadline = chosen(options.stages), gpu(), float(os.environ.get("DEADLINE") or DEADLINE)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="veilkern-gpu-") as folder:
        site = Path(folder) / "site"
        run = Run(options.out.resolve(), deadline, environment_of(site, dry=options.dry), site, dry=options.dry)
        if name is None and not options.dry:
            run.say("no GPU that the driver sees: nothing is measured and nothing claimed (--dry needs none)")
            return 2
        about = f"torch {version('torch')}, Triton {version('triton')}, Python {platform.python_version()}"
        where = "a dry run on the CPU, no figures" if options.dry else name
        run.say(f"{where}, {about}, commit {commit()}, {deadline:.0f} s")
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is ended, and the folder removed
        run.run(stages)
        run.say(f"{'FAILED' if run.failed else 'passed'}, {time.time() - run.begun:.0f} s in all")
    if (table := run.out / "table.md").is_file():
        print("\n" + table.read_text(), flush=True)
    return int(run.failed)


if __name__ == "__main__":
    sys.exit(main())
