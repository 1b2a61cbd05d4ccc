"""blend_normalize: the network's input, channel order and statistics folded in, on every path."""

from __future__ import annotations

import pytest
import torch
from helpers import MANY, gradcheck, large, layouts
from hypothesis import given, settings
from hypothesis import strategies as st

from veilkern import ops, reference
from veilkern.ops.blend_normalize import _add_by_row
from veilkern.testing.making import laid_out

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
HALF_STEP = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def batch(n=4, people=2, h=6, w=5, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randint(0, 256, (n, 3, h, w), dtype=torch.uint8, generator=g),
        torch.rand(people, 3, h, w, dtype=torch.float64, generator=g).to(dtype),
        torch.randint(0, people, (n,), generator=g),
    )


def formula(images, veils, rows, a, bgr, mean=MEAN, std=STD):
    """Written out in float64, not rounded to the output."""
    mixed = a / 255 * images.double() / 255 + (255 - a) / 255 * veils.double()[rows]
    mixed = mixed.flip(1) if bgr else mixed
    column = torch.tensor([mean, std], dtype=torch.float64).view(2, 1, 3, 1, 1)
    return (mixed - column[0]) / column[1]


@pytest.mark.parametrize("bgr", [False, True])
@pytest.mark.parametrize("veil_dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", list(HALF_STEP))
def test_the_reference_is_the_formula(bgr, veil_dtype, dtype):
    images, veils, rows = batch(dtype=veil_dtype, h=13, w=37)
    found = reference.blend_normalize(images, veils.double(), rows, 51, mean=MEAN, std=STD, bgr=bgr, dtype=dtype)
    assert found.dtype == dtype and found.is_contiguous(memory_format=torch.channels_last)
    wanted = formula(images, veils, rows, 51, bgr)
    assert ((found.double() - wanted).abs() <= wanted.abs() * HALF_STEP[dtype] + 1e-13).all()


@pytest.mark.parametrize("layout", ["dense", "channels_last"])
def test_the_result_is_channels_last(path, layout):
    """As a network's first layer reads it, in the dtype asked for."""
    images, veils, rows = batch()
    for dtype in HALF_STEP:
        found = ops.blend_normalize(laid_out(images, layout), veils, rows, 51, mean=MEAN, std=STD, dtype=dtype)
        assert found.dtype == dtype and found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_of_every_kind_of_number(path, dtype):
    """Zero, tiny, subnormal, ties, overflow, infinity and NaN are rounded as torch rounds them."""
    special = [
        0.0,
        -0.0,
        1e-8,
        5.9e-8,
        6e-8,
        3e-6,
        6.1e-5,
        6.2e-5,
        1.00048828125,
        1.00146484375,
        1.00390625,
        1.01171875,
    ]
    special += [65504.0, 65519.9, 65520.0, 1e5, 3.3e38, float("inf"), float("nan")]
    values = torch.tensor([*special, *(-v for v in special)])
    values = torch.cat(
        [values, torch.randn(2000, generator=torch.Generator().manual_seed(0)) * 10 ** torch.linspace(-9, 6, 2000)]
    )
    veils = values.expand(3, -1).contiguous().view(1, 3, 1, -1)
    images, rows = torch.zeros(veils.shape, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    found = ops.blend_normalize(images, veils, rows, 0, mean=(0,) * 3, std=(1,) * 3, dtype=dtype)
    torch.testing.assert_close(found, veils.to(dtype), rtol=0, atol=0, equal_nan=True)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 4),
    people=st.integers(1, 3),
    h=st.integers(1, 20),
    w=st.integers(1, 40),
    a=st.integers(0, 255),
    bgr=st.booleans(),
    layout=layouts,
    veil_layout=layouts,
)
def test_any_shape(n, people, h, w, a, bgr, layout, veil_layout):
    images, veils, rows = batch(n, people, h, w)
    found = ops.blend_normalize(
        laid_out(images, layout), laid_out(veils, veil_layout), rows, a, mean=MEAN, std=STD, bgr=bgr
    )
    torch.testing.assert_close(found.double(), formula(images, veils, rows, a, bgr), atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("bgr", [False, True])
def test_gradient_with_respect_to_veils(path, bgr):
    images, veils, rows = batch(5, 3, dtype=torch.float64)
    assert gradcheck(
        path,
        lambda v: ops.blend_normalize(images, v, rows, 51, mean=MEAN, std=STD, bgr=bgr, dtype=torch.float64),
        veils.requires_grad_(),
    )


def test_the_defaults(path):
    """Red first, float32."""
    images, veils, rows = batch(2, 2)
    found = ops.blend_normalize(images, veils, rows, 51, mean=MEAN, std=STD)
    wanted = ops.blend_normalize(images, veils, rows, 51, mean=MEAN, std=STD, bgr=False, dtype=torch.float32)
    other = ops.blend_normalize(images, veils, rows, 51, mean=MEAN, std=STD, bgr=True)
    assert torch.equal(found, wanted) and not torch.equal(found, other)
    plain = reference.blend_normalize(images, veils, rows, 51, mean=MEAN, std=STD)
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)


def test_gradients_are_added_in_the_order_of_photos():
    """One after the other, so that every run has the same bits; a row that is no veil's is left out."""
    g = torch.Generator().manual_seed(0)
    values, rows = torch.randn(50, 3, 4, 5, generator=g) * 1e4 ** torch.rand(50, 1, 1, 1, generator=g), None
    rows = torch.randint(-1, 5, (50,), generator=g)
    wanted = torch.zeros(4, 3, 4, 5)
    for value, row in zip(values, rows.tolist(), strict=True):
        if 0 <= row < 4:
            wanted[row] += value
    assert torch.equal(_add_by_row(values, rows, 4), wanted)
    total = torch.zeros(5, 3, 4, 5)  # what it does on a GPU, where this one sorts
    total.index_put_((torch.where((rows >= 0) & (rows < 4), rows, 4),), values, accumulate=True)
    torch.testing.assert_close(total[:4], wanted)
    values[rows == 2] = float("nan")
    assert _add_by_row(values, rows, 4).isnan().flatten(1).any(1).tolist() == [False, False, True, False]


def test_compiles_whole():
    images, veils, rows = batch()
    compiled = torch.compile(
        lambda i, v, r: ops.blend_normalize(i, v, r, 51, mean=MEAN, std=STD), fullgraph=True, backend="aot_eager"
    )
    wanted = ops.blend_normalize(images, veils, rows, 51, mean=MEAN, std=STD)
    assert torch.equal(compiled(images, veils, rows), wanted)


@pytest.mark.large
@large
def test_more_than_2_to_31_values():
    images, veils, rows = batch(MANY, 2, 112, 112)
    out = ops.blend_normalize(images, veils, rows, 51, mean=MEAN, std=STD, dtype=torch.float32)
    for i in (0, MANY - 1):
        part = slice(i, i + 1)
        wanted = ops.blend_normalize(images[part], veils, rows[part], 51, mean=MEAN, std=STD)
        assert torch.equal(out[part], wanted)
