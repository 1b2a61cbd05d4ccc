"""How the CUDA kernels get into a build: found, left out with a line, insisted on; the module without a driver."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from triton_cases import ROOT

PYBIND11 = importlib.util.find_spec("pybind11")
needs_cmake = pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("c++") is None or PYBIND11 is None,
    reason="no CMake, no C++ compiler or no pybind11 here",
)
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc here")
NO_TOOLKIT = "-DCMAKE_DISABLE_FIND_PACKAGE_CUDAToolkit=ON"
pytestmark = pytest.mark.process


def configured(folder: Path, *settings: str, **environment: str) -> tuple[bool, str]:
    """Whether CMake takes the package with these settings, and what it says."""
    command = ["cmake", "-S", ROOT, "-B", folder, f"-DPython_EXECUTABLE={sys.executable}", *settings]
    command.append(f"-Dpybind11_DIR={Path(PYBIND11.origin).parent / 'share' / 'cmake' / 'pybind11'}")
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    return done.returncode == 0, " ".join((done.stdout + done.stderr).split())  # CMake breaks its lines


@needs_cmake
def test_without_a_toolkit(tmp_path):
    """A line where it was not asked for, an error where it was."""
    for how in ("AUTO", ""):
        good, said = configured(tmp_path / "auto", f"-DVEILKERN_CUDA={how}", NO_TOOLKIT)
        assert good and "veilkern: no CUDA kernels (no CUDA toolkit" in said, said
    good, said = configured(tmp_path / "on", "-DVEILKERN_CUDA=ON", NO_TOOLKIT)
    assert not good and "VEILKERN_CUDA is ON, but no CUDA toolkit" in said, said


@needs_cmake
def test_left_out_on_demand_and_words_that_are_none(tmp_path):
    good, said = configured(tmp_path, "-DVEILKERN_CUDA=OFF")
    assert good and "no CUDA kernels (VEILKERN_CUDA is OFF)" in said, said
    good, said = configured(tmp_path, "-DVEILKERN_CUDA=maybe")
    assert not good and "VEILKERN_CUDA must be AUTO, ON or OFF, got maybe" in said, said


@needs_cmake
@needs_nvcc
@pytest.mark.thorough
def test_with_a_toolkit(tmp_path):
    """For the architectures asked for; a compiler that nvcc refuses, or a GPU that it does not know, is no error."""
    good, said = configured(tmp_path, "-DVEILKERN_CUDA=AUTO", "-DVEILKERN_CUDA_ARCHITECTURES=80-real;90")
    assert good and "veilkern: CUDA kernels for sm_80 sm_90 compute_90" in said, said
    good, said = configured(tmp_path / "old", "-DVEILKERN_CUDA_ARCHITECTURES=20")
    assert good and "no CUDA kernels" in said and "nsupported gpu architecture 'compute_20'" in said, said
    good, said = configured(tmp_path / "odd", "-DVEILKERN_CUDA_ARCHITECTURES=hopper")
    assert not good and "VEILKERN_CUDA_ARCHITECTURES must be numbers such as 80-real;90, got hopper" in said, said
    for how in ("AUTO", "ON"):
        good, said = configured(tmp_path / how, f"-DVEILKERN_CUDA={how}", CUDAHOSTCXX=shutil.which("false"))
        assert good == (how == "AUTO") and "does not compile here" in said, said


@needs_cmake
def test_kernels_that_do_not_compile(tmp_path):
    """The rest of the package is built all the same, and without an earlier build's module; insisted on, it fails."""
    for insist in ("OFF", "ON"):
        module = tmp_path / "_cuda.so"
        module.touch()
        settings = [f"-DBUILD={tmp_path / 'nothing'}", f"-DMODULE={module}", f"-DINSIST={insist}", "-DPROCESSORS=1"]
        command = ["cmake", *settings, "-P", ROOT / "cmake" / "build_cuda.cmake"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == (insist == "OFF") and not module.exists()
        assert "do not compile" in done.stderr


def test_the_module_without_a_driver():
    """It is there, and a call says what is missing. Tried on veilkern._cuda, or on a wheel's (CI)."""
    path = os.environ.get("VEILKERN_CUDA_MODULE")
    if not path:
        found = importlib.util.find_spec("veilkern._cuda")
        if found is None:
            pytest.skip("veilkern is built without the CUDA kernels here (VEILKERN_CUDA=OFF, or no toolkit)")
        path = found.origin
    code = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("_cuda", {path!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.ARCHITECTURES)
nothing = (0, (0, 0, 0, 0))
for of in (module.block_variance_f32, module.block_variance_f64):
    try:
        of(0, nothing, nothing, 0, 0, (1, 1, 4, 4), (3, 3, 1), False)
    except RuntimeError as error:
        print(error)
"""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}  # a machine with a GPU has none then
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    architectures, *errors = done.stdout.splitlines()
    assert architectures.startswith("sm_")
    assert len(errors) == 2
    for error in errors:
        assert error.startswith("block_variance: ")
        assert "driver version is insufficient" in error or "no CUDA-capable device" in error
