"""veilkern tune: measure the Triton kernels' launches on this GPU and write the fastest as the user's own table.

Every op and shape class has one piece of work (photos of 3 x 112 x 112 by default). Candidates are the class's present
numbers and those near them: each power of two halved and doubled, one or two at a time. A candidate that does not
compile, does not fit or gives another result than the present launch is left out. Times are medians with a cold L2
cache. On a GPU several processes compile all candidates first, into Triton's cache on disk: then nothing but measuring
is left, one candidate at a time.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from veilkern.backends import use_backend
from veilkern.backends.launch_tables import FIELDS, file_name, gpu_name, launch_of, tables, trying, user_folder
from veilkern.data.files import atomic_write, make_folder
from veilkern.testing.compare import Arguments
from veilkern.testing.entry import Entry, KernelCall, Workload
from veilkern.testing.making import on
from veilkern.testing.table import TABLE
from veilkern.threads import available_cores

Work = Callable[[], tuple[torch.Tensor, ...]]
EXACT = {entry.launcher for entry in TABLE.values() if entry.exact}  # the same bits by any launch; others in rounding


def workload(photos: int, side: int) -> Workload:
    """Random photos of people with ten photos each (the last one has the rest), 512 features a photo; on the CPU."""
    generator = torch.Generator().manual_seed(0)
    people = max(photos // 10, 1)
    images = torch.randint(0, 256, (photos, 3, side, side), dtype=torch.uint8, generator=generator)
    return Workload(
        images=images,
        veils=images[:people].flip(3),
        rows=torch.arange(photos) % people,
        offsets=torch.cat([torch.arange(people) * 10, torch.tensor([photos])]),
        features=torch.nn.functional.normalize(torch.randn(photos, 512, generator=generator) + 1),
    )


def works(device: torch.device, photos: int, side: int) -> dict[tuple[str, str], Work]:
    """(op, shape class) -> one call on random data, for every class that photos of this size fall into."""
    work, found = workload(photos, side), dict[tuple[str, str], Work]()
    for entry in TABLE.values():
        for call in entry.calls:
            if call.launch:
                arguments = on(device, call.make(work))
                found[entry.launcher, call.launch] = functools.partial(_run, entry, call, arguments)
    return found


def _run(entry: Entry, call: KernelCall, arguments: Arguments) -> tuple[torch.Tensor, ...]:
    """The results that must not change with the launch; what is written in place is written into copies."""
    found = entry.call(arguments | {name: arguments[name].clone() for name in entry.writes if name in arguments})
    return found if call.compared is None else tuple(found[index] for index in call.compared)


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


def compile_ahead(device: torch.device, side: int, only: list[str] | None, most: int, jobs: int) -> None:
    """Compile what will be measured, in `jobs` processes. What fails here fails again when it is measured."""
    context = multiprocessing.get_context("spawn")  # a process that was forked cannot use the GPU
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        for share in range(jobs):
            pool.submit(_compile_share, device, side, only, most, share, jobs)


def _compile_share(device: torch.device, side: int, only: list[str] | None, most: int, share: int, jobs: int) -> None:
    with use_backend("triton"):
        tasks = (
            (op, kind, entry, call)
            for (op, kind), call in works(device, 20, side).items()  # a kernel is the same for any number of photos
            if not only or op in only
            for entry in itertools.islice(candidates(launch_of(op, kind, device)), most)
        )
        for op, kind, entry, call in itertools.islice(tasks, share, None, jobs):
            with trying(op, kind, entry), contextlib.suppress(Exception):
                call()


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
    only: list[str] | None = None, *, photos: int = 2048, side: int = 112, most: int = 60, jobs: int | None = None,
    tell: Callable[[str], None] = print,
) -> Path:  # fmt: skip
    """Search, and write the table of this GPU to the user's folder; classes not searched keep their present numbers.

    only: names of ops. photos, side: the batch to measure on. most: candidates for one class. jobs: processes that
    compile, default one a core and 16 at most; none in Triton's interpreter, which compiles nothing. Raises
    BackendError where the Triton backend is absent, ValueError for an op that there is not, or no process.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"tune: jobs must be 1 or more, got {jobs}")
    with use_backend("triton") as backend:
        if unknown := sorted(set(only or ()) - set(backend.ops)):
            raise ValueError(f"tune: only must name ops of {', '.join(backend.ops)}, got {', '.join(unknown)}")
        device = torch.device(
            backend.devices[0], *((torch.cuda.current_device(),) if "cuda" in backend.devices else ())
        )
        path = user_folder() / file_name(gpu_name(device))
        kept = {op: dict(classes) for op, classes in (tables(gpu_name(device))[0] if path.is_file() else {}).items()}
        if device.type != "cpu":
            compile_ahead(device, side, only, most, min(available_cores(), 16) if jobs is None else jobs)
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
