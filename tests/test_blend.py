"""blend: the integer formula, on every backend and instruction set, for every value."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
import torch
from helpers import BACKENDS, INTERPRETED, batch, every_pair, large, layouts, native, threads
from hypothesis import given, settings
from hypothesis import strategies as st

from veilkern import ops
from veilkern.testing.making import laid_out


def formula(images, veils, rows, a, lossless=False):
    """The contract in NumPy."""
    p = a * images.numpy().astype(np.int64) + (255 - a) * veils.numpy().astype(np.int64)[rows.numpy()]
    return torch.from_numpy(p.astype(np.uint16) if lossless else ((p + 127) // 255).astype(np.uint8))


def test_native_is_there_where_it_must_be():
    if os.environ.get("VEILKERN_REQUIRE_NATIVE"):
        assert "cpu" in BACKENDS and "triton" in BACKENDS


@pytest.mark.parametrize("a", [0, 1, 2, 50, 51, 127, 128, 200, 254, 255])
@pytest.mark.parametrize("lossless", [False, True])
def test_every_value(path, a, lossless):
    x, v = every_pair()
    rows = torch.zeros(1, dtype=torch.int64)
    assert torch.equal(ops.blend(x, v, rows, a, lossless=lossless), formula(x, v, rows, a, lossless))


def test_every_blend(path):
    """Every (x, v, a): the kernels round by another way than a division."""
    x, v = every_pair()
    wide_x, wide_v, rows = x[0, 0].int(), v[0, 0].int(), torch.zeros(1, dtype=torch.int64)
    for a in range(0, 256, 30 if path == "triton" and INTERPRETED else 1):
        wanted = (a * wide_x + (255 - a) * wide_v + 127) // 255
        assert torch.equal(ops.blend(x, v, rows, a), wanted.to(torch.uint8).expand_as(x)), f"a = {a}"


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 6),
    people=st.integers(1, 4),
    h=st.integers(1, 40),
    w=st.integers(1, 40),
    a=st.integers(0, 255),
    seed=st.integers(0, 1000),
    lossless=st.booleans(),
    layout=layouts,
    veil_layout=layouts,
)
def test_any_shape(n, people, h, w, a, seed, lossless, layout, veil_layout):
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 3, h, w), dtype=torch.uint8, generator=g)
    veils = torch.randint(0, 256, (people, 3, h, w), dtype=torch.uint8, generator=g)
    rows = torch.randint(0, people, (n,), generator=g)
    found = ops.blend(laid_out(images, layout), laid_out(veils, veil_layout), rows, a, lossless=lossless)
    assert torch.equal(found, formula(images, veils, rows, a, lossless))


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.integers(-3, 5), min_size=1, max_size=6), people=st.integers(1, 4))
def test_any_rows(rows, people):
    """Unsorted, repeated, out of range: an error that names the range, or the formula."""
    images, veils, _ = batch(len(rows), people, 5)
    index = torch.tensor(rows)
    if min(rows) < 0 or max(rows) >= people:
        with pytest.raises(ValueError, match=f"rows must lie in 0..{people - 1}"):
            ops.blend(images, veils, index, 51)
    else:
        assert torch.equal(ops.blend(images, veils, index, 51), formula(images, veils, index, 51))


def test_channels_last_stays_channels_last(path):
    """A decoder's photos, height x width x channels, go through without a copy."""
    images, veils, rows = batch(4, 2, 12)
    found = ops.blend(images.contiguous(memory_format=torch.channels_last), veils, rows, 51)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, formula(images, veils, rows, 51))


@native
def test_any_number_of_threads_and_callers():
    images, veils, rows = batch(64, 9, 112)
    wanted = formula(images, veils, rows, 51)
    for count in (1, 2, 3, 8):
        with threads(count):
            assert torch.equal(ops.blend(images, veils, rows, 51), wanted)
    wrong = []

    def call():
        for _ in range(10):
            if not torch.equal(ops.blend(images, veils, rows, 51), wanted):
                wrong.append(1)

    callers = [threading.Thread(target=call) for _ in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_compiles_whole():
    images, veils, rows = batch()
    compiled = torch.compile(lambda i, v, r: ops.blend(i, v, r, 51), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(images, veils, rows), formula(images, veils, rows, 51))


def test_a_bad_row_writes_nothing():
    images, veils, _ = batch(2, 2, 4)
    out = torch.full_like(images, 7)
    with pytest.raises(ValueError, match="rows must lie in"):
        ops.blend(images, veils, torch.tensor([0, 9]), 51, out=out)
    assert (out == 7).all()


@pytest.mark.large
@large
def test_more_than_2_to_31_values():
    side, n = 1024, 700  # 2.2e9 values
    images = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8)
    veils = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    rows = torch.arange(n) % 2
    out = ops.blend(images, veils, rows, 51, out=torch.empty_like(images))
    for i in (0, 1, n - 1):
        assert torch.equal(out[i : i + 1], formula(images[i : i + 1], veils, rows[i : i + 1], 51))
