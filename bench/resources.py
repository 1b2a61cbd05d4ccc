"""What the GPU kernels compile to, without a GPU: registers, shared memory, spills, and how wide memory is accessed.

`python bench/resources.py` runs every kernel call of the table of ops on photos of 3 x 112 x 112 with its launches
recorded instead of made, compiles each of them for sm_80, sm_90 and sm_100 with the types and divisibilities of that
call, and reads the machine code with the disassembler in Triton's wheel. It writes bench/results/resources.md, and
fails on a spill, on local memory and on bulk accesses narrower than the kernel's ACCESS says. `--json` prints the rows
only. `--variants` tells instead how many variants of each kernel Triton compiles for batches of several sizes.
"""

from __future__ import annotations

import argparse
import collections
import functools
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)  # the compiler is wanted here, not the interpreter
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
import cuda_resources
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import create_function_from_signature

from veilkern import backends
from veilkern.testing.entry import Workload
from veilkern.testing.table import TABLE

RESULTS = Path(__file__).parent / "results" / "resources.md"
ARCHES = (80, 90, 100)
BATCHES = [(1, 1), (2, 1), (15, 3), (16, 16), (17, 2)]  # photos, people
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
NAMES = {
    torch.uint8: "u8", torch.uint16: "u16", torch.int32: "i32", torch.int64: "i64", torch.bool: "i1",
    torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64",
}  # fmt: skip


@functools.cache
def launching():
    """veilkern.backends.triton._launch, loaded as on a machine with a GPU, and its backend the one that serves every
    call, on the CPU too: its launches are to be recorded."""
    there, torch.cuda.is_available = torch.cuda.is_available, lambda: True
    try:
        module = importlib.import_module("veilkern.backends.triton")
    finally:
        torch.cuda.is_available = there
    chosen = backends.Backend("triton", module.OPS)
    backends._load = lambda name: chosen
    return importlib.import_module("veilkern.backends.triton._launch")


def workload(count: int, people: int) -> Workload:
    """`count` photos of 3 x 112 x 112 and as many features of 512 numbers, all zero. Rows and offsets come out of the
    middle of larger tables, as a loop over batches has them."""
    images = torch.zeros(count, 3, 112, 112, dtype=torch.uint8)
    offsets = torch.zeros(people + 2, dtype=torch.int64)[people % 2 :][: people + 1]
    return Workload(
        images=images,
        veils=images[:1].expand(people, -1, -1, -1).contiguous(),
        rows=torch.zeros(count + 1, dtype=torch.int64)[count % 2 :][:count],
        offsets=offsets.copy_(torch.linspace(0, count, people + 1)),
        features=torch.zeros(count, 512),
    )


def cases(count: int = 8, people: int = 2) -> dict[tuple[str, str], list[tuple]]:
    """(op, case) -> the launches that each call of the table makes: kernel, positional arguments, options."""
    found: dict[tuple[str, str], list[tuple]] = collections.defaultdict(list)
    launch, work = launching(), workload(count, people)
    for entry in TABLE.values():
        for call in entry.calls:
            if call.case:
                made = found[entry.launcher.removesuffix("_"), call.case]
                launch.start = lambda kernel, programs, given, options, made=made: made.append((kernel, given, options))
                entry.call(call.make(work))
    return found


def source_of(kernel, given, options) -> ASTSource:
    """The kernel with the types, constants and divisibilities that a launch with these arguments has."""
    signature, constants, attributes = {}, {}, {}
    values = dict(zip(kernel.arg_names, given, strict=False)) | options
    for index, parameter in enumerate(kernel.params):
        name, value = parameter.name, values[parameter.name]
        one = isinstance(value, int) and value == 1 and not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or one:
            signature[name], constants[(index,)] = "constexpr", value
            continue
        if isinstance(value, torch.Tensor):
            signature[name] = "*" + NAMES[value.dtype]
        elif isinstance(value, float):
            signature[name] = "fp64"
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
        whole = isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0)
        if whole and not parameter.do_not_specialize and not parameter.do_not_specialize_on_alignment:
            attributes[(index,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constants, attributes)


def compiled(kernel, given, options, arch: int) -> tuple[bytes, int]:
    """The cubin of a launch for sm_<arch>, and the bytes of shared memory a program asks for."""
    wanted = {name: options[name] for name in ("num_warps", "maxnreg") if name in options}
    made = triton.compile(source_of(kernel, given, options), target=GPUTarget("cuda", arch, 32), options=wanted)
    return made.asm["cubin"], made.metadata.shared


def variants(batches: list[tuple[int, int]]) -> dict[str, int]:
    """How many variants of each op, case and kernel Triton compiles for these batches (photos, people)."""
    found = collections.defaultdict(set)
    target = triton.compiler.make_backend(GPUTarget("cuda", 90, 32))
    for count, people in batches:
        for (op, case), launches in cases(count, people).items():
            for kernel, given, options in launches:
                bind = create_function_from_signature(kernel.signature, kernel.params, target)
                _, specialization, rest = bind(*given, **options)
                found[f"{op}, {case}, {kernel.__name__}"].add(f"{specialization} {rest}")
    return {name: len(keys) for name, keys in found.items()}


def tool(name: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / name, *arguments], check=True, capture_output=True, text=True).stdout


def read(cubin: bytes, shared: int) -> dict:
    """Registers, bytes of shared memory, stack and local memory, and how often memory is accessed at each width."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(cubin)
        usage, code = tool("cuobjdump", "--dump-resource-usage", file.name), tool("nvdisasm", "--print-code", file.name)
    numbers = {name: int(value) for name, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", usage)}
    widths: dict[str, collections.Counter] = {"load": collections.Counter(), "store": collections.Counter()}
    for word, rest in re.findall(r"\b(LDG|STG)((?:\.\w+)*)", code):
        bits = re.search(r"\.(?:[US])?(8|16|64|128|256)\b", rest)
        widths["load" if word == "LDG" else "store"][int(bits[1]) // 8 if bits else 4] += 1
    local = len(re.findall(r"\b(?:LDL|STL)\b", code))
    instructions = len(re.findall(r"^\s*/\*[0-9a-f]{4,}\*/", code, re.MULTILINE))
    return {
        "registers": numbers["REG"], "shared": shared, "stack": numbers["STACK"], "local": numbers["LOCAL"] + local,
        "instructions": instructions, "loads": dict(sorted(widths["load"].items())),
        "stores": dict(sorted(widths["store"].items())),
    }  # fmt: skip


def faults(row: dict) -> list[str]:
    """What a row must not show. ACCESS: {"load": {bytes: the most instructions, or None}, "store": {...}}."""
    found = [f"{name} {row[name]}" for name in ("stack", "local") if row[name]]
    for kind in ("load", "store"):
        promised, seen = row["promised"][kind], row[f"{kind}s"]
        widest = max(promised)
        if widest not in seen:
            found.append(f"no {kind}s of {widest} bytes")
        for width, number in seen.items():
            most = promised.get(width, 0)
            if most is not None and width < widest and number > most:
                found.append(f"{number} {kind}s of {width} bytes, promised at most {most}")
    return found


def rows(arches=ARCHES, only: str = "") -> list[dict]:
    """One row for each kernel, case and architecture."""
    made = []
    for (op, case), launches in cases().items():
        if only not in op:
            continue
        access = importlib.import_module(f"veilkern.kernels.{op}").ACCESS
        for kernel, given, options in launches:
            promised = access[kernel.__name__.removesuffix("_kernel"), case]
            for arch in arches:
                row = {
                    "op": op,
                    "case": case,
                    "kernel": kernel.__name__,
                    "arch": f"sm_{arch}",
                    "warps": options["num_warps"],
                }
                row |= read(*compiled(kernel, given, options, arch))
                made.append(row | {"promised": promised})
    return made


def table(found: list[dict]) -> str:
    names = [
        "kernel",
        "case",
        "arch",
        "warps",
        "registers",
        "shared",
        "stack",
        "local",
        "instructions",
        "loads",
        "stores",
    ]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in found:
        widths = {kind: ", ".join(f"{n} x {w} B" for w, n in row[kind].items()) for kind in ("loads", "stores")}
        lines.append("| " + " | ".join(str((row | widths)[name]) for name in names) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the rows, write nothing")
    parser.add_argument("--variants", action="store_true", help="count what is compiled for batches of several sizes")
    parser.add_argument("--arch", type=int, action="append", help="sm_<arch> only (may be repeated)")
    parser.add_argument("--only", default="", help="only ops whose name holds this")
    parser.add_argument("--print", action="store_true", help="print the table, write nothing")
    options = parser.parse_args()
    if options.variants:
        print(json.dumps(variants(BATCHES)))
        return
    found = rows(tuple(options.arch or ARCHES), options.only)
    cuda, cuda_wrong = [], []
    if not options.json and not options.only and not cuda_resources.available():
        cuda, cuda_wrong = cuda_resources.report(tuple(options.arch or ARCHES))
    wrong = [f"{row['kernel']} ({row['case']}, {row['arch']}): {fault}" for row in found for fault in faults(row)]
    wrong += cuda_wrong
    if options.json:
        print(json.dumps({"rows": found, "faults": wrong}))
        return
    text = (
        "Registers a thread, shared memory and stack in bytes, instructions, and global loads and stores by width in "
        f"the machine code. Triton {triton.__version__}, photos of 3 x 112 x 112; made by `python bench/resources.py`, "
        "which needs no GPU.\n\n"
        + table(found)
        + "\n\nThe CUDA kernels, by nvcc; loads and stores of global memory, and of what may be shared memory too. "
        "Warps: how many of 64 the registers leave room for.\n\n"
        + (cuda_resources.table(cuda) if cuda else f"({cuda_resources.available()})")
    )
    if options.print:
        print(text)
    else:
        RESULTS.write_text(text + "\n")
    print("\n".join(wrong))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
