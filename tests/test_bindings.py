"""The C++ module called directly: what would reach outside of the memory given is refused, and nothing is written."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import SANITIZED, batch, isas, native, serving, threads

from veilkern import ops
from veilkern.backends import cpu, serve
from veilkern.testing.making import sealable_photos

pytestmark = native
GUARD = 7.0


def guarded(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Memory of this shape and, before and behind it, a guard of as many values."""
    size = int(np.prod(shape))
    memory = torch.full((3 * size,), GUARD)
    return memory[size : 2 * size].view(shape), memory


def hull(written, offsets, clean_offsets, width: int, kind: int = 0) -> None:
    """_cpu.hull_distance_f32 of 4 features of 8 dimensions and 4 clean ones; written: distance, weights, gradient."""
    from veilkern import _cpu

    generator = torch.Generator().manual_seed(0)
    features, clean = (torch.rand(4, 8, generator=generator) for _ in range(2))
    marks, clean_marks = torch.tensor(offsets), torch.tensor(clean_offsets)
    distance, weights, gradient = (view for view, _ in written)
    _cpu.hull_distance_f32(
        features.data_ptr(), clean.data_ptr(), marks.data_ptr(), clean_marks.data_ptr(), (len(marks) - 1, 4, 4, 8),
        kind, 0, 0, distance.data_ptr(), weights.data_ptr(), width, gradient.data_ptr(), 2,
    )  # fmt: skip


@pytest.mark.parametrize("kind", range(5))
@pytest.mark.parametrize(
    "offsets,clean_offsets,width",
    [
        ([0, 4], [0, 4], 3),  # less than the person's clean features
        ([0, 4], [0, 4], 0),
        ([0, 4], [0, 4], -1),
        ([0, 2, 4], [0, 4, 4], 2),
        ([0, 5], [0, 4], 4),  # beyond the features
        ([1, 4], [0, 4], 4),
        ([0, 9, 4], [0, 2, 4], 4),  # not rising
        ([0, -3, 4], [0, 2, 4], 4),
        ([0, 2, 4], [0, 400, 4], 4),
        ([0, 2, 4], [0, -9, 4], 4),
        ([0, 4], [0, 2**62], 4),
        ([0, 4], [-1, 4], 4),
    ],
)
def test_hull_distance(offsets, clean_offsets, width, kind):
    written = [guarded(4), guarded(4, 4), guarded(4, 8)]
    with pytest.raises(ValueError, match="must rise from 0 to 4|must have room for"):
        hull(written, offsets, clean_offsets, width, kind)
    assert all((memory == GUARD).all() for _, memory in written)


@pytest.mark.parametrize("kind", range(5))
def test_hull_distance_writes_its_own(kind):
    written = [guarded(4), guarded(4, 4), guarded(4, 8)]
    hull(written, [0, 1, 4], [0, 1, 4], 4, kind)
    for view, memory in written:
        assert (view != GUARD).all() and (memory == GUARD).sum() == 2 * view.numel()


@pytest.mark.parametrize("offsets", [[0, 3], [0, 9], [1, 4], [0, 6, 4], [0, -1, 4]])
@pytest.mark.parametrize("which", ["offsets", "gradient_offsets"])
def test_veil_step(offsets, which):
    people = len(offsets) - 1
    veils, momentum = torch.rand(people, 3, 6, 6), torch.zeros(people, 3, 6, 6)
    images, gradients = torch.zeros(4, 3, 6, 6, dtype=torch.uint8), torch.rand(4, 3, 6, 6)
    good = torch.tensor([0, 4] if people == 1 else [0, 2, 4])
    marks = {"offsets": good, "gradient_offsets": good} | {which: torch.tensor(offsets)}
    numbers = torch.ones(people, dtype=torch.float64)
    before = veils.clone()
    with pytest.raises(ValueError, match=f"{which} must rise from 0 to 4"):
        cpu.OPS["veil_step_"](
            veils, momentum, gradients, images, marks["offsets"], marks["gradient_offsets"], 51, numbers, numbers,
            numbers, numbers, None, None, "norm", (3, 3), 1, "consistent",
        )  # fmt: skip
    assert torch.equal(veils, before) and not momentum.any()


@pytest.mark.parametrize("row", [-1, 3, 2**62, -(2**62)])
def test_rows_that_name_no_veil(row):
    images, veils, _ = batch(4, 3, 8)
    rows, out = torch.tensor([0, row, 1, 2]), torch.full_like(images, 7)
    numbers = ((0.0,) * 3, (1.0,) * 3, False)
    normal = torch.full(images.shape, GUARD).contiguous(memory_format=torch.channels_last)
    for call in (
        lambda: cpu.OPS["blend"](images, veils, rows, 51, False, out),
        lambda: cpu.OPS["recover"](images, veils, rows, 51, None, out),
        lambda: cpu.OPS["recover"](images, veils, rows, 51, 1.0, out),
        lambda: cpu.OPS["blend_normalize"](images, veils.float(), rows, 51, *numbers, normal),
    ):
        with pytest.raises(ValueError, match="rows must name a veil"):
            call()
    assert (out == 7).all() and (normal == GUARD).all()


def sealing(side: int = 8, **changed) -> list:
    """Arguments of the launcher of seal, with a guard in place of out."""
    made = sealable_photos(4, 3, side, side) | {"levels": 64, "rounds": 20, "lossless": False} | changed
    return [*made.values(), torch.full(made["images"].shape, 7, dtype=torch.uint8)]


def seal_launchers(made: list):
    """(name, call) of seal, unseal and seal_normalize with those arguments, and what they must leave alone."""
    images, veils, rows, keys, nonces, levels, rounds, _, out = made
    normal = torch.full(images.shape, GUARD).contiguous(memory_format=torch.channels_last)
    numbers = ((0.0,) * 3, (1.0,) * 3, False)
    calls = {
        "seal": lambda: cpu.OPS["seal"](*made),
        "unseal": lambda: cpu.OPS["unseal"](images, veils, rows, keys, levels, rounds, out),
        "seal_normalize": lambda: cpu.OPS["seal_normalize"](
            images, veils.float(), rows, keys, nonces, levels, rounds, *numbers, normal
        ),
    }
    return calls, (out, normal)


@pytest.mark.parametrize(
    "changed,words",
    [
        ({"rows": torch.tensor([0, -1, 1, 2])}, "rows must name a veil"),
        ({"rows": torch.tensor([0, 1, 2, 3])}, "rows must name a veil"),
        ({"rows": torch.tensor([0, 1, 2, 2**62])}, "rows must name a veil"),
        ({"keys": torch.zeros(2, 32, dtype=torch.uint8)}, "keys must be .people, 32."),
        ({"keys": torch.zeros(3, 31, dtype=torch.uint8)}, "keys must be .people, 32."),
        ({"nonces": torch.zeros(3, 12, dtype=torch.uint8)}, "nonces must be .N, 12."),
        ({"nonces": torch.zeros(4, 11, dtype=torch.uint8)}, "nonces must be .N, 12."),
        *(({"levels": levels}, "levels must be 16, 32, 64 or 128") for levels in (-1, 0, 1, 8, 63, 256, 2**31 - 1)),
        *(({"rounds": rounds}, "rounds must be 12 or 20") for rounds in (-2, 0, 8, 19, 2**31 - 2)),
        ({"side": 5}, "photos must have at least 96 values"),
    ],
)
@pytest.mark.parametrize("op", ["seal", "unseal", "seal_normalize"])
def test_sealing_refuses(op, changed, words):
    """Before anything is read where it may not be, or written."""
    if op == "unseal" and "nonces" in changed:
        pytest.skip("photos bring their own")
    calls, untouched = seal_launchers(sealing(**changed))
    before = [tensor.clone() for tensor in untouched]
    with pytest.raises(ValueError, match=words):
        calls[op]()
    assert all(torch.equal(*pair) for pair in zip(untouched, before, strict=True))


@pytest.mark.parametrize(
    "sizes", [(4, 1, 8, 8), (-1, 3, 8, 8), (4, 3, 0, 8), (4, 3, -8, -8), (1, 3, 2**31, 2**31), (1, 3, 2**62, 4)]
)
@pytest.mark.parametrize("threads", [1, 0])
def test_sizes_that_no_photo_has(sizes, threads):
    from veilkern import _cpu

    images, veils, rows, keys, nonces, *_, out = sealing()
    arguments = [
        (images.data_ptr(), 192), (veils.data_ptr(), 3, veils.stride()), rows.data_ptr(), (keys.data_ptr(), 3, 32),
        (nonces.data_ptr(), sizes[0], 12), (out.data_ptr(), 192), sizes, False, 64, 20, threads,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="must be|must have"):
        _cpu.seal_u8(*arguments)
    with pytest.raises(ValueError, match="must be|must have"):
        _cpu.unseal_u8(*arguments[:4], *arguments[5:])
    assert (out == 7).all()


@pytest.mark.parametrize("layout", ["dense", "channels_last"])
@pytest.mark.parametrize("isa", isas())
def test_nonces_are_read_before_anything_is_written(layout, isa):
    """Unsealed in place by many threads, a part beginning within a photo whose first values are another thread's."""
    made = sealable_photos(60, 7, 91, 93)
    memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    given = [made[name] for name in ("veils", "rows", "keys")]
    with serving(isa):
        sealed = ops.seal(**made).contiguous(memory_format=memory)
        with threads(1):
            wanted = ops.unseal(sealed, *given)
        for count in (2, 5, 16):
            with threads(count):
                found = sealed.clone(memory_format=torch.preserve_format)
                assert ops.unseal(found, *given, out=found) is found
            assert torch.equal(found, wanted), f"{count} threads"


@pytest.mark.parametrize("side", [1, 2, 5])
def test_a_filter_as_wide_as_the_photo(side):
    """Reflected borders reach side - 1 pixels: a radius of `side` would be read beside the plane."""
    from veilkern import _cpu

    images, veils, rows = batch(2, 2, side)
    out = torch.full_like(images, 7)
    arguments = (
        (images.data_ptr(), 3 * side * side), (veils.data_ptr(), 2, veils.stride()), rows.data_ptr(),
        (out.data_ptr(), 3 * side * side), (2, 3, side, side), 51,
    )  # fmt: skip
    with pytest.raises(ValueError, match="the filter must be smaller than the photo"):
        _cpu.recover_gaussian_u8(*arguments, [4096, *[0] * side], 1)
    assert (out == 7).all()
    _cpu.recover_gaussian_u8(*arguments, [4096, *[0] * (side - 1)], 1)
    wanted = torch.empty_like(images)
    serve("recover", images, veils, rows, 51, None, wanted)
    assert torch.equal(out, wanted)


CALLS = "300" if SANITIZED else "1500"  # a sanitizer sees what nobody else does, in any of them
RACE = """
import contextlib, sys, threading
import torch
import veilkern as vk
from veilkern import ops

counts = torch.tensor([0, *[3] * 40]).cumsum(0)
photos, stop = int(counts[-1]), threading.Event()
features = torch.nn.functional.normalize(torch.randn(photos, 64))
images = torch.randint(0, 256, (photos, 3, 16, 16), dtype=torch.uint8)
veils, momentum, slopes = torch.rand(40, 3, 16, 16), torch.zeros(40, 3, 16, 16), torch.randn(photos, 3, 16, 16)
rates = {"a": 51, "lam": 0.1, "mu": 0.1, "step": 0.1, "decay": 1.0}
calls = {
    "hull_distance": lambda marks: ops.hull_distance(features, features, marks, width=3),
    "veil_step_": lambda marks: ops.veil_step_(veils, momentum, slopes, images, marks, **rates),
}
marks = counts.clone()

def write():
    while not stop.is_set():
        marks[1:-1] = 10**13
        marks.copy_(counts)

writer = threading.Thread(target=write, daemon=True)  # an error ends the process all the same
writer.start()
with vk.use_backend("cpu"):
    for _ in range(int(sys.argv[2])):
        with contextlib.suppress(ValueError):  # offsets must rise
            calls[sys.argv[1]](marks)
stop.set()
writer.join()
"""


SEAL_RACE = """
import contextlib, sys, threading
import torch
import veilkern as vk
from veilkern import ops
from veilkern.testing.making import sealable_photos

made, stop = sealable_photos(40, 7, 24, 24), threading.Event()
good, out = made["rows"].clone(), torch.empty_like(made["images"])
plain = [made[name] for name in ("veils", "rows", "keys")]
numbers = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
calls = {
    "seal": lambda: ops.seal(**made, out=out),
    "unseal": lambda: ops.unseal(made["images"], *plain, out=out),
    "seal_normalize": lambda: ops.seal_normalize(**made | {"veils": made["veils"] / 255}, **numbers),
}

def write():
    while not stop.is_set():
        made["rows"][1:] = 10**13
        made["keys"].random_(), made["nonces"].random_(), made["images"].random_()
        made["rows"].copy_(good)

writer = threading.Thread(target=write, daemon=True)  # an error ends the process all the same
writer.start()
with vk.use_backend("cpu"):
    for _ in range(int(sys.argv[2])):
        with contextlib.suppress(ValueError):  # rows must name a veil
            calls[sys.argv[1]]()
stop.set()
writer.join()
"""


@native
@pytest.mark.parametrize("op", ["seal", "unseal", "seal_normalize"])
def test_rows_keys_and_nonces_that_another_thread_writes_to(op):
    command = [sys.executable, "-c", SEAL_RACE, op, CALLS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-2000:]}"


@native
@pytest.mark.parametrize("op", ["hull_distance", "veil_step_"])
def test_offsets_that_another_thread_writes_to(op):
    """They are not read again once they were found right: then they may be any numbers."""
    command = [sys.executable, "-c", RACE, op, CALLS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-2000:]}"
