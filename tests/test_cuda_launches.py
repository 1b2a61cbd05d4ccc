"""The machine code of the CUDA kernels, and that the emulation which runs them on a CPU can fail."""

from __future__ import annotations

import ctypes
import importlib
import os
import re
import shutil
import subprocess
import sys

import pytest
from helpers import BACKENDS
from triton_cases import ARCHES, ROOT

sys.path.insert(0, str(ROOT / "bench"))
cuda_resources = pytest.importorskip("cuda_resources", reason="Triton, which brings the disassembler, is not installed")
WITHOUT = cuda_resources.available()
needs_code = pytest.mark.skipif(WITHOUT is not None, reason=f"no machine code of the CUDA kernels here: {WITHOUT}")
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc here")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here")
# With the emulation there is what it needs, a compiler too; in CI both are there.
EMULATED = ROOT / "csrc" / "cuda" / "emulated"


@needs_code
@pytest.mark.timeout(600)
def test_no_spills_and_accesses_as_wide_as_promised():
    arches = (80, 90, 100) if os.environ.get("VEILKERN_CUDA_MODULE") else tuple(ARCHES)  # in CI all of a wheel's
    rows, wrong = cuda_resources.report(arches)
    assert not wrong
    names = {row["kernel"].partition("<")[0] for row in rows}
    written = {
        name
        for source in (ROOT / "kernels").glob("*.cu")
        for name in re.findall(r"__global__ void\s+(?:__launch_bounds__\([^{;]*?\)\s+)?(\w+)\(", source.read_text())
    }
    assert names == written and len(written) >= 4
    assert {row["arch"] for row in rows} == {f"sm_{arch}" for arch in arches}
    assert all(row["REG"] > 8 and row["instructions"] > 50 and row["loads"] and row["stores"] for row in rows)


@needs_nvcc
def test_the_report_can_fail(tmp_path, monkeypatch):
    monkeypatch.delenv("VEILKERN_CUDA_MODULE", raising=False)
    source = tmp_path / "bad.cu"
    source.write_text("""
// ACCESS bad_kernel<float>: load 16, store 4
// ACCESS other_kernel<float>: load 4
template <class T>
__global__ void bad_kernel(const T* in, T* out, int n) {
  T values[64];
  for (int i = 0; i < 64; ++i) values[i * n % 64] = in[i];
  out[threadIdx.x] = values[n % 64];  // an index that nobody knows: the array lies in local memory
}
template __global__ void bad_kernel<float>(const float*, float*, int);
""")
    rows, wrong = cuda_resources.report((90,), [source])
    assert [row["kernel"] for row in rows] == ["bad_kernel<float>"]
    assert len(wrong) == 4 and all(
        word in " ".join(wrong) for word in ("stack 256", "local memory", "no loads of 16 bytes")
    )
    assert wrong[-1] == "other_kernel<float>: promised, and not there"


FAULTY = """
#include "cuda/launch.h"
#include "device.cuh"
using namespace veilkern;

__global__ void no_barrier(float* out) {
  float* kept = reinterpret_cast<float*>(block_memory());
  kept[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = kept[threadIdx.x ^ 64];  // another warp's
}
__global__ void no_cluster_barrier(float* out) {
  float* kept = reinterpret_cast<float*>(block_memory());
  kept[threadIdx.x] = blockIdx.x;
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = *of_rank(kept + threadIdx.x, 1 - int(blockIdx.x % 2));
}
__global__ void unwritten(float* out) { out[threadIdx.x] = reinterpret_cast<float*>(block_memory())[threadIdx.x]; }
__global__ void not_all_arrive(float* out) {
  if (threadIdx.x < 5) __syncthreads();
  out[threadIdx.x] = 1;
}
__global__ void misaligned(float* out) { out[threadIdx.x] = read<4>(out + 1).of[0]; }
__global__ void beyond(float* out) { reinterpret_cast<float*>(block_memory())[threadIdx.x + 1] = 1; }
__global__ void fine(float* out) {
  float* kept = reinterpret_cast<float*>(block_memory());
  kept[threadIdx.x] = threadIdx.x;
  __syncthreads();
  const float sum = block_sum(float(threadIdx.x), kept + 128);
  out[blockIdx.x * blockDim.x + threadIdx.x] = kept[threadIdx.x ^ 64] + *of_rank(kept + threadIdx.x, 0) + sum;
  cluster_sync();
}

extern "C" const char* run(const char* name, float* out, long long blocks) {
  const std::pair<const char*, void (*)(float*)> kernels[] = {
      {"no_barrier", no_barrier}, {"no_cluster_barrier", no_cluster_barrier}, {"unwritten", unwritten},
      {"not_all_arrive", not_all_arrive}, {"misaligned", misaligned}, {"beyond", beyond}, {"fine", fine}};
  const std::size_t memory = std::string(name) == "beyond" ? 512 : 1024;
  for (const auto& [known, kernel] : kernels)
    if (std::string(name) == known)
      return cudaGetErrorString(launch(kernel, Grid{blocks, 128, 2, memory}, nullptr, out));
  return "no such kernel";
}
"""


def built(folder, *options: str):
    """A library with the faulty kernels, as the emulation runs them."""
    source, library = folder / "faulty.cu", folder / "faulty.so"
    source.write_text("#include <string>\n#include <utility>\n" + FAULTY)
    command = [
        "g++",
        "-std=c++17",
        "-O1",
        "-w",
        "-shared",
        "-fPIC",
        *options,
        *(f"-I{path}" for path in (EMULATED, ROOT / "csrc", ROOT / "kernels")),
    ]
    subprocess.run([*command, EMULATED / "fibers.cpp", "-x", "c++", source, "-o", library], check=True)
    return library


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """run(kernel, seed) -> what it wrote (256 numbers), and the error's words."""
    library = ctypes.CDLL(str(built(tmp_path_factory.mktemp("faulty"))))
    library.run.restype = ctypes.c_char_p

    def run(name: str, seed: int, blocks: int = 2) -> tuple[list[float], str]:
        before, out = os.environ.get("VEILKERN_CUDA_EMULATE"), (ctypes.c_float * 256)()
        os.environ["VEILKERN_CUDA_EMULATE"] = str(seed)
        try:
            said = library.run(name.encode(), out, ctypes.c_longlong(blocks)).decode()
        finally:
            os.environ.pop("VEILKERN_CUDA_EMULATE") if before is None else os.environ.update(
                VEILKERN_CUDA_EMULATE=before
            )
        return [repr(value) for value in out], said

    return run


@needs_compiler
def test_a_kernel_without_a_fault_gives_the_same_bits_in_any_order(faulty):
    results = [faulty("fine", seed) for seed in (1, 2, 3, 99)]
    assert all(result == results[0] for result in results) and results[0][1] == "no error"
    assert [float(value) for value in results[0][0][:2]] == [64 + 0 + 8128, 65 + 1 + 8128]


@needs_compiler
@pytest.mark.parametrize("name", ["no_barrier", "no_cluster_barrier", "unwritten"])
def test_a_fault_gives_other_bits_in_another_order(faulty, name):
    assert len({tuple(faulty(name, seed)[0]) for seed in (1, 2, 3, 99)}) > 1


@needs_compiler
def test_what_a_gpu_would_refuse_is_an_error(faulty):
    for seed in (1, 2):
        assert "wait at a barrier that others do not reach" in faulty("not_all_arrive", seed)[1]
        assert faulty("misaligned", seed)[1] == "misaligned address"
        assert faulty("fine", seed, blocks=2**31)[1] == faulty("fine", seed, blocks=3)[1] == "invalid value"
        assert faulty("fine", seed)[1] == "no error"  # and the next launch is as any other


@needs_compiler
@pytest.mark.process
def test_a_value_beyond_shared_memory_is_found_by_the_sanitizer(tmp_path):
    library = built(tmp_path, "-fsanitize=address", "-g1")
    runtime = subprocess.run(
        ["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    code = f"import ctypes; ctypes.CDLL({str(library)!r}).run(b'{{}}', (ctypes.c_float * 256)(), ctypes.c_longlong(2))"
    environment = os.environ | {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0"}
    for name, found in (("fine", False), ("beyond", True)):
        done = subprocess.run(
            [sys.executable, "-c", code.format(name)], env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode != 0) == found and ("heap-buffer-overflow" in done.stderr) == found, done.stderr[-2000:]


@pytest.mark.skipif("cuda" not in BACKENDS, reason="no CUDA kernels here")
def test_too_many_blocks_are_an_error_and_no_launch():
    """A grid has less than 2^31 blocks; its size is what the batch makes it."""
    module = importlib.import_module("veilkern.backends.cuda._launch").MODULE
    nothing = (0, (0, 0, 0, 0))
    with pytest.raises(RuntimeError, match="block_variance: invalid"):
        module.block_variance_f32(0, nothing, nothing, 0, 0, (2**30, 3, 4, 4), (3, 3, 1), False)
