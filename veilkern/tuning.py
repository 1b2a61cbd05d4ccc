"""veilkern tune: measure the Triton kernels' launches on this GPU and write the fastest as the user's own table.

Every op and shape class has one piece of work (photos of 3 x 112 x 112 by default). Candidates are the class's present
numbers and those near them: each power of two halved and doubled, one or two at a time. A candidate that does not
compile, does not fit or gives another result than the present launch is left out. Times are medians with a cold L2
cache.
"""

from __future__ import annotations

import functools
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from veilkern import ops
from veilkern.backends import use_backend
from veilkern.backends.launch_tables import FIELDS, file_name, gpu_name, launch_of, tables, trying, user_folder
from veilkern.data.files import atomic_write, make_folder

Work = Callable[[], tuple[torch.Tensor, ...]]
EXACT = ("blend", "recover")  # the same bits by any launch; the others within rounding


def works(device: torch.device, photos: int, side: int) -> dict[tuple[str, str], Work]:
    """(op, shape class) -> one call on random data, for every class that photos of this size fall into."""
    generator = torch.Generator().manual_seed(0)
    people = max(photos // 10, 1)
    shape = (photos, 3, side, side)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
    veils, rows = images[:people].flip(3), (torch.arange(photos) % people).to(device)
    hidden, plain = ops.blend(images, veils, rows, 51, lossless=True), images.float().div_(255)
    features = torch.nn.functional.normalize(torch.randn(photos, 512, generator=generator) + 1).to(device)
    offsets = torch.cat([torch.arange(people) * 10, torch.tensor([photos])]).to(device)
    half, most = [0.5] * 3, int(offsets.diff().max())

    def mix(own: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor]:
        return (ops.blend_normalize(images, own, rows, 51, mean=half, std=half, dtype=dtype),)

    def step(dtype: torch.dtype) -> Work:
        start, slopes, numbers = veils.to(dtype) / 255, plain.to(dtype) - 0.5, [0.04, 0.01, 8 / 255, 1.0]
        lam, mu, size, decay = (torch.full((people,), n, dtype=torch.float64, device=device) for n in numbers)

        def call():
            state = start.clone(), torch.zeros_like(start)
            found = ops.veil_step_(*state, slopes, images, offsets, blend=51, lam=lam, mu=mu, step=size, decay=decay)
            return found, state[1]

        return call

    def hull(kind: str, width: int) -> Work:
        return lambda: ops.hull_distance(features, features.flip(1), offsets, kind=kind, width=width)[:1]

    found: dict[tuple[str, str], Work] = {
        ("blend", "u8"): lambda: (ops.blend(images, veils, rows, 51),),
        ("blend", "u16"): lambda: (ops.blend(images, veils, rows, 51, lossless=True),),
        ("recover", "u8"): lambda: (ops.recover(images, veils, rows, 51),),
        ("recover", "u16"): lambda: (ops.recover(hidden, veils, rows, 51),),
        ("recover", "gaussian"): lambda: (ops.recover(images, veils, rows, 51, gaussian_sigma=1.0),),
        ("hull_distance", "narrow f32"): hull("convex", most),
        ("hull_distance", "narrow f64"): hull("affine", most),
        ("hull_distance", "wide f32"): hull("convex", 100),
        ("hull_distance", "wide f64"): hull("affine", 100),
    }
    for kind, dtype in (("f32", torch.float32), ("f64", torch.float64)):
        x, own = plain.to(dtype), veils.to(dtype) / 255
        found["blend_normalize", kind] = functools.partial(mix, own, torch.bfloat16 if kind == "f32" else dtype)
        found["block_variance", kind] = functools.partial(ops.block_variance_gradient, x)
        found["ssim", kind] = functools.partial(ops.ssim_gradient, x, x.flip(3))
        found["veil_step_", kind] = step(dtype)
    return found


def candidates(now: dict[str, int]) -> Iterator[dict[str, int]]:
    """The present launch, then others near it: powers of two by factors of 1/2, 1 and 2, register limits off and on."""
    yield now
    names = [name for name in now if FIELDS[name]]
    for factors in itertools.product((1, 2, 0.5), repeat=len(names)):
        changed = sum(f != 1 for f in factors)
        entry = now | {name: max(int(now[name] * f), 1) for name, f in zip(names, factors, strict=True)}
        limits = [None, 96, 128, 168, 255] if "registers" in now else [None]
        for limit in limits:
            other = {k: v for k, v in entry.items() if k != "registers"} | ({"registers": limit} if limit else {})
            if changed <= 2 and other != now and other["num_warps"] <= 16:
                yield other


def seconds(call: Work, device: torch.device, rounds: int = 9) -> float:
    """Median seconds of a call, the L2 cache cold."""
    call()
    if device.type == "cpu":
        samples = []
        for _ in range(rounds):
            started = time.perf_counter()
            call()
            samples.append(time.perf_counter() - started)
        return statistics.median(samples)
    flush = torch.empty(2**28, dtype=torch.int8, device=device)
    marks = []
    for _ in range(rounds):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        marks.append((start, end))
    torch.cuda.synchronize(device)
    return statistics.median(start.elapsed_time(end) for start, end in marks) / 1e3


def _agree(op: str, found: tuple[torch.Tensor, ...], wanted: tuple[torch.Tensor, ...]) -> bool:
    for a, b in zip(found, wanted, strict=True):
        if op in EXACT and not torch.equal(a, b):
            return False
        size = float(b.abs().max()) if b.numel() else 0.0
        if not torch.allclose(
            a.double(), b.double(), rtol=0, atol=1e-2 * size if a.dtype == torch.bfloat16 else 1e-3 * size
        ):
            return False
    return True


def best_launch(op: str, kind: str, call: Work, device: torch.device, most: int) -> tuple[dict[str, int], float]:
    """The fastest of at most `most` candidates, and how many times faster than the present one it is."""
    now = launch_of(op, kind, device)
    wanted, before = call(), seconds(call, device)
    best, least = now, before
    for entry in itertools.islice(candidates(now), 1, most):
        with trying(op, kind, entry):
            try:
                agrees = _agree(op, call(), wanted)
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception:  # the compiler's: too much shared memory, no such layout; they have no common class
                continue
            if agrees and (took := seconds(call, device)) < 0.98 * least:  # less is noise
                best, least = entry, took
    return best, before / least


def tune(
    only: list[str] | None = None, *, photos: int = 2048, side: int = 112, most: int = 60,
    tell: Callable[[str], None] = print,
) -> Path:  # fmt: skip
    """Search, and write the table of this GPU to the user's folder; classes not searched keep their present numbers.

    only: names of ops. photos, side: the batch to measure on. most: candidates for one class. Raises BackendError where
    the Triton backend is absent, ValueError for an op that there is not.
    """
    with use_backend("triton") as backend:
        if unknown := sorted(set(only or ()) - set(backend.ops)):
            raise ValueError(f"tune: only must name ops of {', '.join(backend.ops)}, got {', '.join(unknown)}")
        device = torch.device(
            backend.devices[0], *((torch.cuda.current_device(),) if "cuda" in backend.devices else ())
        )
        path = user_folder() / file_name(gpu_name(device))
        kept = {op: dict(classes) for op, classes in (tables(gpu_name(device))[0] if path.is_file() else {}).items()}
        for (op, kind), call in works(device, photos, side).items():
            if only and op not in only:
                continue
            kept.setdefault(op, {})[kind], gain = best_launch(op, kind, call, device, most)
            tell(f"{op}, {kind}: {kept[op][kind]}, {gain:.2f} x")
    about = {
        "gpu": gpu_name(device),
        "made_by": f"veilkern tune on {photos} photos of 3 x {side} x {side}, torch {torch.__version__}, "
        f"{backend.detail}",
        "launches": kept,
    }
    make_folder(path.parent)
    atomic_write(path, (json.dumps(about, indent=2) + "\n").encode())
    tables.cache_clear()
    return path
