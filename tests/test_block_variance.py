"""block_variance: against loops, the identities of design.md, gradients."""

from __future__ import annotations

import pytest
import torch
from helpers import MANY, assert_near, assert_same_bits_everywhere, gradcheck, large, layouts, native
from hypothesis import given, settings
from hypothesis import strategies as st

from veilkern import ops, reference
from veilkern.testing.making import laid_out


def by_loops(image, block, stride, form):
    """Eq. 9-11 written out for one image, float64."""
    (h, w), total = block, 0.0
    for channel in image:
        rows, columns = range(0, channel.shape[0] - h + 1, stride), range(0, channel.shape[1] - w + 1, stride)
        sums = torch.stack([channel[r : r + h, c : c + w].sum() for r in rows for c in columns])
        inner = ((sums - sums.mean()) ** 2).mean()
        if form == "consistent":
            total += inner + (((sums - sums.mean()) / (h * w)) ** 2).mean()
        else:
            total += inner + ((sums / (h * w) - sums.mean()) ** 2).mean()
    return total


@pytest.mark.parametrize("form", ["consistent", "literal"])
@pytest.mark.parametrize("block,stride", [((3, 3), 1), ((3, 3), 3), ((2, 5), 2), ((1, 1), 1), ((4, 4), 1)])
def test_values(path, form, block, stride, generator):
    images = torch.rand(2, 2, 11, 9, dtype=torch.float64, generator=generator)
    wanted = torch.stack([by_loops(image, block, stride, form) for image in images])
    torch.testing.assert_close(ops.block_variance(images, block=block, stride=stride, form=form), wanted)
    torch.testing.assert_close(
        ops.block_variance(images.float(), block=block, stride=stride, form=form), wanted.float()
    )


def test_literal_is_mostly_brightness(generator):
    images = torch.rand(2, 3, 12, 12, dtype=torch.float64, generator=generator)
    sums = 9 * torch.nn.functional.avg_pool2d(images, 3, 1).flatten(2)
    variance, mean = sums.var(2, unbiased=False), sums.mean(2)
    wanted = (variance + variance / 81 + (8 / 9) ** 2 * mean**2).sum(1)
    torch.testing.assert_close(ops.block_variance(images, form="literal"), wanted)


@pytest.mark.parametrize("form", ["consistent", "literal"])
def test_the_mean_photo_gives_the_mean_gradient(form, generator):
    """design.md section 2: box sums are linear and their variance quadratic."""
    images = torch.rand(5, 3, 10, 10, dtype=torch.float64, generator=generator)
    veil = torch.rand(1, 3, 10, 10, dtype=torch.float64, generator=generator).requires_grad_()
    every = ops.block_variance(0.2 * images + 0.8 * veil, form=form).mean()
    one = ops.block_variance(0.2 * images.mean(0, keepdim=True) + 0.8 * veil, form=form).sum()
    (a,), (b,) = torch.autograd.grad(every, veil), torch.autograd.grad(one, veil)
    torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("form", ["consistent", "literal"])
@pytest.mark.parametrize("block,stride", [((3, 3), 1), ((2, 3), 1), ((2, 2), 2)])
def test_gradients(path, form, block, stride, generator):
    images = torch.rand(2, 2, 6, 7, dtype=torch.float64, generator=generator).requires_grad_()
    options = {"block": block, "stride": stride, "form": form}
    assert gradcheck(path, lambda x: ops.block_variance(x, **options), images)


def test_a_bright_photo_loses_nothing(path, generator):
    """A variance of 1e-6 on a mean of 1: nothing may cancel in single precision."""
    images = 1 - 1e-3 * torch.rand(1, 3, 40, 40, generator=generator, dtype=torch.float64)
    wanted = reference.block_variance(images.float().double())
    torch.testing.assert_close(ops.block_variance(images.float()).double(), wanted, rtol=1e-4, atol=0)


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(0, 3),
    c=st.integers(1, 4),
    h=st.integers(1, 24),
    w=st.integers(1, 40),
    block=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.integers(1, 4),
    form=st.sampled_from(["consistent", "literal"]),
    layout=layouts,
    double=st.booleans(),
)
def test_any_shape(n, c, h, w, block, stride, form, layout, double):
    dtype = torch.float64 if double else torch.float32
    block = (min(block[0], h), min(block[1], w))
    images = torch.rand(n, c, h, w, generator=torch.Generator().manual_seed(h * w), dtype=torch.float64).to(dtype)
    options = {"block": block, "stride": stride, "form": form}
    loss, gradient = ops.block_variance_gradient(laid_out(images, layout), **options)
    wanted = reference.block_variance_gradient(images.double(), **options)
    assert_near(loss, wanted[0], dtype)
    assert_near(gradient, wanted[1], dtype, least=block[0] * block[1] / (h * w))


def test_a_gradient_has_no_gradient(generator):
    images = torch.rand(1, 3, 8, 8, generator=generator, dtype=torch.float64).requires_grad_()
    with pytest.raises(RuntimeError, match="block_variance is differentiable once"):
        torch.autograd.grad(ops.block_variance(images).sum(), images, create_graph=True)
    assert not ops.block_variance_gradient(images)[1].requires_grad


def test_compiles_whole_with_its_gradient(generator):
    images = torch.rand(2, 3, 9, 9, generator=generator)
    eager, traced = (images.clone().requires_grad_() for _ in range(2))
    compiled = torch.compile(lambda x: ops.block_variance(x).sum(), fullgraph=True, backend="aot_eager")
    compiled(traced).backward()
    ops.block_variance(eager).sum().backward()
    assert torch.equal(traced.grad, eager.grad)


def test_a_flat_photo_is_nothing_and_the_loss_alone_compiles(generator):
    assert ops.block_variance(torch.full((1, 3, 8, 8), 0.5, dtype=torch.float64)).item() == pytest.approx(0, abs=1e-20)
    images = torch.rand(2, 3, 9, 9, generator=generator)
    compiled = torch.compile(ops.block_variance, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images), ops.block_variance(images))


@pytest.mark.large
@large
def test_more_than_2_to_31_values(generator):
    images = torch.rand(100, 3, 112, 112, generator=generator).repeat(MANY // 100 + 1, 1, 1, 1)
    loss, gradient = ops.block_variance_gradient(images)
    for i in (0, len(images) - 1):
        wanted = ops.block_variance_gradient(images[i : i + 1])
        assert torch.equal(loss[i : i + 1], wanted[0]) and torch.equal(gradient[i : i + 1], wanted[1])


def saved_by(call) -> list[torch.Tensor]:
    """What autograd keeps for the backward pass of call()."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        call()
    return kept


@pytest.mark.parametrize("form", ["consistent", "literal"])
def test_backward_twice(path, form, generator):
    images = torch.rand(2, 3, 9, 20, generator=generator).requires_grad_()
    before = images.detach().clone()
    loss = ops.block_variance(images, form=form)
    weights = torch.tensor([2.0, -3.0])
    gradients = [torch.autograd.grad(loss, images, weights, retain_graph=True)[0] for _ in range(2)]
    assert gradients[0].data_ptr() != gradients[1].data_ptr()
    assert torch.equal(*gradients) and torch.equal(images.detach(), before)
    gradients[0].zero_()  # nobody else's
    assert torch.equal(torch.autograd.grad(loss, images, weights)[0], gradients[1])


@pytest.mark.parametrize("form", ["consistent", "literal"])
@pytest.mark.parametrize("block,stride", [((3, 3), 1), ((2, 4), 2)])
def test_any_upstream(path, form, block, stride, generator):
    """Another weight for each image, of which one is zero, as they come: expanded, every second of a row."""
    options = {"block": block, "stride": stride, "form": form}
    images = torch.rand(4, 2, 10, 17, generator=generator).requires_grad_()
    for weights in (torch.tensor([1.5, 0.0, -0.25, 8.0]), torch.tensor(0.5).expand(4), torch.arange(8.0)[::2]):
        (found,) = torch.autograd.grad(ops.block_variance(images, **options), images, weights)
        exact = images.detach().double(), weights.double()
        assert_near(found, reference.block_variance_gradient(exact[0], scale=exact[1], **options)[1], torch.float32)
        again = ops.block_variance_gradient(images, scale=weights, **options)[1]
        assert torch.equal(found, again) or path == "reference"


def test_only_the_images_are_kept(generator):
    images = torch.rand(2, 3, 9, 9, generator=generator).requires_grad_()
    (kept,) = saved_by(lambda: ops.block_variance(images))
    assert kept.data_ptr() == images.data_ptr() and kept.shape == images.shape
    with torch.no_grad():
        assert saved_by(lambda: ops.block_variance(images)) == []
        assert not ops.block_variance(images).requires_grad
    assert saved_by(lambda: ops.block_variance(images.detach())) == []


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "every second"])
def test_the_gradient_lies_whole_in_memory(path, layout, generator):
    images = torch.rand(2, 3, 9, 16, generator=generator)
    if layout == "channels_last":
        images = images.to(memory_format=torch.channels_last)
    elif layout == "every second":
        images = torch.rand(2, 3, 9, 32, generator=generator)[..., ::2]
    images.requires_grad_()
    (found,) = torch.autograd.grad(ops.block_variance(images).sum(), images)
    assert found.is_contiguous() and found.shape == images.shape
    assert_near(found, reference.block_variance_gradient(images.detach().double())[1], torch.float32)


def test_an_image_changed_before_backward(generator):
    images = torch.rand(1, 3, 9, 9, generator=generator).requires_grad_()
    loss = ops.block_variance(images).sum()
    with torch.no_grad():
        images += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", ["consistent", "literal"])
def test_past_the_caches_the_same_bits(form, dtype, generator):
    """Whole lines of memory are written past the caches from a size on; here from the first byte."""
    from veilkern import _cpu

    images = torch.rand(3, 2, 21, 48, dtype=dtype, generator=generator)
    leaf = images.clone().requires_grad_()

    def call():
        loss, gradient = ops.block_variance_gradient(images, form=form)
        return loss, gradient, *torch.autograd.grad(ops.block_variance(leaf, form=form).sum(), leaf)

    usual = call()
    assert torch.equal(usual[1], usual[2])
    _cpu.set_stream_from(1)
    try:
        assert_same_bits_everywhere(call)
        for a, b in zip(call(), usual, strict=True):
            assert torch.equal(a, b)
        for shift in (1, 7):  # lines that do not begin with a row
            out = torch.full((images.numel() + 16,), 7.0, dtype=dtype)
            part = out[shift : shift + images.numel()].view_as(images)
            ops.block_variance_gradient(images, form=form, out=part)
            around = torch.cat([out[:shift], out[shift + images.numel() :]])
            assert torch.equal(part, usual[1]) and (around == 7).all()
    finally:
        _cpu.set_stream_from()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_mislead(path, dtype):
    """The loss looks at every 16th row of boxes first, for a mean to begin with: here those are unlike all others."""
    images = torch.zeros(2, 1, 67, 33, dtype=dtype)
    for r in range(0, 65, 16):
        images[:, :, r : r + 3] = 1
    images[1] = 1 - 1e-3 * images[1]
    wanted = reference.block_variance(images.double())
    torch.testing.assert_close(ops.block_variance(images).double(), wanted, rtol=1e-4, atol=0)
    flat = torch.full((1, 3, 40, 40), 0.7, dtype=dtype)
    assert 0 <= float(ops.block_variance(flat)) < 1e-10
