"""The stage `tests` of bench/gpu.sh: of all tests those that run something on the GPU, and no others.

`python bench/gpu_tests.py` runs pytest on the files that have some, in several processes: first what only a GPU can
show (tests/test_gpu*.py), then the CUDA kernels, then the Triton kernels. Further arguments are pytest's own; files
among them take the place of those. As a plugin (`-p gpu_tests`) this file chooses and sorts the tests. A file whose
imports the machine lacks is left out by name.
"""

from __future__ import annotations

import ast
import collections
import importlib.util
import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
TESTS = HERE.parent / "tests"
DRY = bool(os.environ.get("VEILKERN_BENCH_DRY"))
# What the text of a file with such tests holds; and files that hold it and run nothing on a GPU.
REACHES = re.compile(r"def test_\w+\([^)]*\bpath\b|mark\.gpu|from triton_cases import")
NO_GPU = ("test_architecture", "test_benches", "test_gpu_script", "test_mutants", "test_triton_launches")


def rank(item) -> int | None:
    """Where a test comes; None for one that needs no GPU."""
    values = set(map(str, item.callspec.params.values())) if hasattr(item, "callspec") else set()
    if item.get_closest_marker("gpu"):
        return 0
    for order, name in enumerate(("cuda", "triton"), 1):
        if name in values or item.path.stem.startswith(f"test_{name}"):
            return order
    return None


def pytest_collection_modifyitems(config, items):
    """Those that need a GPU, in that order: of each test (and op) the first case, then the second; a run that is cut
    off has then seen something of all. In a dry run the first of each file and rank."""
    seen = collections.Counter()
    places = {}
    for item in items:
        if (order := rank(item)) is not None:
            entry = item.callspec.params.get("entry") if hasattr(item, "callspec") else None
            group = (item.nodeid.partition("[")[0], getattr(entry, "name", ""), order)
            places[item] = (order, seen[group])
            seen[group] += 1
    chosen = sorted(places, key=places.get)
    if DRY:
        chosen = list({(places[item][0], item.path): item for item in reversed(chosen)}.values())[::-1]
    kept = set(chosen)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = chosen


def pytest_runtest_logfinish():
    """A process that cannot use the device any more would fail all that is left: xdist begins another."""
    if "PYTEST_XDIST_WORKER" in os.environ and not DRY:
        import torch

        try:
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
        except RuntimeError:
            os._exit(3)


def lacking(path: Path) -> list[str]:
    """What a test file imports that is not here."""
    own = {"veilkern", "bench"} | {other.stem for other in TESTS.glob("*.py")} | {p.stem for p in HERE.glob("*.py")}
    nodes = [node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return sorted(top for top in {name.partition(".")[0] for name in names} - own if not _here(top))


def _here(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def files() -> list[Path]:
    """Files with tests that reach a GPU, the ones that are about nothing else first."""
    found = [p for p in sorted(TESTS.glob("test_*.py")) if p.stem not in NO_GPU and REACHES.search(p.read_text())]
    if DRY:  # one that a GPU alone can run, and one of the two kinds of kernels
        found = [p for p in found if p.stem in ("test_gpu", "test_block_variance")]
    return sorted(found, key=lambda path: not path.stem.startswith("test_gpu"))


def options(cores: int) -> list[str]:
    """pytest's, as far as its plugins are here."""
    chosen = ["-p", "no:cacheprovider", "-p", "gpu_tests", "-q", "-m", "not large"]
    # A kernel that hangs keeps a signal waiting; a thread ends the process, and xdist begins another.
    chosen += ["--timeout=60", "--timeout-method=thread"] if _here("pytest_timeout") else ["-o", "timeout=0"]
    chosen += ["-p", "no:randomly"] if _here("pytest_randomly") else []
    chosen += [] if _here("pytest_benchmark") else ["-o", "addopts=--import-mode=importlib -ra --strict-markers"]
    if _here("xdist") and not DRY:  # `load` hands tests out in their order
        chosen += ["-n", str(max(2, min(cores - 2, 14))), "--dist", "load"]
    return chosen


def main() -> None:
    chosen = []
    for path in () if any(Path(given).is_file() for given in sys.argv[1:] if given.endswith(".py")) else files():
        if missing := lacking(path):
            print(f"left out: {path.name} (no {', '.join(missing)} here)")
        else:
            chosen.append(str(path))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(HERE)]))
    command = [sys.executable, "-m", "pytest", *options(os.cpu_count() or 1), *sys.argv[1:], *chosen]
    print(" ".join(command), flush=True)
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
