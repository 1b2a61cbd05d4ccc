"""recover: the integer formula on every backend, the error bound, exactness from the lossless form."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from helpers import BACKENDS, INTERPRETED, MANY, another_order, batch, every_pair, large, layouts, native, serving
from hypothesis import given, settings
from hypothesis import strategies as st

import veilkern as vk
from veilkern import ops, reference
from veilkern.filters import gaussian_weights
from veilkern.reference.recover import gaussian_filter
from veilkern.testing.making import laid_out


def formula(hidden, veils, rows, a):
    """The contract in NumPy: exact integers."""
    scale = 255 if hidden.dtype == torch.uint8 else 1
    t = scale * hidden.numpy().astype(np.int64) - (255 - a) * veils.numpy().astype(np.int64)[rows.numpy()]
    return torch.from_numpy(np.clip((2 * t + a) // (2 * a), 0, 255).astype(np.uint8))


ROW = torch.zeros(1, dtype=torch.int64)


@pytest.mark.parametrize("a", [1, 2, 3, 7, 50, 51, 64, 127, 128, 129, 200, 253, 254, 255])
def test_every_value(path, a):
    hidden, veils = every_pair()
    assert torch.equal(ops.recover(hidden, veils, ROW, a), formula(hidden, veils, ROW, a))


@native
def test_every_blend(path):
    """Every (x, v, a): within the bound from 8 bits, exact from 16."""
    x, v = every_pair()
    for a in range(1, 256, 30 if path == "triton" and INTERPRETED else 1):
        error = (ops.recover(ops.blend(x, v, ROW, a), v, ROW, a).int() - x.int()).abs().max().item()
        assert error <= (a + 254) // (2 * a), f"a = {a}: {error}"
        assert torch.equal(ops.recover(ops.blend(x, v, ROW, a, lossless=True), v, ROW, a), x), f"a = {a}"


def test_bound_at_the_default_is_two_levels(path):
    """No more, and that much."""
    x, v = every_pair()
    assert (ops.recover(ops.blend(x, v, ROW, 51), v, ROW, 51).int() - x.int()).abs().max() == 2


@pytest.mark.parametrize("a", [1, 2, 51, 128, 255])
def test_any_sixteen_bit_number(path, a):
    """A damaged lossless photo may hold anything up to 65535."""
    hidden = torch.from_numpy(np.resize(np.arange(65536, dtype=np.uint16), 3 * 256 * 256).reshape(1, 3, 256, 256))
    veils = torch.randint(0, 256, (1, 3, 256, 256), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(ops.recover(hidden, veils, ROW, a), formula(hidden, veils, ROW, a))


def test_every_value_through_the_filter(path):
    """sigma 0.1 has the weights 0, 4096, 0, which leave values as they are. A kernel that filters may recover them by
    another formula than one that does not."""
    hidden, veils = (torch.stack([t[0, 0, k : k + 86] for k in (0, 85, 170)])[None] for t in every_pair())
    numbers = (
        (torch.arange(hidden.numel()) * 40503 % 65536).view_as(hidden).to(torch.uint16)
    )  # every one, among the veils
    for a in range(1, 256, 60 if path == "triton" and INTERPRETED else 1):
        for photos in (hidden, numbers):
            found = ops.recover(photos, veils, ROW, a, gaussian_sigma=0.1)
            assert torch.equal(found, formula(photos, veils, ROW, a)), f"a = {a}, {photos.dtype}"


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 6),
    people=st.integers(1, 4),
    h=st.integers(1, 40),
    w=st.integers(1, 40),
    a=st.integers(1, 255),
    seed=st.integers(0, 1000),
    wide=st.booleans(),
    layout=layouts,
    sigma=st.sampled_from([None, None, 0.3, 1.0, 1.7]),
)
def test_any_shape(n, people, h, w, a, seed, wide, layout, sigma):
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randint(0, 256, (n, 3, h, w), dtype=torch.uint8, generator=g)
    hidden = (hidden.int() * 255).to(torch.uint16) if wide else hidden
    veils = torch.randint(0, 256, (people, 3, h, w), dtype=torch.uint8, generator=g)
    rows = torch.randint(0, people, (n,), generator=g)
    wanted = formula(hidden, veils, rows, a)
    if sigma is not None:
        if len(gaussian_weights(sigma)) // 2 >= min(h, w):
            sigma = None
        else:
            wanted = gaussian_filter(wanted, sigma)
    assert torch.equal(ops.recover(laid_out(hidden, layout), veils, rows, a, gaussian_sigma=sigma), wanted)


def test_float_form_inverts_the_float_blend():
    g = torch.Generator().manual_seed(0)
    x, v = (
        torch.rand(4, 3, 5, 5, generator=g, dtype=torch.float64),
        torch.rand(2, 3, 5, 5, generator=g, dtype=torch.float64),
    )
    rows = torch.tensor([0, 1, 1, 0])
    hidden = reference.blend_float(x, v, rows, 0.2)
    torch.testing.assert_close(reference.recover_float(hidden, v, rows, 0.2), x, atol=1e-12, rtol=0)
    assert torch.autograd.gradcheck(
        lambda a, b: reference.blend_float(a, b, rows, 0.2), (x.requires_grad_(), v.requires_grad_())
    )


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5])
def test_gaussian_filter(path, sigma):
    from scipy.ndimage import correlate1d

    hidden, veils, rows = batch(4, 2, 20)
    found = ops.recover(hidden, veils, rows, 51, gaussian_sigma=sigma)
    weights = np.array(gaussian_weights(sigma))
    assert weights.sum() == 4096 and (weights >= 0).all()
    plain = formula(hidden, veils, rows, 51).numpy().astype(np.int64)
    wanted = correlate1d(correlate1d(plain, weights, axis=2, mode="mirror"), weights, axis=3, mode="mirror")
    assert np.array_equal(found.numpy(), ((wanted + 2**23) // 2**24).astype(np.uint8))
    out = hidden.clone()
    assert torch.equal(ops.recover(out, veils, rows, 51, gaussian_sigma=sigma, out=out), found)  # in place
    wide = ops.blend(hidden, veils, rows, 51, lossless=True)
    wanted = correlate1d(
        correlate1d(hidden.numpy().astype(np.int64), weights, axis=2, mode="mirror"), weights, axis=3, mode="mirror"
    )
    found = ops.recover(wide, veils, rows, 51, gaussian_sigma=sigma)
    assert np.array_equal(found.numpy(), ((wanted + 2**23) // 2**24).astype(np.uint8))


def true_weights(sigma: float) -> np.ndarray:
    """4096 times SciPy's Gaussian of the same radius, from -r to r."""
    from scipy.ndimage import gaussian_filter1d

    radius = max(1, round(2 * sigma))
    impulse = np.zeros(2 * radius + 1)
    impulse[radius] = 4096
    return gaussian_filter1d(impulse, sigma, radius=radius, mode="constant")


def test_gaussian_weights_by_hand():
    """sigma 1: exp(-1/2) = 0.60653, exp(-2) = 0.13534; 4096 / 2.48374 = 1649.1, 1000.2, 223.2: 5 x 5."""
    assert gaussian_weights(1.0) == [223, 1000, 1650, 1000, 223]
    assert gaussian_weights(0.5) == [436, 3224, 436]  # 4096 / 1.27067 = 3223.5, 436.3
    assert gaussian_weights(0.1) == [0, 4096, 0]


@pytest.mark.parametrize(
    "sigma", [0.1, 0.3, 0.5, 0.74, 0.8, 1, 1.25, 2, 2.5, 7, 15.9, 31.7, 31.9, 40, 63.3, 77.7, 99.9, 100]
)
def test_gaussian_weights_are_those_of_scipy(sigma):
    """Each within one 4096th, the centre too; together 4096; the same on both sides."""
    weights, true = np.array(gaussian_weights(sigma)), true_weights(sigma)
    assert weights.sum() == 4096 and np.array_equal(weights, weights[::-1])
    assert np.abs(weights - true).max() <= 1
    assert abs(weights.max() - true.max()) <= 1


def test_gaussian_weights_at_every_sigma():
    for tenths in range(1, 1001):
        weights, true = np.array(gaussian_weights(tenths / 10)), true_weights(tenths / 10)
        assert weights.sum() == 4096 and np.abs(weights - true).max() <= 1, f"sigma {tenths / 10}"


def test_smoothing_is_that_of_a_gaussian(path):
    """The filtered photo against SciPy's filter in float64, which shares nothing with ours."""
    from scipy.ndimage import gaussian_filter as smoothed

    hidden, veils, rows = batch(2, 2, 40)
    plain = formula(hidden, veils, rows, 51).numpy().astype(float)
    for sigma in (0.8,) if path == "triton" and INTERPRETED else (0.8, 4.0, 9.0):
        found = ops.recover(hidden, veils, rows, 51, gaussian_sigma=sigma)
        wanted = smoothed(plain, (0, 0, sigma, sigma), radius=(0, 0, *[max(1, round(2 * sigma))] * 2), mode="mirror")
        assert np.abs(found.numpy() - wanted).max() < 1.5


@pytest.mark.parametrize("height,width", [(3, 30), (30, 3), (3, 3), (2, 2), (5, 9)])
def test_gaussian_as_far_as_the_photo_goes(path, height, width):
    """The border is reflected without the edge: side - 1 pixels are there, one more is refused."""
    side = min(height, width)
    images, veils, rows = batch(3, 2, 30)
    images, veils = images[:, :, :height, :width].contiguous(), veils[:, :, :height, :width].contiguous()
    found = ops.recover(images, veils, rows, 51, gaussian_sigma=(side - 1) / 2)
    assert torch.equal(found, gaussian_filter(formula(images, veils, rows, 51), (side - 1) / 2))
    with pytest.raises(ValueError, match=f"reaches {side} pixels, too far for photos of {height} x {width}"):
        ops.recover(images, veils, rows, 51, gaussian_sigma=side / 2)


# The CUDA kernels: what a block takes


needs_cuda = pytest.mark.skipif("cuda" not in BACKENDS, reason="no CUDA kernels here: no GPU, and no `make emulate`")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def cuda_launcher():
    return importlib.import_module("veilkern.backends.cuda.recover")


def random_photos(n: int, height: int, width: int, wide: bool):
    """Protected photos of any values, two veils, rows."""
    g = torch.Generator().manual_seed(n + height + width)
    hidden, veils = (torch.randint(0, 256, (k, 3, height, width), dtype=torch.uint8, generator=g) for k in (n, 2))
    hidden = (hidden.int() * 255).to(torch.uint16) if wide else hidden
    return hidden, veils, torch.randint(0, 2, (n,), generator=g)


@needs_cuda
@pytest.mark.parametrize("share", [(1, 1), (1, 3), (1, 8), (1, 26), (3, 1), (3, 7), (3, 26)])
@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.5, 2.0, 2.5, 7.0])
def test_blocks_of_any_share(share, sigma, monkeypatch):
    """Planes and rows of a block: the same bits, in any order of threads, in rows read at once and in ragged ones."""
    if sigma > 2 and share[0] > 1:
        pytest.skip("a far radius takes planes one by one")
    monkeypatch.setattr(cuda_launcher(), "_share", lambda *given: share)
    for width, wide in ((24, False), (32, True), (29, False), (29, True)):
        given = random_photos(2, 26, width, wide)
        wanted = reference.recover(*given, 51, gaussian_sigma=sigma)
        for order in ("cuda", ""):
            with serving("cuda"), another_order(order):
                assert torch.equal(ops.recover(*given, 51, gaussian_sigma=sigma), wanted), (width, wide)
                out = given[0].clone()
                if not wide:
                    assert torch.equal(ops.recover(out, *given[1:], 51, gaussian_sigma=sigma, out=out), wanted)


@needs_cuda
@pytest.mark.parametrize("n,height,width", [(4, 112, 112), (5, 9, 17), (1, 9, 1032), (1, 9, 1031), (1, 100, 1100)])
@pytest.mark.parametrize("sigma", [1.0, 3.0])
def test_blocks_as_they_are_chosen(n, height, width, sigma):
    """All planes of a photo, one, a band; rows with more columns than a block has threads."""
    for wide in (False, True):
        given = random_photos(n, height, width, wide)
        with serving("cuda"):
            found = ops.recover(*given, 51, gaussian_sigma=sigma)
        assert torch.equal(found, reference.recover(*given, 51, gaussian_sigma=sigma))


@needs_cuda
def test_what_a_block_takes():
    """Of planes and rows, on an H200: all of a photo where there are many, bands where planes are few or large."""
    share, memory, processors = cuda_launcher().MODULE.recover_share, 227 << 10, 132
    assert share(2, (4096, 3, 112, 112), memory, processors, False) == (3, 112)
    assert share(2, (527, 3, 112, 112), memory, processors, False) == (1, 112)
    assert share(2, (4096, 3, 112, 112), memory // 2, processors, False) == (1, 112)  # too few blocks of three planes
    assert share(2, (4096, 3, 112, 120), memory, processors, False) == (1, 112)  # and threads
    assert share(7, (4096, 3, 112, 112), memory, processors, False) == (1, 112)
    assert share(2, (1, 3, 112, 112), memory, processors, False) == (1, 16)
    assert share(2, (1, 3, 112, 112), memory, processors, True) == (1, 112)
    planes, rows = share(2, (4096, 3, 1024, 1024), memory, processors, True)
    assert planes == 1 and (rows + 4) * 1032 + 8 <= memory // 6 < (1.3 * rows + 4) * 1032
    assert share(2, (0, 3, 112, 112), memory, processors, False)[1] == 16
    assert share(2, (1, 3, 0, 0), memory, processors, False) == (0, 0)
    for radius, width, fits in ((2, 19000, True), (2, 20000, False), (100, 220, True), (100, 280, False)):
        assert (share(radius, (1, 3, 1000, width), memory, processors, False)[1] > 0) == fits, (radius, width)


@needs_cuda
def test_what_is_left_to_triton():
    launcher = cuda_launcher()
    photos = torch.empty(1, 3, 16, 40000, dtype=torch.uint8, device=DEVICE)
    assert "too few fit" in launcher.limit(photos, photos, None, 51, 1.0, None)
    assert "without a filter" in launcher.limit(photos, photos, None, 51, None, None)
    assert launcher.limit(photos[..., :112], photos, None, 51, 1.0, None) is None


@needs_cuda
@pytest.mark.parametrize("side", [24, 13])
@pytest.mark.parametrize("sigma", [1.0, 3.0])
def test_a_row_that_names_no_veil_reads_nothing(side, sigma):
    """The op refuses it on the CPU; on a GPU nobody looks, so the kernel must: a black photo, never an unveiled one."""
    rows = torch.tensor([1, 2, -1, 2**40, -(2**62)], device=DEVICE)
    for wide in (False, True):
        hidden, veils, _ = (t.to(DEVICE) for t in random_photos(5, side, side, wide))
        out = torch.full((5, 3, side, side), 7, dtype=torch.uint8, device=DEVICE)
        cuda_launcher().recover(hidden, veils, rows, 51, sigma, out)
        assert out[0].any() and not out[1:].any()


def test_compiles_whole():
    hidden, veils, rows = batch()
    compiled = torch.compile(
        lambda h, v, r: ops.recover(h, v, r, 51, gaussian_sigma=1.0), fullgraph=True, backend="aot_eager"
    )
    with vk.use_backend("reference"):
        wanted = ops.recover(hidden, veils, rows, 51, gaussian_sigma=1.0)
    assert torch.equal(compiled(hidden, veils, rows), wanted)


@pytest.mark.large
@large
@pytest.mark.parametrize("sigma", [None, 1.0])
def test_more_than_2_to_31_values(sigma):
    hidden, veils, rows = batch(MANY, 2, 112)
    out = ops.recover(hidden, veils, rows, 51, gaussian_sigma=sigma)
    for i in (0, MANY - 1):
        wanted = formula(hidden[i : i + 1], veils, rows[i : i + 1], 51)
        assert torch.equal(out[i : i + 1], wanted if sigma is None else gaussian_filter(wanted, sigma))
