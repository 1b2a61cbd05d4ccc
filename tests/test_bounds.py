"""The bounds check of bounds.py, which helpers.py installs for the whole suite: a kernel that strays is found."""

from __future__ import annotations

import pytest
import torch
from helpers import INTERPRETED

triton = pytest.importorskip("triton", reason="Triton is not installed")
tl = triton.language


@triton.jit
def faulty_kernel(x, index, out, size, first, reading, BLOCK: tl.constexpr):
    here = first + tl.arange(0, BLOCK)
    if reading == 1:
        tl.store(out + tl.arange(0, BLOCK), tl.load(x + here, mask=here < size, other=0.0))
    elif reading == 2:
        tl.atomic_add(index + first, 1)
    else:
        tl.store(out + here, tl.load(x + tl.arange(0, BLOCK)), mask=here < size)


only_interpreted = pytest.mark.skipif(not INTERPRETED, reason="the interpreter does not run here")


@only_interpreted
@pytest.mark.parametrize(
    "size,first,reading,what",
    [
        (9, 1, 1, r"load of 1 values outside of what it was given, the first nearest to x, 32 bytes from the start"),
        (8, -1, 1, r"load of 1 values .* nearest to x, -4 bytes from the start of its 32"),
        (11, 3, 0, r"store of 3 values .* nearest to out, 32 bytes from the start of its 32"),
        (8, -3, 0, r"store of 3 values .* nearest to out, -12 bytes"),
        (0, 2, 2, r"atomic of 1 values .* nearest to index, 8 bytes"),
    ],
)
def test_a_faulty_kernel_is_found(size, first, reading, what):
    """One value beyond either end, in a load, a store and an atomic; the line is that of the kernel."""
    x, index, out = torch.zeros(8), torch.zeros(2, dtype=torch.int32), torch.zeros(8)
    with pytest.raises(triton.runtime.errors.InterpreterError, match=f"faulty_kernel: {what}") as raised:
        faulty_kernel[(1,)](x, index, out, size, first, reading, BLOCK=8)
    assert "test_bounds.py:" in str(raised.value) and "(faulty_kernel)" in str(raised.value)


@only_interpreted
def test_masked_lanes_and_whole_storages_are_within_bounds():
    """A view's storage is what a launch is given; lanes that are masked off may point anywhere."""
    x, index, out = torch.arange(12.0), torch.zeros(2, dtype=torch.int32), torch.zeros(12)
    for size, first, reading in ((8, 1000, 1), (8, 1000, 0), (8, 3, 1), (8, 3, 0), (0, 1, 2)):
        faulty_kernel[(1,)](x[2:10], index, out[2:10], size, first, reading, BLOCK=8)
    assert index.tolist() == [0, 1] and out.any()
