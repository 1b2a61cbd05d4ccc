"""What is published: the sdist, the version in each place, the wheels that are configured, the files on the project."""

from __future__ import annotations

import fnmatch
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import veilkern as vk

ROOT = Path(__file__).parents[1]
tomllib = pytest.importorskip("tomllib")  # Python 3.11
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def release(name: str):
    """release/NAME.py as a module."""
    spec = importlib.util.spec_from_file_location(f"release_{name}", ROOT / "release" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sdists(tmp_path_factory):
    """Two of them, as `python -m build --sdist --no-isolation` makes them, of a copy: nobody is at work on it."""
    pytest.importorskip("scikit_build_core")
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout: which files are to be in the sdist is not known")
    copy, made = tmp_path_factory.mktemp("copy"), []
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    for turn in ("first", "second"):
        folder = tmp_path_factory.mktemp(turn)
        code = f"from scikit_build_core.build import build_sdist; build_sdist({str(folder)!r})"
        subprocess.run([sys.executable, "-c", code], cwd=copy, check=True, capture_output=True, timeout=100)
        made.append(next(folder.glob("*.tar.gz")))
    return made


def test_the_version_is_the_same_wherever_it_is_said():
    check = release("check")
    assert set(check.versions().values()) == {vk.__version__}
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", vk.__version__)
    assert "version" in PROJECT["project"]["dynamic"] and "version" not in PROJECT["project"]
    (source,) = PROJECT["tool"]["dynamic-metadata"]
    assert source["field"] == "version" and source["input"] == "veilkern/__init__.py"


def test_a_version_that_differs_is_found(tmp_path, monkeypatch):
    check = release("check")
    for place in check.versions():
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(
            (ROOT / place).read_text().replace(f"version: {vk.__version__}", "version: 9.9.9")
        )
    monkeypatch.setattr(check, "ROOT", tmp_path)
    text = f"Name: veilkern\nVersion: {vk.__version__}\nRequires-Python: >=3.10\nLicense-Expression: Apache-2.0\n"
    assert any("9.9.9" in fault for fault in check.metadata_faults(text))


def test_the_sdist_holds_what_it_must_and_is_the_same_each_time(sdists):
    first, second = sdists
    assert first.read_bytes() == second.read_bytes()
    check = release("check")
    assert not check.sdist_faults(first)
    with tarfile.open(first) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("kernels/ssim.cu", "csrc/cuda/emulated/fibers.cpp", "tests/conftest.py", "veilkern/py.typed"):
        assert name in names
    assert not any(fnmatch.fnmatch(name, form) for name in names for form in check.SECRET)


@pytest.mark.parametrize(
    ("name", "size", "fault"),
    [
        ("veilkern/master.key", 32, "secret"),
        ("bench/results/all.bin", 3 << 20, "bytes"),
        (None, 0, "tests/ is missing"),
    ],
)
def test_a_bad_sdist_is_found(tmp_path, sdists, name, size, fault):
    """With a key in it, with something huge, without its tests."""
    bad = tmp_path / sdists[0].name
    with tarfile.open(sdists[0]) as archive, tarfile.open(bad, "w:gz") as copy:
        for member in archive:
            if name or "/tests/" not in member.name:
                copy.addfile(member, archive.extractfile(member))
        if name:
            (tmp_path / "more").write_bytes(os.urandom(size))
            copy.add(tmp_path / "more", f"{bad.name.removesuffix('.tar.gz')}/{name}")
    assert any(fault in found for found in release("check").sdist_faults(bad))


def test_wheels_are_configured_for_every_python_that_is_claimed():
    wheels, project = PROJECT["tool"]["cibuildwheel"], PROJECT["project"]
    claimed = [c.rpartition(" ")[2] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert claimed == ["3.10", "3.11", "3.12", "3.13", "3.14"] and project["requires-python"] == ">=3.10"
    forms = re.fullmatch(r"cp31\{([\d,]+)\}-manylinux\*", wheels["build"])
    assert [f"3.1{digit}" for digit in forms[1].split(",")] == claimed
    assert set(wheels["linux"]["archs"]) == {"x86_64", "aarch64"}
    assert {wheels["linux"][f"manylinux-{arch}-image"] for arch in wheels["linux"]["archs"]} == {"manylinux_2_28"}
    assert wheels["environment"] == {"VEILKERN_CUDA": "OFF"}  # README and CHANGELOG say so
    script = re.fullmatch(r"python \{project\}/(\S+)", wheels["test-command"])[1]
    assert (ROOT / script).is_file()


def test_cibuildwheel_builds_these_and_no_others():
    """By its own word, where it is installed."""
    pytest.importorskip("cibuildwheel")
    command = [sys.executable, "-m", "cibuildwheel", "--platform", "linux", "--print-build-identifiers", str(ROOT)]
    found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100).stdout.split()
    wanted = [f"cp31{n}-manylinux_{arch}" for arch in ("x86_64", "aarch64") for n in range(5)]
    assert sorted(found) == sorted(wanted)


def test_the_changelog_has_its_form():
    text = (ROOT / "CHANGELOG.md").read_text()
    releases = re.findall(r"^## (.+)$", text, re.M)
    assert releases[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", release) for release in releases[1:])
    assert set(re.findall(r"^### (.+)$", text, re.M)) <= {
        "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security",
    }  # fmt: skip
    newest = re.search(r"^## \d\S* - (\S+)$", text, re.M)[1]
    assert f"date-released: {newest}\n" in (ROOT / "CITATION.cff").read_text()


def test_no_address_is_made_up():
    """Faults are reported to the forge; no mail address stands where nobody reads it."""
    for name in ("SECURITY.md", "CITATION.cff"):
        assert not re.search(r"\b[\w.+-]+@[\w-]+\.\w+", (ROOT / name).read_text())
