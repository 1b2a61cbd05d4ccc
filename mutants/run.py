"""Do the tests notice? Small mutations of the code, each under its module's tests: python mutants/run.py [--sample 200]

Exit status 1 when fewer than 90 % die of those that mutants/survivors.md does not explain. A mutant lives in memory
only: this process has imported torch and pytest, forks, and the child imports the changed module. No file is touched.
"""

from __future__ import annotations

import argparse
import collections
import fnmatch
import importlib.machinery
import importlib.util
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, by torch
os.environ.setdefault("TRITON_INTERPRET", "1")  # torch._dynamo imports triton, which reads it once: as conftest sets it

import hypothesis  # noqa: F401 - these are what takes long to import; nothing of veilkern among them
import numpy  # noqa: F401
import PIL.Image  # noqa: F401
import pytest
import scipy.optimize  # noqa: F401
import torch
import torch._dynamo  # noqa: F401
from mutations import Mutant, mutant_at, places_of

ROOT = Path(__file__).parents[1]
SURVIVORS = Path(__file__).with_name("survivors.md")
THRESHOLD = 0.9
OPS = sorted(path.stem for path in (ROOT / "veilkern" / "ops").glob("[!_]*.py"))
# Modules (patterns; the first that fits counts) and the tests that have to notice; a {stem} is the module's own.
TESTS = (
    ("veilkern/backends/__init__.py", ("tests/test_backends.py",)),
    ("veilkern/backends/launch_tables.py", ("tests/test_launch_tables.py",)),
    ("veilkern/engine/*", ("tests/test_engine*.py",)),
    ("veilkern/backends/*", ()),  # launchers: every op's tests compare their results with the reference, bit by bit
    (
        "veilkern/ops/_checks.py",
        ("tests/test_checks.py", "tests/test_ops.py", *(f"tests/test_{op}.py" for op in OPS), "tests/test_overlap.py"),
    ),
    ("veilkern/ops/_library.py", ("tests/test_backends.py", "tests/test_block_variance.py", "tests/test_ssim.py")),
    (
        "veilkern/ops/[!_]*.py",
        (
            "tests/test_{stem}.py",
            "tests/test_ops.py",
            "tests/test_checks.py",
            "tests/test_backends.py",
            "tests/test_overlap.py",
        ),
    ),
    ("veilkern/reference/keystream.py", ("tests/test_seal.py",)),
    ("veilkern/reference/*", ("tests/test_{stem}.py", "tests/test_ops.py")),
    ("veilkern/testing/compare.py", ("tests/test_compare.py",)),
    ("veilkern/testing/*", ()),  # samples for tests
    ("veilkern/crafting/config.py", ("tests/test_craft.py", "tests/test_craft_sealed.py")),
    ("veilkern/crafting/robust.py", ("tests/test_robust.py",)),
    ("veilkern/crafting/templates.py", ("tests/test_craft_sealed.py",)),
    ("veilkern/crafting/noise.py", ("tests/test_craft_sealed.py",)),
    ("veilkern/crafting/journal.py", ("tests/test_journal*.py",)),
    ("veilkern/crafting/stream.py", ("tests/test_stream.py",)),
    ("veilkern/crafting/held_out.py", ("tests/test_craft.py", "tests/test_stream.py", "tests/test_ensemble.py")),
    ("veilkern/training/recordio.py", ("tests/test_train_records.py",)),
    ("veilkern/training/heads.py", ("tests/test_train_heads.py",)),
    ("veilkern/training/verification.py", ("tests/test_train_verification.py",)),
    ("veilkern/training/extra.py", ("tests/test_train_heads.py",)),
    ("veilkern/training/data.py", ("tests/test_train_data.py",)),
    ("veilkern/training/batches.py", ("tests/test_train_data.py",)),
    *(
        (f"veilkern/training/{stem}.py", ("tests/test_train_config.py", "tests/test_train_loop.py"))
        for stem in ("augment", "config", "schedule")
    ),
    ("veilkern/serving/batcher.py", ("tests/test_serve_batcher.py",)),
    ("veilkern/serving/settings.py", ("tests/test_serve_limits.py", "tests/test_serve.py")),
    ("veilkern/serving/gate.py", ("tests/test_serve_limits.py", "tests/test_serve.py")),
    ("veilkern/serving/veils.py", ("tests/test_serve_veils.py",)),
    ("veilkern/serving/jobs.py", ("tests/test_serve_veils.py",)),
    *((f"veilkern/serving/{stem}.py", ()) for stem in ("server", "job_process", "crafting_job")),  # run in processes
    ("veilkern/serving/served.py", ("tests/test_serve.py", "tests/test_serve_veils.py")),
    ("veilkern/serving/*", ("tests/test_serve.py", "tests/test_serve_limits.py")),
    ("veilkern/training/*", ("tests/test_train_run.py", "tests/test_train_loop.py")),
    ("veilkern/datasets/source.py", ("tests/test_datasets.py",)),
    ("veilkern/datasets/encoded.py", ("tests/test_datasets.py", "tests/test_datasets_protect.py")),
    ("veilkern/datasets/joining.py", ("tests/test_datasets.py",)),
    ("veilkern/datasets/craft.py", ("tests/test_datasets.py", "tests/test_datasets_ray.py")),
    ("veilkern/datasets/protect.py", ("tests/test_datasets_protect.py",)),
    ("veilkern/datasets/cluster.py", ()),  # runs in Ray's processes
    ("veilkern/crafting/batching.py", ("tests/test_identity_batch.py",)),
    ("veilkern/crafting/contour.py", ("tests/test_contour.py", "tests/test_craft.py")),
    (
        "veilkern/crafting/[!_]*.py",
        (
            "tests/test_identity_batch.py",
            "tests/test_craft_device.py",
            "tests/test_craft_sealed.py",
            "tests/test_craft.py",
            "tests/test_craft_failures.py",
            "tests/test_journal.py",
            "tests/test_journal_craft.py",
            "tests/test_contour.py",
        ),
    ),
    ("veilkern/veils/keyed.py", ("tests/test_keyed.py", "tests/test_craft.py")),
    ("veilkern/veils/bank.py", ("tests/test_bank.py", "tests/test_bank_file.py", "tests/test_folders*.py")),
    ("veilkern/veils/compatibility.py", ("tests/test_bank.py", "tests/test_journal*.py")),
    ("veilkern/veils/bank_file.py", ("tests/test_bank_file.py", "tests/test_bank.py")),
    *(
        (f"veilkern/veils/{stem}.py", ("tests/test_folders*.py", "tests/test_rotate.py"))
        for stem in ("folders", "folder_plan", "marking", "rotate", "tags")
    ),
    (
        "veilkern/veils/[!_]*.py",
        ("tests/test_protect*.py", "tests/test_staging.py"),
    ),  # what protect and Protector share
    ("veilkern/networks/matching.py", ("tests/test_matching.py", "tests/test_evaluate.py")),
    ("veilkern/networks/ensemble.py", ("tests/test_ensemble.py",)),
    ("veilkern/networks/[!_]*.py", ("tests/test_architectures*.py", "tests/test_networks.py")),
    ("veilkern/evaluate/lpips.py", ("tests/test_lpips.py",)),
    ("veilkern/evaluate/gallery.py", ("tests/test_gallery.py",)),
    ("veilkern/evaluate/intervals.py", ("tests/test_intervals.py",)),
    ("veilkern/evaluate/identification.py", ("tests/test_evaluate.py", "tests/test_matching.py")),
    ("veilkern/evaluate/[!_]*.py", ("tests/test_evaluate*.py",)),
    ("veilkern/auditing/[!_]*.py", ("tests/test_audit*.py",)),
    ("veilkern/aligning/[!_]*.py", ("tests/test_align.py", "tests/test_align_report.py", "tests/test_align_parts.py")),
    ("veilkern/methods/[!_]*.py", ("tests/test_methods*.py",)),
    ("veilkern/experiments/changes.py", ("tests/test_paper_changes.py",)),
    ("veilkern/experiments/compare.py", ("tests/test_paper_compare.py",)),
    ("veilkern/experiments/tables.py", ("tests/test_paper_compare.py", "tests/test_paper.py")),
    (
        "veilkern/experiments/[!_]*.py",
        ("tests/test_paper.py", "tests/test_paper_resume.py", "tests/test_paper_inputs.py"),
    ),
    ("veilkern/data/marks.py", ("tests/test_folders*.py", "tests/test_photos*.py")),
    ("veilkern/data/files.py", ("tests/test_files.py", "tests/test_people.py")),
    ("veilkern/data/png.py", ("tests/test_photos*.py",)),
    ("veilkern/cli/bank.py", ("tests/test_bank_cli.py",)),
    ("veilkern/cli/*", ()),  # its tests start it as a process of its own, which imports what is on disk
    ("veilkern/filters.py", ("tests/test_recover.py", "tests/test_ssim.py")),
    ("veilkern/[!_]*.py", ("tests/test_{stem}.py",)),
)
# Triton's paths are not the mutated code's; children import the code as it is on disk.
OPTIONS = (
    "-x", "-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist", "-p", "no:benchmark",
    "-o", "addopts=--import-mode=importlib --strict-markers", "-k", "not triton and not gpu", "-m", "not process",
)  # fmt: skip


class Mutated(importlib.machinery.SourceFileLoader):
    """Loads one module from other source than its file's, and keeps no compiled copy."""

    def __init__(self, name: str, path: str, source: str):
        super().__init__(name, path)
        self.source = source

    def get_code(self, fullname):
        """The mutant's."""
        return compile(self.source, self.path, "exec", dont_inherit=True)


class Finder:
    """First in sys.meta_path: answers for the mutated module alone."""

    def __init__(self, mutant: Mutant):
        self.name = mutant.module.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        self.path = str(ROOT / mutant.module)
        self.source = mutant.source

    def find_spec(self, name, path=None, target=None):
        """The importer's question."""
        if name != self.name:
            return None
        loader = Mutated(name, self.path, self.source)
        inside = [str(Path(self.path).parent)] if self.path.endswith("__init__.py") else None  # a package
        return importlib.util.spec_from_file_location(name, self.path, loader=loader, submodule_search_locations=inside)


def tests_of(module: str) -> tuple[str, ...]:
    """The test files for a module; none for one that is not to be mutated."""
    for pattern, tests in TESTS:
        if fnmatch.fnmatch(module, pattern):
            stem = Path(module).stem
            found = (sorted(ROOT.glob(test.format(stem=stem))) for test in tests)
            return tuple(path.relative_to(ROOT).as_posix() for paths in found for path in paths)
    return ()


@dataclass
class Child:
    """pytest in a process forked from this one; mutant: None for the code as it is."""

    tests: tuple[str, ...]
    mutant: Mutant | None
    limit: float  # seconds
    status: int | None = None  # pytest's exit status; None: over the limit

    def start(self) -> Child:
        """Fork."""
        self.output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it outlives this call
        self.started = time.monotonic()
        self.process = os.fork()
        if self.process == 0:
            _be_child(self.tests, self.mutant, self.output.fileno())
        return self

    def ended(self) -> bool:
        """Whether it is over; kills it when its time is."""
        done, status = os.waitpid(self.process, os.WNOHANG)
        self.seconds = time.monotonic() - self.started
        if done:
            self.status = os.waitstatus_to_exitcode(status)
        elif self.seconds > self.limit:
            os.killpg(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        return bool(done) or self.seconds > self.limit

    def read(self) -> str:
        """What it printed."""
        self.output.seek(0)
        return self.output.read()


def _be_child(tests, mutant, output) -> None:
    status = 3
    try:
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(ROOT)
        sys.path[:] = [place for place in sys.path if place != str(Path(__file__).parent)]
        if mutant is not None:
            sys.meta_path.insert(0, Finder(mutant))
        status = int(pytest.main([*OPTIONS, *tests]))
        sys.stdout.flush()
    finally:
        os._exit(status)


def run_all(children: Iterable[Child], jobs: int) -> Iterator[Child]:
    """Each child as it ends; `jobs` of them at a time, in one thread: only a process without threads forks safely."""
    waiting, running = iter(children), []
    while True:
        while len(running) < jobs and (child := next(waiting, None)):
            running.append(child.start())
        if not running:
            return
        for child in [child for child in running if child.ended()]:
            running.remove(child)
            yield child
        time.sleep(0.02)


def _listed(path: Path) -> set[str]:
    """The mutants of a list with lines "- module: `before` -> `after`: reason"."""
    return set(re.findall(r"^- (\S+: `.*` -> `.*`): .+$", path.read_text(), re.MULTILINE)) if path.exists() else set()


def explained() -> set[str]:
    """The mutants that survivors.md gives a reason for."""
    return _listed(SURVIVORS)


def chosen(sample: int, seed: int, only: str) -> list[Mutant]:
    """All mutants, or `sample` of them, drawn by seed; only: a pattern of modules."""
    paths = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "veilkern").rglob("*.py"))]
    places = [
        place
        for module in paths
        if fnmatch.fnmatch(module, only) and tests_of(module)
        for place in places_of(ROOT / module, module)
    ]
    if 0 < sample < len(places):
        places = random.Random(seed).sample(places, sample)
    places.sort(key=lambda place: (place.module, place.begin, place.operator, place.occurrence))
    return [mutant for place in places if (mutant := mutant_at(ROOT / place.module, place))]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=200, help="how many mutants; 0: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="*", help="a pattern of modules, as in veilkern/ops/*")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build" / "mutants.md", help="the survivors, as a list to fill in"
    )
    parser.add_argument("--again", type=Path, help="only the mutants that such a list names")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    given = parser.parse_args()
    if given.again:
        again = _listed(given.again)
        mutants = [mutant for mutant in chosen(0, 0, given.only) if mutant.words in again]
    else:
        mutants = chosen(given.sample, given.seed, given.only)
    print(f"{len(mutants)} mutants", flush=True)
    baselines = _baselines(sorted({test for mutant in mutants for test in tests_of(mutant.module)}), given.jobs)
    if baselines is None:
        return 2
    children = (
        Child(tests, mutant, 20 + 4 * sum(baselines[test] for test in tests))
        for mutant in mutants
        for tests in [tests_of(mutant.module)]
    )
    killed, survivors = collections.Counter(), []
    for child in run_all(children, given.jobs):
        mutant = child.mutant
        # Without the mutant they pass: any other end is its doing, a module that cannot be imported too.
        if child.status == 0:
            survivors.append(mutant)
        killed[mutant.module] += child.status != 0
        fate = "SURVIVED" if child.status == 0 else "time" if child.status is None else "killed"
        place = f"{mutant.module}:{mutant.line}"
        print(f"{fate} {child.seconds:.1f} s {place} `{mutant.before}` -> `{mutant.after}`", flush=True)
    return _report(mutants, killed, survivors, explained(), given.out)


def _baselines(tests: Iterable[str], jobs: int) -> dict[str, float] | None:
    """Seconds of each test file without a mutant; None, and why is printed, when one fails."""
    seconds = {}
    for child in run_all((Child((test,), None, 900) for test in tests), jobs):
        if child.status != 0:
            print(f"the tests fail without a mutation: {' '.join(child.tests)}\n{child.read()[-2000:]}")
            return None
        seconds[child.tests[0]] = child.seconds
    return seconds


def _report(mutants, killed, survivors, excused, out: Path) -> int:
    totals = collections.Counter(mutant.module for mutant in mutants)
    for module, total in sorted(totals.items()):
        print(f"{module}: {killed[module]} of {total} killed")
    new = [mutant for mutant in survivors if mutant.words not in excused]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(f"- {mutant.words}: REASON (line {mutant.line}, {mutant.operator})\n" for mutant in new))
    counted = len(mutants) - (len(survivors) - len(new))
    share = 1 - len(new) / counted if counted else 1.0
    print(f"{share:.1%} of {counted} killed; {len(survivors) - len(new)} survivors explained, {len(new)} not: {out}")
    return int(share < THRESHOLD)


if __name__ == "__main__":
    sys.exit(main())
