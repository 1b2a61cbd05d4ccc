"""ssim: against scikit-image, by direct sums for `same` borders, gradients."""

from __future__ import annotations

import importlib
import itertools

import numpy as np
import pytest
import torch
from helpers import (
    BACKENDS,
    MANY,
    another_order,
    assert_near,
    assert_same_bits_everywhere,
    gradcheck,
    large,
    layouts,
    native,
    opcheck,
    serving,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from veilkern import ops, reference
from veilkern.testing.making import laid_out

ssim_op = importlib.import_module("veilkern.ops.ssim")  # the name is taken by the function


def pair(generator, n=3, side=24):
    x = torch.rand(n, 3, side, side + 5, dtype=torch.float64, generator=generator)
    return x, (x + 0.2 * torch.randn(x.shape, dtype=torch.float64, generator=generator)).clamp(0, 1)


def test_against_scikit_image(path, generator):
    x, y = pair(generator)
    wanted = [
        structural_similarity(
            a, b, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0
        )
        for a, b in zip(x.numpy(), y.numpy(), strict=True)
    ]
    np.testing.assert_allclose(ops.ssim(x, y).numpy(), wanted, atol=1e-9)
    np.testing.assert_allclose(ops.ssim(x.float(), y.float()).numpy(), wanted, atol=1e-5)
    np.testing.assert_allclose(ops.ssim(255 * x, 255 * y, data_range=255).numpy(), wanted, atol=1e-9)


@pytest.mark.parametrize("borders", ["valid", "same"])
def test_by_direct_sums(path, borders, generator):
    x, y = pair(generator, n=1, side=9)
    window, sigma = 5, 1.2
    place = np.arange(window) - 2
    taps = np.exp(-(place**2) / (2 * sigma**2))
    weights = np.outer(taps, taps) / taps.sum() ** 2
    pad = 2 if borders == "same" else 0
    scores = []
    for a, b in zip(x[0].numpy(), y[0].numpy(), strict=True):
        a, b = np.pad(a, pad), np.pad(b, pad)
        for r in range(a.shape[0] - 4):
            for c in range(a.shape[1] - 4):
                p, q = a[r : r + 5, c : c + 5], b[r : r + 5, c : c + 5]
                mp, mq = (weights * p).sum(), (weights * q).sum()
                vp, vq = (weights * p * p).sum() - mp**2, (weights * q * q).sum() - mq**2
                cov = (weights * p * q).sum() - mp * mq
                scores.append((2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    found = ops.ssim(x, y, window=window, sigma=sigma, borders=borders).item()
    assert found == pytest.approx(np.mean(scores), abs=1e-10)


def test_equal_is_one_and_gradients(path, generator):
    x, y = pair(generator, n=2, side=12)
    torch.testing.assert_close(ops.ssim(x, x), torch.ones(2, dtype=torch.float64))
    assert ops.ssim(x[:0], y[:0]).shape == (0,)
    small = [t[:1, :1, :6, :7].clone().requires_grad_() for t in (x, y)]
    assert gradcheck(path, lambda a, b: ops.ssim(a, b, window=5), small)
    torch.testing.assert_close(ops.ssim(x.transpose(2, 3), y.transpose(2, 3)), ops.ssim(x, y))


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 2),
    c=st.integers(1, 3),
    h=st.integers(1, 24),
    w=st.integers(1, 40),
    half=st.integers(0, 6),
    sigma=st.floats(0.3, 4),
    same=st.booleans(),
    x_layout=layouts,
    y_layout=layouts,
)
def test_any_shape(n, c, h, w, half, sigma, same, x_layout, y_layout):
    half = half if same else min(half, (min(h, w) - 1) // 2)
    g = torch.Generator().manual_seed(h * w)
    x, y = (torch.rand(n, c, h, w, generator=g, dtype=torch.float64) for _ in range(2))
    options = {"window": 2 * half + 1, "sigma": sigma, "borders": "same" if same else "valid"}
    found = ops.ssim_gradient(laid_out(x, x_layout), laid_out(y, y_layout), **options)
    for a, b in zip(found, reference.ssim_gradient(x, y, **options), strict=True):
        assert_near(a, b, torch.float64, factor=10)


def test_a_gradient_has_no_gradient(generator):
    x, y = (t.requires_grad_() for t in pair(generator, n=1, side=12))
    with pytest.raises(RuntimeError, match="ssim is differentiable once"):
        torch.autograd.grad(ops.ssim(x, y).sum(), x, create_graph=True)
    assert not ops.ssim_gradient(x, y)[1].requires_grad


def test_compiles_whole_with_its_gradient(generator):
    x, y = (t.float() for t in pair(generator, n=2, side=14))
    eager, traced = (x.clone().requires_grad_() for _ in range(2))
    compiled = torch.compile(lambda a, b: ops.ssim(a, b).sum(), fullgraph=True, backend="aot_eager")
    compiled(traced, y).backward()
    ops.ssim(eager, y).sum().backward()
    assert torch.equal(traced.grad, eager.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("borders", ["valid", "same"])
@pytest.mark.parametrize("sigma", [0.01, 0.3, 1e4])
@pytest.mark.parametrize("data_range", [1e-6, 1.0, 65535.0, 1e9])
def test_numbers_as_far_as_the_arguments_go(path, data_range, sigma, borders, dtype):
    """Flat and varied photos at the ends of both ranges: no 0 / 0, no infinity, the scores of float64."""
    g = torch.Generator().manual_seed(0)
    x = torch.cat([torch.zeros(1, 1, 6, 9), torch.ones(1, 1, 6, 9), torch.rand(1, 1, 6, 9, generator=g)]).to(dtype)
    options = {"window": 5, "sigma": sigma, "borders": borders, "data_range": data_range}
    for a, b in ((x, x), (x, x.flip(0)), (x, torch.zeros_like(x))):
        a, b = a * data_range, b * data_range
        found = ops.ssim_gradient(a, b, **options)
        assert all(part.isfinite().all() for part in found)
        assert_near(found[0], reference.ssim(a.double(), b.double(), **options), dtype, factor=50)


@pytest.mark.large
@large
def test_more_than_2_to_31_values(generator):
    x = torch.rand(100, 3, 112, 112, generator=generator).repeat(MANY // 100 + 1, 1, 1, 1)
    y = x[:1].expand_as(x)
    score = ops.ssim(x, y)
    for i in (0, len(x) - 1):
        assert torch.equal(score[i : i + 1], ops.ssim(x[i : i + 1], y[:1]))


@pytest.mark.parametrize("height,width", [(10, 20), (20, 10)])
def test_a_window_that_fits_along_one_side_only(height, width):
    x = torch.rand(1, 3, height, width)
    with pytest.raises(ValueError, match="ssim: window"):
        ops.ssim(x, x)
    assert ops.ssim(x, x, window=9).item() == pytest.approx(1, abs=1e-6)


def wanted_gradients(x, y, upstream, options):
    """The gradients of ssim, each pair's times upstream [N], for those of x and y that require one."""
    score = ops.ssim(x, y, **options)
    return torch.autograd.grad(score, [t for t in (x, y) if t.requires_grad], upstream, retain_graph=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "options", [{}, {"borders": "same"}, {"window": 5, "sigma": 0.8, "data_range": 2.0}], ids=["valid", "same", "5"]
)
@pytest.mark.parametrize("for_x,for_y", [(True, False), (False, True), (True, True)], ids=["x", "y", "both"])
def test_gradients_that_are_asked_for(path, for_x, for_y, options, dtype, generator):
    pairs = [t[:, :, :13].to(dtype) for t in pair(generator, n=2, side=13)]
    upstream = torch.tensor([0.75, -3.0], dtype=dtype)
    found = wanted_gradients(
        *(t.clone().requires_grad_(w) for t, w in zip(pairs, (for_x, for_y), strict=True)), upstream, options
    )
    wanted = reference.ssim_gradient(*(t.double() for t in pairs), scale=upstream.double(), **options)[1:]
    chosen = [g for g, w in zip(wanted, (for_x, for_y), strict=True) if w]
    for a, b in zip(found, chosen, strict=True):
        assert_near(a, b, dtype, factor=50)


@native
@pytest.mark.parametrize("side,window", [(50, 11), (23, 7)])
def test_one_gradient_is_that_of_both(side, window, generator):
    """The same bits, whichever others are made, on every instruction set."""
    x, y = (t.float() for t in pair(generator, n=3, side=side))
    _, *both = ops.ssim_gradient(x, y, window=window)

    def alone():
        of_x = wanted_gradients(x.clone().requires_grad_(), y, torch.ones(3), {"window": window})
        return of_x + wanted_gradients(x, y.clone().requires_grad_(), torch.ones(3), {"window": window})

    assert_same_bits_everywhere(alone)
    for a, b in zip(alone(), both, strict=True):
        assert torch.equal(a, b)


def test_backward_twice(path, generator):
    x, y = pair(generator, n=2, side=12)
    x.requires_grad_()
    score = ops.ssim(x, y)
    first, second, double = (torch.autograd.grad(score.sum() * k, x, retain_graph=True)[0] for k in (1, 1, 2))
    assert torch.equal(first, second) and torch.equal(double, 2 * first)


def kept(score: torch.Tensor) -> int:
    """Values that a score's graph keeps for its backward."""
    return sum(t.numel() for t in score.grad_fn.saved_tensors)


def test_only_what_is_asked_for_is_made(path, monkeypatch, generator):
    """No backend is given room for another gradient, the graph keeps no more, and the backward runs no op of ours."""
    x, y = pair(generator, n=2, side=12)
    given = []
    plain = ssim_op.serve
    monkeypatch.setattr(ssim_op, "serve", lambda *a: (given.append([g is not None for g in a[-2:]]), plain(*a))[1])
    with torch.no_grad():
        assert ops.ssim(x.clone().requires_grad_(), y).grad_fn is None
    assert ops.ssim(x, y).grad_fn is None and given == [[False, False]] * 2
    for wanted in ([True, False], [False, True], [True, True]):
        given.clear()
        leaves = [t.clone().requires_grad_(w) for t, w in zip((x, y), wanted, strict=True)]
        score = ops.ssim(*leaves)
        assert given == [wanted] and kept(score) == sum(wanted) * x.numel()
        score.sum().backward()
        assert given == [wanted] and [t.grad is not None for t in leaves] == wanted


def test_no_room_for_a_gradient_nobody_asked_for(generator):
    x, y = pair(generator, n=2, side=12)
    for wanted in ((False, False), (True, False), (False, True), (True, True)):
        _, *gradients = torch.ops.veilkern.ssim(x, y, 11, 1.5, "valid", 1.0, *wanted)
        assert [g.numel() for g in gradients] == [x.numel() * w for w in wanted]
        opcheck(
            "ssim",
            (x.clone().requires_grad_(wanted[0]), y.clone().requires_grad_(wanted[1]), 5, 1.5, "same", 1.0, *wanted),
        )


@pytest.mark.parametrize("for_x,for_y", [(True, False), (False, True)])
def test_compiled_gradient_of_one(for_x, for_y, generator):
    pairs = pair(generator, n=2, side=14)
    eager, traced = (
        [t.clone().requires_grad_(w) for t, w in zip(pairs, (for_x, for_y), strict=True)] for _ in range(2)
    )
    compiled = torch.compile(lambda a, b: ops.ssim(a, b).mean(), fullgraph=True, backend="aot_eager")
    compiled(*traced).backward()
    ops.ssim(*eager).mean().backward()
    for a, b in zip(traced, eager, strict=True):
        assert (a.grad is None) == (b.grad is None) and (a.grad is None or torch.equal(a.grad, b.grad))


@native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_score_has_the_same_bits_whatever_is_wanted_and_either_way_round(dtype, generator):
    x, y = (t.to(dtype) for t in pair(generator, n=2, side=21))
    plain = ops.ssim(x, y)
    assert torch.equal(plain, ops.ssim(y, x))
    for wanted in ((True, False), (False, True), (True, True)):
        score = ops.ssim(*(t.clone().requires_grad_(w) for t, w in zip((x, y), wanted, strict=True)))
        assert torch.equal(score.detach(), plain)


# The CUDA kernel: pieces of planes, and where its gradients lie

by_cuda = pytest.mark.skipif("cuda" not in BACKENDS, reason="no CUDA kernels here: no GPU, and no `make emulate`")


def launcher():
    return importlib.import_module("veilkern.backends.cuda.ssim")


def every_way(count: int, height: int, width: int):
    """Ways to share planes out: one and several a block, one and many bands and strips."""
    for rows, columns in itertools.product((4, 12, height + 3), (8, 20, width + 3)):
        rows, columns = rows // 4 * 4, columns // 4 * 4
        wide = min((width + 3) // 4 * 4, columns + 24)
        for together in (1, 3):
            if together <= count and together * wide <= 256:
                yield together, wide, -(-height // rows), rows, -(-width // columns), columns


@by_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{}, {"window": 7, "borders": "same"}, {"window": 9}], ids=["11", "7 same", "9"])
@pytest.mark.parametrize("shape", [(2, 2, 21, 30), (4, 1, 11, 48)], ids=str)
def test_pieces_of_planes(shape, options, dtype, monkeypatch, generator):
    """However planes are shared out: right values, the gradients to the bit, the same bits in any order of threads."""
    x, y = (torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    wanted, first = reference.ssim_gradient(x.double(), y.double(), **options), None
    for pieces in every_way(shape[0] * shape[1], *shape[2:]):
        monkeypatch.setattr(launcher(), "_shared_out", lambda *given, pieces=pieces: pieces)
        with serving("cuda"):
            found, score = ops.ssim_gradient(x, y, **options), ops.ssim(x, y, **options)
            with another_order("cuda"):
                again = ops.ssim_gradient(x, y, **options)
        for a, b in zip(found, wanted, strict=True):
            assert_near(a, b, dtype, factor=50)
        assert_near(score, wanted[0], dtype)
        first = first or found
        assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(found[1:], first[1:], strict=True))


@by_cuda
def test_photos_wider_than_a_block(generator):
    x, y = (torch.rand(1, 1, 12, 521, generator=generator, dtype=torch.float64).float() for _ in range(2))
    assert launcher()._pieces(x, 11, True)[4] > 1
    with serving("cuda"):
        found = ops.ssim_gradient(x, y)
    for a, b in zip(found, reference.ssim_gradient(x.double(), y.double()), strict=True):
        assert_near(a, b, torch.float32, factor=50)


@by_cuda
def test_few_planes_go_to_many_blocks():
    """Of one photo each plane to several processors, of many photos whole planes, as many as fill their warps."""

    def ways(count, side):
        return launcher()._shared_out((count, 3, side, side), 11, True, 16, 132, 227 << 10, lambda wide, *_: 336 * wide)

    assert ways(1, 112)[2] > 10 and ways(1, 112)[0] == 1
    assert ways(5000, 112)[:3] == (2, 112, 1) and ways(5000, 64)[1:3] == (64, 1)


@by_cuda
@settings(max_examples=200, deadline=None)
@given(
    count=st.integers(1, 3000),
    height=st.integers(1, 3000),
    width=st.integers(1, 30000),
    window=st.sampled_from([1, 7, 9, 11]),
    gradients=st.booleans(),
    warps=st.sampled_from([8, 16]),
    processors=st.integers(1, 200),
)
def test_pieces_are_whole(count, height, width, window, gradients, warps, processors):
    """Rows and columns once each, threads for all columns that a strip reads, within threads and memory."""
    there = 99 << 10
    shape = (count, 3, height, width)

    def memory(wide, *others):
        return 336 * (wide + 10)

    together, wide, bands, rows, strips, columns = launcher()._shared_out(
        shape, window, gradients, warps, processors, there, memory
    )
    assert rows % 4 == columns % 4 == wide % 4 == 0 and together * wide <= 256 and together * memory(wide) <= there
    assert (bands - 1) * rows < height <= bands * rows and (strips - 1) * columns < width <= strips * columns
    beside = 12 if gradients and window > 7 else 8 if gradients or window > 7 else 4
    for strip in range(strips):
        left = max(strip * columns - beside, 0)
        assert min(min((strip + 1) * columns, width) + beside, width) - left <= wide


@by_cuda
@pytest.mark.parametrize("offset", [0, 1])
def test_gradients_that_begin_anywhere(offset, generator):
    """Written four at a time only where that is allowed, and nothing beside them."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x, y = (t.float()[..., :28].contiguous().to(device) for t in pair(generator, n=1))
    room = [torch.full((x.numel() + 8,), 7.0, device=device) for _ in range(2)]
    gradients = [r[4 + offset : 4 + offset + x.numel()].view(x.shape) for r in room]
    launcher().ssim(x, y, 11, 1.5, "valid", 1.0, None, *gradients)
    wanted = reference.ssim_gradient(x.double(), y.double())[1:]
    for r, found, right in zip(room, gradients, wanted, strict=True):
        assert_near(found, right, torch.float32, factor=50)
        assert r[: 4 + offset].eq(7).all() and r[4 + offset + x.numel() :].eq(7).all()


@by_cuda
def test_what_is_left_to_triton(monkeypatch):
    x = torch.rand(1, 3, 16, 16)
    arguments = (1.5, "valid", 1.0, None, None, None)
    assert launcher().limit(x, x, 11, *arguments) is None
    assert "windows of more than 11" in launcher().limit(x, x, 13, *arguments)
    vast = x[:, :1, :1, :1].expand(1, 1, 2**30, 1)
    assert "2^30 rows" in launcher().limit(vast, vast, 1, *arguments)
    many = x[:, :, :1, :1].expand(2**38, 3, 1, 1)
    assert "2^31 blocks" in launcher().limit(many, many, 1, *arguments)
    monkeypatch.setattr(launcher(), "memory_of", lambda device: 1 << 10)
    assert "shared memory" in launcher().limit(x, x, 11, *arguments)
