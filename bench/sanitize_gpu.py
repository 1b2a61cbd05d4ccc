"""The stage `sanitize` of bench/gpu.sh: the GPU kernels on small and odd shapes under compute-sanitizer.

`python bench/sanitize_gpu.py` runs, side by side, memcheck over all CUDA kernels and the Triton kernels, and racecheck
over the CUDA kernels, which share memory among the threads of a block. With `--calls cuda` (or `triton`; `--shapes 3`
of three) it is what they watch: each op once, results discarded, since the tests compare them.
Run with PYTORCH_NO_CUDA_MEMORY_CACHING=1: only then does every tensor end where its memory ends.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

SHAPES = ((5, 3, 7, 9), (1, 1, 5, 130), (4, 2, 112, 112))  # photos, people, height, width
# Tool, backend, shapes. Triton's kernels have been under both; what is new is watched on more shapes.
RUNS = (("memcheck", "cuda", 3), ("racecheck", "cuda", 2), ("memcheck", "triton", 1))
TOOL = "compute-sanitizer"
DRY = bool(os.environ.get("VEILKERN_BENCH_DRY"))


def every_op(n: int, people: int, height: int, width: int, device: str) -> Iterator[tuple[str, Callable]]:
    """Calls of each op: its name, and the call. What they begin with is made on the CPU: there nothing is watched."""
    import torch

    from veilkern import ops, reference

    g = torch.Generator().manual_seed(0)
    photos, covers = (torch.randint(0, 256, (k, 3, height, width), generator=g).byte() for k in (n, people))
    whose = torch.randint(0, people, (n,), generator=g)
    secrets, once = (torch.randint(0, 256, shape, generator=g).byte() for shape in ((people, 32), (n, 12)))
    images, veils, rows, keys, nonces = (t.to(device) for t in (photos, covers, whose, secrets, once))
    offsets = torch.tensor([0, *range(1, people), n]).to(device)
    x, y = (photos.float() / 255).to(device), (photos.flip(3).float() / 255).to(device)
    features, clean = (torch.nn.functional.normalize(torch.randn(n, 70, generator=g) + 1).to(device) for _ in range(2))
    half, last = {"mean": [0.5] * 3, "std": [0.5] * 3}, torch.channels_last
    for lossless in (False, True):
        hidden = reference.blend(photos, covers, whose, 51, lossless=lossless).to(device)
        turned = hidden.transpose(2, 3), veils.transpose(2, 3)
        yield "blend", lambda lossless=lossless: ops.blend(images, veils, rows, 51, lossless=lossless)
        yield "recover", lambda hidden=hidden: ops.recover(hidden, veils, rows, 51)
        yield "recover", lambda turned=turned: ops.recover(*turned, rows, 51, gaussian_sigma=1.0)
    for dtype in (torch.float32, torch.bfloat16):
        how = {"dtype": dtype} | half
        yield "blend_normalize", lambda how=how: ops.blend_normalize(images, veils / 255.0, rows, 51, **how)
        yield "seal_normalize", lambda how=how: ops.seal_normalize(images, veils / 255.0, rows, keys, nonces, **how)
    for lossless in (False, True):
        sealed = reference.seal(photos, covers, whose, secrets, once, lossless=lossless).to(device)
        turned, lying = (sealed.transpose(2, 3), veils.transpose(2, 3)), images.to(memory_format=last)
        for laid in (images, lying):
            yield "seal", lambda p=laid, how=lossless: ops.seal(p, veils, rows, keys, nonces, lossless=how)
        yield "unseal", lambda sealed=sealed: ops.unseal(sealed, veils, rows, keys)
        yield "unseal", lambda turned=turned: ops.unseal(*turned, rows, keys, rounds=12)
    for block, stride in (((3, 3), 1), ((2, 4), 3)):
        how = {"block": block, "stride": stride, "form": "literal"}
        yield "block_variance", lambda how=how: ops.block_variance_gradient(x, **how)
        yield "block_variance", lambda how=how: ops.block_variance(x.double(), **how)
    for subspace in ("convex", "affine", "span", "centre", "self"):
        how = {"subspace": subspace, "width": n}
        yield "hull_distance", lambda how=how: ops.hull_distance(features, clean, offsets, **how)
    for window in (5, 11):
        how = {"window": window, "borders": "same"}
        yield "ssim", lambda how=how: ops.ssim_gradient(x, y, **how)
        yield "ssim", lambda how=how: ops.ssim(x, y, **how)
    if min(height, width) >= 11:
        yield "ssim", lambda: ops.ssim_gradient(x, y)
    for visual in ("norm", "mse"):
        state = veils / 255.0, torch.zeros_like(veils, dtype=torch.float32), x - 0.5, images, offsets
        how = {"a": 51, "lam": 0.04, "mu": 0.01, "step": 0.1, "decay": 1.0, "visual": visual}
        yield "veil_step_", lambda state=state, how=how: ops.veil_step_(*state, **how)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        slope, bias = torch.full((3,), 0.25, dtype=exact).to(device), (x[0] - 0.5).to(exact)
        for add, more in ((None, {}), (bias[:, 0, 0].contiguous(), {"top": 0.25}), (bias, {"slope": slope})):

            def there_and_back(dtype=dtype, add=add, more=more):
                bits = ops.rectify_((x - 0.5).to(dtype, memory_format=last), add, **more)
                ops.rectify_gradient_(y.to(dtype, memory_format=last), bits, more.get("slope"))

            yield "rectify_", there_and_back
        flat = features.to(dtype)
        yield "rectify_", lambda flat=flat: ops.rectify_gradient_(flat.clone(), ops.rectify_(flat.clone()))


def run(backend: str, shapes: int) -> None:
    """All calls by one backend; those that it leaves to another are told."""
    import torch

    import veilkern as vk
    from veilkern.errors import BackendError

    made, left = dict[str, int](), dict[str, str]()
    with vk.use_backend(backend) as chosen:
        for shape in SHAPES[:shapes]:
            for op, call in every_op(*shape, chosen.devices[0]):
                try:
                    call()
                    made[op] = made.get(op, 0) + 1
                except BackendError as error:
                    left[op] = str(error)
        if chosen.devices[0] != "cpu":
            torch.cuda.synchronize()
    for op in sorted(set(left) - set(made)):
        print(f"not by {backend}: {left[op]}")
    print(f"{backend}: {', '.join(f'{op} {count} x' for op, count in made.items())}")
    if not made:
        sys.exit(f"{backend}: nothing ran")


def watched(tool: str, backend: str, shapes: int) -> list[str]:
    """The command."""
    calls = [sys.executable, str(Path(__file__)), "--calls", backend, "--shapes", str(shapes)]
    return [TOOL, "--tool", tool, "--error-exitcode", "1", *calls]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", choices=("cuda", "triton"), help="what compute-sanitizer is to watch")
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="how many of the shapes")
    parser.add_argument("--until", type=float, default=float("inf"), help="the moment (Unix time) to be done by")
    options = parser.parse_args()
    if options.calls:
        run(options.calls, options.shapes)
        return
    if DRY or not shutil.which(TOOL):
        for each in RUNS:
            print("would run:", shlex.join(watched(*each)))
        if not DRY:
            print(f"left out: no {TOOL} here")
            return
        run("cuda" if os.environ.get("VEILKERN_CUDA_EMULATE") else "triton", 1)
        return
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    told = []
    with contextlib.ExitStack() as files:
        begun = []
        for each in RUNS:
            log = files.enter_context(tempfile.TemporaryFile("w+"))
            begun.append((log, subprocess.Popen(watched(*each), env=environment, stdout=log, stderr=log)))
        for (tool, backend, _), (log, process) in zip(RUNS, begun, strict=True):
            try:
                status = process.wait(max(options.until - time.time(), 1))
                how = "clean" if status == 0 else f"FAILED (status {status})"
            except subprocess.TimeoutExpired:
                process.kill()
                how = "FAILED (stopped, no time left)"
            log.seek(0)
            print(f"-- {tool}, {backend}\n{log.read()}")
            told.append(f"{tool} of {backend}: {how}")
    print("; ".join(told))
    sys.exit(any("FAILED" in line for line in told))


if __name__ == "__main__":
    main()
