"""What the CUDA kernels compile to, without a GPU: registers, spills, widths of accesses (resources.py's other half).

Each kernels/*.cu is compiled by nvcc as for a wheel, or, with VEILKERN_CUDA_MODULE=<file>, taken out of a built `_cuda`
module. A kernel that spills, has a stack or reads local memory is a fault, and so is one that lacks the accesses that
its file promises, in a comment of its own:

    // ACCESS veil_step_kernel<float, 4, false>: load 16, store 16
"""

from __future__ import annotations

import collections
import functools
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import triton

ROOT = Path(__file__).parents[1]
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
FLAGS = ("-std=c++17", "-O3", f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'kernels'}")
REGISTERS, WARPS = 65536, 64  # of a processor; sm_86 to sm_89 and sm_120 take 48 warps


def tool(name: str, *arguments: str | Path) -> str:
    return subprocess.run([TOOLS / name, *arguments], check=True, capture_output=True, text=True).stdout


def compiled(source: Path, arch: int, folder: Path) -> Path:
    """The cubin of a .cu for sm_<arch>."""
    cubin = folder / f"{source.stem}.sm_{arch}.cubin"
    subprocess.run(["nvcc", *FLAGS, f"-arch=sm_{arch}", "-cubin", "-o", cubin, source], check=True)
    return cubin


def cubins(arches: tuple[int, ...], folder: Path, sources: list[Path]) -> list[Path]:
    """One for each source and architecture: out of a built module where there is one, else by nvcc."""
    module = os.environ.get("VEILKERN_CUDA_MODULE")
    if not module:
        return [compiled(source, arch, folder) for source in sources for arch in arches]
    subprocess.run(
        [TOOLS / "cuobjdump", "--extract-elf", "all", Path(module).resolve()],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    found = sorted(folder.glob("*.cubin"))
    return [path for path in found if any(f"sm_{arch}." in path.name for arch in arches)]


@functools.cache
def plain_names(names: tuple[str, ...]) -> list[str]:
    """`veil_step_kernel<float, 4, false>` of mangled names."""
    lines = subprocess.run(["c++filt", *names], check=True, capture_output=True, text=True).stdout.splitlines()
    found = (re.search(r"(\w+(?:<[^()]*>)?)\(", line.replace("(anonymous namespace)::", "")) for line in lines)
    return [match[1] if match else "?" for match in found]


def read(cubin: Path) -> list[dict]:
    """A row for each kernel of a cubin."""
    usage, code = tool("cuobjdump", "--dump-resource-usage", cubin), tool("nvdisasm", "--print-code", cubin)
    arch = re.findall(r"sm_\d+", cubin.name)[-1]
    bodies = dict(zip(*[iter(re.split(r"^\.text\.(\S+):$", code, flags=re.MULTILINE)[1:])] * 2, strict=True))
    found = re.findall(r"Function (\S+):\s*\n\s*(REG:.*)", usage)
    rows = []
    for (name, words), plain in zip(found, plain_names(tuple(name for name, _ in found)), strict=True):
        numbers = {key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", words)}
        rows.append({"kernel": plain, "arch": arch} | numbers | accesses(bodies[name]))
    return rows


def accesses(code: str) -> dict:
    """Instructions, accesses of local memory, and by width those of global memory or of what may be shared memory."""
    widths: dict[str, collections.Counter] = {"load": collections.Counter(), "store": collections.Counter()}
    for word, rest in re.findall(r"\b(LDG|LD|STG|ST)(?=[.\s])((?:\.\w+)*)", code):
        bits = re.search(r"\.(?:[US])?(8|16|64|128|256)\b", rest)
        widths["load" if word.startswith("L") else "store"][int(bits[1]) // 8 if bits else 4] += 1
    return {
        "instructions": len(re.findall(r"^\s*/\*[0-9a-f]{4,}\*/", code, re.MULTILINE)),
        "local": len(re.findall(r"\b(?:LDL|STL)\b", code)),
        "loads": dict(sorted(widths["load"].items())),
        "stores": dict(sorted(widths["store"].items())),
    }


def promises(sources: list[Path]) -> dict[str, dict[str, int]]:
    """What the files promise: kernel -> the widest load and store, in bytes."""
    found = {}
    for source in sources:
        for kernel, words in re.findall(r"^// ACCESS ([^:]+): (.*)$", source.read_text(), re.MULTILINE):
            found[kernel] = {kind: int(width) for kind, width in re.findall(r"(load|store) (\d+)", words)}
    return found


def faults(row: dict, promised: dict[str, int]) -> list[str]:
    """What a row must not show."""
    found = [f"{words} {row[key]}" for words, key in (("stack", "STACK"), ("local memory", "local")) if row[key]]
    return found + [f"no {kind}s of {width} bytes" for kind, width in promised.items() if width not in row[f"{kind}s"]]


def report(arches: tuple[int, ...], sources: list[Path] | None = None) -> tuple[list[dict], list[str]]:
    """The rows of all kernels, and what is wrong with them."""
    sources = sorted((ROOT / "kernels").glob("*.cu")) if sources is None else sources
    promised = promises(sources)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for cubin in cubins(arches, Path(folder), sources) for row in read(cubin)]
    wrong = [
        f"{r['kernel']} ({r['arch']}): {fault}" for r in rows for fault in faults(r, promised.get(r["kernel"], {}))
    ]
    missing = promised.keys() - {row["kernel"] for row in rows}
    return rows, wrong + [f"{kernel}: promised, and not there" for kernel in sorted(missing)]


def table(rows: list[dict]) -> str:
    """The report's table."""
    lines = [
        "| kernel | arch | registers | warps a processor | stack | instructions | loads | stores |",
        "|" + "---|" * 8,
    ]
    for row in sorted(rows, key=lambda row: (row["kernel"], int(row["arch"][3:]))):
        loads, stores = (", ".join(f"{n} x {w} B" for w, n in row[kind].items()) for kind in ("loads", "stores"))
        warps = min(REGISTERS // (-(-row["REG"] // 8) * 8 * 32), WARPS)
        cells = (row["kernel"], row["arch"], row["REG"], warps, row["STACK"], row["instructions"], loads, stores)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def available() -> str | None:
    """Why there can be no report; None where there can."""
    if os.environ.get("VEILKERN_CUDA_MODULE") or shutil.which("nvcc"):
        return None if shutil.which("c++filt") else "no c++filt"
    return "no nvcc"
