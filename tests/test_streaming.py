"""Results written past the caches (12 MiB and more): right, and never a crash, wherever and however photos lie.

The cases run in a process of their own, since a store that faults ends the process (which says in what it was):
`python tests/test_streaming.py small baseline avx2`. There, stores past the caches begin at the first byte for small
photos of every layout, and at their own 12 MiB for batches just over it. What should come out, which takes longest, is
worked out once for all instruction sets.
"""

from __future__ import annotations

import functools
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import ISAS, isas, native, serving, threads

from veilkern import ops, reference
from veilkern.testing.making import LAYOUTS, bytes8, laid_out

A = 51
LARGE = 12 << 20
TAKEN: tuple[str, ...] = ()  # the instruction sets of this process
SIDES = [(1, 1), (1, 67), (5, 7), (8, 8), (13, 17), (97, 97), (101, 101), (111, 111), (113, 113), (100, 37)]


def secrets(images, veils) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and nonces of a batch."""
    return bytes8(len(veils), 32, seed=5), bytes8(len(images), 12, seed=6)


def formula(op: str, images, veils, rows) -> torch.Tensor:
    """blend, lossless, recover and exact (recover from lossless) in NumPy's integers, sealing by the reference."""
    if op in SEALING:
        if images.numel() >= LARGE // 2:  # minutes by the reference, which small photos are held to
            return through_the_caches(op, images, veils, rows)
        keys, nonces = secrets(images, veils)
        if op.startswith("un"):
            return reference.unseal(images, veils, rows, keys)
        return reference.seal(images, veils, rows, keys, nonces, lossless=op == "seal16")
    x, v = images.numpy().astype(np.int32), veils.numpy().astype(np.int32)[rows.numpy()]
    if op in ("blend", "lossless"):
        p = A * x + (255 - A) * v
        return torch.from_numpy(p.astype(np.uint16) if op == "lossless" else ((p + 127) // 255).astype(np.uint8))
    t = (255 * x if op == "recover" else x) - (255 - A) * v
    return torch.from_numpy(np.clip((2 * t + A) // (2 * A), 0, 255).astype(np.uint8))


SEALING = ("seal", "seal16", "unseal", "unseal16")
OPS = ("blend", "lossless", "recover", "exact", *SEALING)


def through_the_caches(op: str, images, veils, rows) -> torch.Tensor:
    from veilkern import _cpu

    _cpu.set_stream_from(2**62)
    found = call(op, images, veils, rows, torch.empty(images.shape, dtype=dtypes(op)[1]))
    _cpu.set_stream_from()
    return found


def call(op: str, images, veils, rows, out) -> torch.Tensor:
    if op in SEALING:
        keys, nonces = secrets(images, veils)
        if op.startswith("un"):
            return ops.unseal(images, veils, rows, keys, out=out)
        return ops.seal(images, veils, rows, keys, nonces, lossless=op == "seal16", out=out)
    if op in ("blend", "lossless"):
        return ops.blend(images, veils, rows, A, lossless=op == "lossless", out=out)
    return ops.recover(images, veils, rows, A, out=out)


def dtypes(op: str) -> tuple[torch.dtype, torch.dtype]:
    """Of the photos that come in and of those that go out."""
    return (
        torch.uint16 if op in ("exact", "unseal16") else torch.uint8,
        torch.uint16 if op in ("lossless", "seal16") else torch.uint8,
    )


def random_batch(op: str, n: int, height: int, width: int, people: int = 3):
    g = torch.Generator().manual_seed(n + height)
    wide = op in ("exact", "unseal16")
    images = torch.randint(
        0, 65026 if wide else 256, (n, 3, height, width), dtype=torch.int32 if wide else torch.uint8, generator=g
    )
    veils = torch.randint(0, 256, (people, 3, height, width), dtype=torch.uint8, generator=g)
    return images.to(dtypes(op)[0]), veils, torch.randint(0, people, (n,), generator=g)


def no_photo(op: str, height: int, width: int) -> bool:
    """Whether a photo has no room for its nonce."""
    return op in SEALING and 3 * height * width < 96


def room(shape, dtype: torch.dtype, place: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Where to write photos of this shape, and the memory around, all of it 7."""
    n, c, h, w = shape
    size = c * h * w
    if place == "channels_last":
        memory = torch.full((n, h, w, c), 7, dtype=dtype)
        return memory.permute(0, 3, 1, 2), memory
    if place.startswith("shifted"):  # the first photo begins so many values after the memory does
        shift = int(place.removeprefix("shifted"))
        memory = torch.full((n * size + 64,), 7, dtype=dtype)
        return memory[shift : shift + n * size].view(shape), memory
    padding, every = {
        "dense": (0, 1),
        "every_other": (0, 2),
        "every_fourth": (0, 4),
        "padded": (29, 1),
        "lines": (-size % 64, 1),
    }[place]
    memory = torch.full((n * every, size + padding), 7, dtype=dtype)
    return memory[::every, :size].unflatten(1, (c, h, w)), memory


PLACES = (
    "dense",
    "channels_last",
    "every_other",
    "every_fourth",
    "padded",
    "lines",
    "shifted1",
    "shifted31",
    "shifted33",
)


@functools.lru_cache(maxsize=80)
def known(op: str, n: int, height: int, width: int) -> tuple[torch.Tensor, ...]:
    """A batch and what should come of it, worked out once for all places."""
    given = random_batch(op, n, height, width)
    return *given, formula(op, *given)


def check(op: str, n: int, height: int, width: int, place: str, layout: str = "dense") -> None:
    """The right values in their places and nothing written beside them."""
    if no_photo(op, height, width):
        return
    small = n * height * width < LARGE // 24  # large ones are not kept
    images, veils, rows, wanted = (known if small else known.__wrapped__)(op, n, height, width)
    for isa in TAKEN:
        out, memory = room(images.shape, dtypes(op)[1], place)
        print(isa, op, list(images.shape), layout, place, file=sys.stderr)  # the last line, where the process ends
        with serving(isa):
            call(op, laid_out(images, layout), veils, rows, out)
        assert torch.equal(out, wanted), f"{isa}: {op} of {list(images.shape)} ({layout}), out {place}"
        beside = memory.numel() - wanted.numel()
        out.zero_()
        assert int((memory.view(-1) == 7).sum()) == beside, f"{isa}: {op}, {list(images.shape)}: written beside {place}"


def check_in_place(op: str, n: int, side: int) -> None:
    if no_photo(op, side, side):
        return
    images, veils, rows = random_batch(op, n, side, side)
    wanted = formula(op, images, veils, rows)
    for isa in TAKEN:
        own = images.clone()
        print(isa, op, list(images.shape), "in place", file=sys.stderr)
        with serving(isa):
            assert torch.equal(call(op, own, veils, rows, own), wanted), f"{isa}: {op}, {list(images.shape)} in place"


def small_cases() -> None:
    """Every layout, with each run of values written past the caches."""
    for op in OPS:
        for height, width in SIDES:
            for place in PLACES:
                check(op, 3, height, width, place)
        for place in PLACES:
            for layout in LAYOUTS:
                check(op, 5, 9, 31, place, layout)
            for width in range(1, 70):
                check(op, 2, 1, width, place)
    for op in ("blend", "recover", "seal", "unseal"):
        for side in (5, 6, 13, 97):
            check_in_place(op, 3, side)
    for op in OPS:
        same_place(op)


def large_cases() -> None:
    """Batches just over 12 MiB of results, as they come: the sizes and slices that once ended the process."""
    for op in OPS:
        size = 2 if op in ("lossless", "seal16") else 1
        for side in (97, 100, 101, 111, 112, 113):
            place = {100: "every_fourth", 101: "channels_last", 112: "dense", 113: "lines"}.get(side, "dense")
            check(op, LARGE // (3 * side * side * size) + 2, side, side, place)
    check_in_place("blend", LARGE // (3 * 101 * 101) + 2, 101)


def same_place(op: str) -> None:
    """A stride of zero, which the ops refuse: the kernels write there and nowhere else."""
    from veilkern.backends import cpu

    images, veils, rows = random_batch(op, 64, 97, 97)
    out = torch.full((1, *images.shape[1:]), 7, dtype=dtypes(op)[1])
    for isa in TAKEN:
        print(isa, op, "in one place", file=sys.stderr)
        with serving(isa):
            if op in ("blend", "lossless"):
                cpu.OPS["blend"](images, veils, rows, A, op == "lossless", out.expand_as(images))
            elif op in ("seal", "seal16"):
                secret = secrets(images, veils)
                cpu.OPS["seal"](images, veils, rows, *secret, 64, 20, op == "seal16", out.expand_as(images))
            elif op in SEALING:
                cpu.OPS["unseal"](images, veils, rows, secrets(images, veils)[0], 64, 20, out.expand_as(images))
            else:
                cpu.OPS["recover"](images, veils, rows, A, None, out.expand_as(images))


@native
@pytest.mark.parametrize("cases", ["small", "large"])
@pytest.mark.thorough
def test_every_layout(cases):
    taken = isas() if cases == "small" else isas()[1:]  # the baseline has no stores past the caches
    command = [sys.executable, __file__, cases, *taken]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-2000:]}"
    assert {line.partition(" ")[0] for line in done.stderr.splitlines()} >= {*taken}


def main(cases: str) -> None:
    from veilkern import _cpu

    torch.set_num_threads(1)
    with threads(3):
        if cases == "large":
            large_cases()
        else:
            _cpu.set_stream_from(0)
            small_cases()


if __name__ == "__main__":
    TAKEN = tuple(sys.argv[2:])
    assert TAKEN and {*TAKEN} <= {*ISAS}
    main(sys.argv[1])
