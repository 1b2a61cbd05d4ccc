"""The C++ module called directly: what would reach outside of the memory given is refused, and nothing is written."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import batch, native

from veilkern.backends import cpu, serve

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
    for _ in range(1500):
        with contextlib.suppress(ValueError):  # offsets must rise
            calls[sys.argv[1]](marks)
stop.set()
writer.join()
"""


@native
@pytest.mark.parametrize("op", ["hull_distance", "veil_step_"])
def test_offsets_that_another_thread_writes_to(op):
    """They are not read again once they were found right: then they may be any numbers."""
    done = subprocess.run([sys.executable, "-c", RACE, op], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-2000:]}"
