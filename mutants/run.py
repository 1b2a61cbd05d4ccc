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
from pathlib import Path

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
OPS = ("blend", "recover", "blend_normalize", "block_variance", "hull_distance", "ssim", "veil_step")
# Modules (patterns; the first that fits counts) and the tests that have to notice; a {stem} is the module's own.
TESTS = (
    (
        "veilkern/ops/_checks.py",
        ("tests/test_checks.py", *(f"tests/test_{op}.py" for op in OPS), "tests/test_overlap.py"),
    ),
    (
        "veilkern/ops/[!_]*.py",
        ("tests/test_{stem}.py", "tests/test_checks.py", "tests/test_backends.py", "tests/test_overlap.py"),
    ),
    ("veilkern/craft.py", ("tests/test_craft.py", "tests/test_journal.py", "tests/test_contour.py")),
    ("veilkern/wave.py", ("tests/test_craft.py", "tests/test_journal.py", "tests/test_contour.py")),
    ("veilkern/journal.py", ("tests/test_journal.py",)),
    ("veilkern/contour.py", ("tests/test_contour.py", "tests/test_craft.py")),
    ("veilkern/keyed.py", ("tests/test_keyed.py", "tests/test_craft.py")),
    ("veilkern/veils.py", ("tests/test_veils.py", "tests/test_bank_file.py", "tests/test_folders.py")),
    ("veilkern/bank_file.py", ("tests/test_bank_file.py", "tests/test_veils.py")),
    ("veilkern/embedder.py", ("tests/test_embedder.py",)),
    ("veilkern/models/[!_]*.py", ("tests/test_embedder.py",)),
    ("veilkern/evaluate/[!_]*.py", ("tests/test_evaluate*.py",)),
    ("veilkern/marks.py", ("tests/test_folders.py", "tests/test_photos.py")),
    ("veilkern/png.py", ("tests/test_photos.py",)),
    ("veilkern/threads.py", ("tests/test_threads.py",)),
    ("veilkern/launches.py", ("tests/test_launches.py",)),
    ("veilkern/cli/bank.py", ("tests/test_bank_cli.py",)),
    ("veilkern/cli/_target.py", ("tests/test_journal.py", "tests/test_cli.py")),
    ("veilkern/cli/[!_]*.py", ("tests/test_cli.py", "tests/test_evaluate.py")),
    ("veilkern/[!_]*.py", ("tests/test_{stem}.py",)),
)
# Triton's paths are not the mutated code's; children import the code as it is on disk.
OPTIONS = (
    "-x", "-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist", "-p", "no:benchmark",
    "-o", "addopts=--import-mode=importlib --strict-markers", "-k", "not triton and not gpu",
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
        self.name, self.path = mutant.module.removesuffix(".py").replace("/", "."), str(ROOT / mutant.module)
        self.source = mutant.source

    def find_spec(self, name, path=None, target=None):
        """The importer's question."""
        if name != self.name:
            return None
        loader = Mutated(name, self.path, self.source)
        return importlib.util.spec_from_file_location(name, self.path, loader=loader)


def tests_of(module: str) -> tuple[str, ...]:
    """The test files for a module; none for one that is not to be mutated."""
    for pattern, tests in TESTS:
        if fnmatch.fnmatch(module, pattern):
            stem = Path(module).stem
            found = (sorted(ROOT.glob(test.format(stem=stem))) for test in tests)
            return tuple(path.relative_to(ROOT).as_posix() for paths in found for path in paths)
    return ()


def run_tests(tests: tuple[str, ...], mutant: Mutant | None, limit: float) -> tuple[int | None, float, str]:
    """pytest's exit status (None: over the limit of seconds), seconds, output; in a child forked from this process."""
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if child == 0:
            _be_child(tests, mutant, output.fileno())
        status = _wait(child, started + limit)
        output.seek(0)
        return status, time.monotonic() - started, output.read()


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


def _wait(child: int, until: float) -> int | None:
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def explained() -> set[str]:
    """The mutants that survivors.md gives a reason for: lines "- module: `before` -> `after`: reason"."""
    if not SURVIVORS.exists():
        return set()
    return set(re.findall(r"^- (\S+: `.*` -> `.*`): .+$", SURVIVORS.read_text(), re.MULTILINE))


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
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    mutants, excused = chosen(given.sample, given.seed, given.only), explained()
    print(f"{len(mutants)} mutants (seed {given.seed})", flush=True)
    baselines: dict[tuple[str, ...], float] = {}
    killed, survivors = collections.Counter(), []
    for mutant in mutants:
        tests = tests_of(mutant.module)
        if tests not in baselines:
            status, seconds, output = run_tests(tests, None, 900)
            if status != 0:
                print(f"the tests fail without a mutation: {' '.join(tests)}\n{output[-2000:]}")
                return 2
            baselines[tests] = seconds
        # Without the mutant they pass: any other end is its doing, a module that cannot be imported too.
        status, seconds, _ = run_tests(tests, mutant, 20 + 4 * baselines[tests])
        if status == 0:
            survivors.append(mutant)
        killed[mutant.module] += status != 0
        fate = "SURVIVED" if status == 0 else "time" if status is None else "killed"
        print(f"{fate} {seconds:.1f} s {mutant.module}:{mutant.line} `{mutant.before}` -> `{mutant.after}`", flush=True)
    return _report(mutants, killed, survivors, excused, given.out)


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
