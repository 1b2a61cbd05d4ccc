"""What the GPU kernels compile to, without a GPU: registers, shared memory, spills, and how wide memory is accessed.

`python bench/resources.py` runs every launcher of the Triton backend on photos of 3 x 112 x 112 with its launches
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
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import create_function_from_signature

RESULTS = Path(__file__).parent / "results" / "resources.md"
ARCHES = (80, 90, 100)
BATCHES = [(1, 1), (2, 1), (15, 3), (16, 16), (17, 2)]  # photos, people
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
NAMES = {
    torch.uint8: "u8", torch.uint16: "u16", torch.int32: "i32", torch.int64: "i64", torch.bool: "i1",
    torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64",
}  # fmt: skip


@functools.cache
def backend():
    """veilkern.backends.triton, loaded as on a machine with a GPU, its launches to be recorded."""
    there, torch.cuda.is_available = torch.cuda.is_available, lambda: True
    try:
        return importlib.import_module("veilkern.backends.triton")
    finally:
        torch.cuda.is_available = there


def cases(count: int = 8, people: int = 2) -> dict[tuple[str, str], list[tuple]]:
    """(op, case) -> the launches that one call makes, on `count` photos: kernel, positional arguments, options."""
    found: dict[tuple[str, str], list[tuple]] = collections.defaultdict(list)
    ops = backend()
    launch = importlib.import_module("veilkern.backends.triton._launch")
    photos = torch.zeros(count, 3, 112, 112, dtype=torch.uint8)
    # Rows and offsets out of the middle of larger tables, as a loop over batches has them.
    rows = torch.zeros(count + 1, dtype=torch.int64)[count % 2 :][:count]
    offsets = torch.linspace(0, count, people + 2).long()[people % 2 :][: people + 1]
    bank = photos[:1].expand(people, -1, -1, -1).contiguous()

    def record(op, case, launcher, *arguments):
        launch.start = lambda kernel, programs, given, options: found[op, case].append((kernel, given, options))
        launcher(*arguments)

    for case, dtype in (("u8", torch.uint8), ("u16", torch.uint16)):
        hidden = photos.to(dtype)
        record("blend", case, ops.blend, photos, bank, rows, 51, case == "u16", hidden)
        record("recover", case, ops.recover, hidden, bank, rows, 51, None, photos)
    record("recover", "gaussian", ops.recover, photos, bank, rows, 51, 1.0, photos)
    image, half = photos.float(), [0.5] * 3
    for case, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16), ("f64", torch.float64)):
        own, out = bank.to(max(dtype, torch.float32, key=lambda d: d.itemsize)), image.to(dtype)
        out = out.contiguous(memory_format=torch.channels_last)
        record("blend_normalize", case, ops.blend_normalize, photos, own, rows, 51, half, half, False, out)
    gradient = torch.empty_like(image)
    record("block_variance", "loss", ops.block_variance, image, (3, 3), 1, "consistent", None, None)
    record("block_variance", "gradient", ops.block_variance, image, (3, 3), 1, "consistent", None, gradient)
    record("block_variance", "any block", ops.block_variance, image, (4, 4), 2, "literal", None, gradient)
    double = image.double()
    record("block_variance", "f64", ops.block_variance, double, (3, 3), 1, "consistent", None, double)
    features = torch.zeros(count, 512)
    for kind in ("convex", "affine", "centre"):
        record("hull_distance", kind, ops.hull_distance, features, features, offsets, offsets, kind, None, None, 10)
    record(
        "hull_distance", "100 wide", ops.hull_distance, features, features, offsets, offsets, "convex", None, None, 100
    )
    record("ssim", "score", ops.ssim, image, image, 11, 1.5, "valid", 1.0, None, None, None)
    record("ssim", "gradient", ops.ssim, image, image, 11, 1.5, "valid", 1.0, None, gradient, gradient)
    record("ssim", "one gradient", ops.ssim, image, image, 11, 1.5, "valid", 1.0, None, gradient, None)
    ones = [torch.ones(people, dtype=torch.float64)] * 4
    record("ssim", "f64", ops.ssim, double, double, 11, 1.5, "valid", 1.0, None, double, double)
    for case, visual, x, rates in (
        ("norm", "norm", image, ones), ("mse", "mse", image, ones), ("f64", "norm", double, ones),
        ("numbers", "norm", image, [0.5] * 4),
    ):  # fmt: skip
        own = bank.to(x.dtype)
        record(
            "veil_step", case, ops.veil_step_, own, own.clone(), x, photos, offsets, offsets, 51, *rates, None, None,
            visual, (3, 3), 1, "consistent",
        )  # fmt: skip
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
    wrong = [f"{row['kernel']} ({row['case']}, {row['arch']}): {fault}" for row in found for fault in faults(row)]
    if options.json:
        print(json.dumps({"rows": found, "faults": wrong}))
        return
    text = (
        "Registers a thread, shared memory and stack in bytes, instructions, and global loads and stores by width in "
        f"the machine code. Triton {triton.__version__}, photos of 3 x 112 x 112; made by `python bench/resources.py`, "
        "which needs no GPU.\n\n" + table(found)
    )
    if options.print:
        print(text)
    else:
        RESULTS.write_text(text + "\n")
    print("\n".join(wrong))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
