"""What the tests share: small people, a small network, the real faces where they are."""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path

import pytest
import torch

# A shell starts background jobs with SIGINT ignored, and children inherit that: tests that send it need it back.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["COLUMNS"] = "200"  # the command line wraps its errors there; tests of narrow terminals set their own
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported: its kernels run on the CPU then
    if importlib.util.find_spec("veilkern_cuda_emulated"):  # make emulate
        os.environ.setdefault("VEILKERN_CUDA_EMULATE", "1")

from helpers import BACKENDS, PATHS, by_cuda, isas, serving, skipping_what_cuda_leaves

import veilkern as vk
from veilkern.backends import list_backends
from veilkern.samples import load_model, synthetic_people

# Marker: the variable without which its tests are skipped, and why.
ON_REQUEST = {
    "slow": ("VEILKERN_SLOW", "the same code is tested in less by other cases; CI runs it"),
    "large": ("VEILKERN_LARGE", "needs tens of GiB of memory or minutes"),
}


def pytest_addoption(parser):
    parser.addoption(
        "--quick",
        action="store_true",
        help="every test function, but of its cases the first and the last, and nothing in Triton's interpreter",
    )
    parser.addoption("--failures", type=Path, help="each failure into this file at once: a run may be cut off")


def pytest_configure(config):
    if os.environ.get("VEILKERN_REQUIRE_EMULATED") and "cuda" not in BACKENDS:
        raise pytest.UsageError("VEILKERN_REQUIRE_EMULATED is set, and the CUDA kernels are not there: make emulate")
    if (path := config.getoption("--failures")) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Failures(path))


class Failures:
    """Writes each failure when it is known."""

    def __init__(self, path: Path):
        path.write_text("")
        self.path = path

    def pytest_runtest_logreport(self, report):
        if report.failed:
            with self.path.open("a") as file:
                file.write(f"{report.nodeid} ({report.when})\n{report.longreprtext}\n\n")


def pytest_collection_modifyitems(config, items):
    """Skips what runs on request only; with --quick leaves out most cases."""
    for item in items:
        for marker, (variable, why) in ON_REQUEST.items():
            if item.get_closest_marker(marker) and not os.environ.get(variable):
                item.add_marker(pytest.mark.skip(reason=f"{variable} is not set: {why}"))
    left = {item for item in items if _left_to_triton(item)}
    config.hook.pytest_deselected(items=list(left))
    items[:] = [item for item in items if item not in left]
    if config.getoption("--quick"):
        kept = _quick(items)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = [item for item in items if item in kept]


def _left_to_triton(item) -> bool:
    """Whether a case takes the CUDA kernels' path where they have none: of another op, or in a file of another op."""
    given = item.callspec.params if hasattr(item, "callspec") else {}
    stem = given["entry"].launcher.removesuffix("_") if "entry" in given else item.path.stem.removeprefix("test_")
    return given.get("path") == "cuda" and not by_cuda(stem)


def _quick(items) -> set:
    """The first and the last case of each test, without those that the interpreter or a wait makes long; where a test
    goes over the table of ops, those of each op on each path."""
    cases: dict[tuple, list] = {}
    for item in items:
        if "triton" not in item.nodeid and not any(item.get_closest_marker(m) for m in ("slow", "large", "thorough")):
            parameters = item.callspec.params if hasattr(item, "callspec") else {}
            row = (parameters["entry"].name, parameters.get("path")) if "entry" in parameters else ()
            cases.setdefault((item.nodeid.partition("[")[0], *row), []).append(item)
    return {item for group in cases.values() for item in (group[0], group[-1])}


@pytest.fixture(autouse=True)
def same_random_numbers():
    """Whatever ran before, in whatever order: the same torch.rand in each test (pytest-randomly does the others)."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def sample_model() -> vk.FaceModel:
    return load_model()


@pytest.fixture(scope="session")
def people() -> vk.People:
    """Four synthetic people with 6 photos each."""
    return synthetic_people(4, 6, seed=31)


@pytest.fixture(scope="session")
def small_bank(sample_model, people) -> vk.VeilBank:
    """Veils of these people, crafted on their first 4 photos."""
    return vk.craft(sample_model, people.split(2)[0], vk.CraftConfig(seed=1, steps=30), progress=False).bank


@pytest.fixture(scope="session")
def real_faces() -> Path:
    """The folder of real faces and networks; a test that asks for it skips without it."""
    folder = os.environ.get("VEILKERN_REAL_FACES")
    if not folder:
        pytest.skip("VEILKERN_REAL_FACES is not set: no folder of real faces to test on")
    path = Path(folder)
    assert path.is_dir(), f"VEILKERN_REAL_FACES={folder} is not a folder"
    return path


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(params=PATHS)
def path(request):
    """Every way through an op that this machine has."""
    if request.param in ("triton", "cuda") and request.param not in BACKENDS:
        pytest.skip(f"no {request.param} here: {next(b.reason for b in list_backends() if b.name == request.param)}")
    if request.param not in ("reference", "triton", "cuda", *isas()):
        pytest.skip(f"no {request.param} here: the C++ module is not built, or the processor lacks it")
    with serving(request.param), skipping_what_cuda_leaves():
        yield request.param
