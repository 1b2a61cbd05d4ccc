"""block_variance: against loops, the identities of design.md, gradients."""

from __future__ import annotations

import pytest
import torch

from veilkern import ops


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
def test_values(form, block, stride, generator):
    images = torch.rand(3, 2, 11, 9, dtype=torch.float64, generator=generator)
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
def test_gradients(form, generator):
    images = torch.rand(2, 2, 6, 7, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ops.block_variance(x, block=(2, 3), form=form), images)


def test_flat_empty_and_strided(generator):
    assert ops.block_variance(torch.full((1, 3, 8, 8), 0.5, dtype=torch.float64)).item() == pytest.approx(0, abs=1e-20)
    assert ops.block_variance(torch.zeros(0, 3, 8, 8)).shape == (0,)
    images = torch.rand(2, 3, 9, 9, generator=generator)
    torch.testing.assert_close(
        ops.block_variance(images.to(memory_format=torch.channels_last)), ops.block_variance(images)
    )
    compiled = torch.compile(ops.block_variance, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images), ops.block_variance(images))


@pytest.mark.parametrize(
    "change,error,words",
    [
        ({"images": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}, TypeError, "images must be float32 or float64"),
        ({"images": torch.zeros(3, 8, 8)}, ValueError, "\\[N, C, H, W\\]"),
        ({"form": "other"}, ValueError, "form must be one of consistent, literal"),
        ({"block": (9, 3)}, ValueError, "block must fit the image, 8 x 8"),
        ({"block": 3}, ValueError, "block must be two positive integers"),
        ({"stride": 0}, ValueError, "stride must be a positive integer"),
    ],
)
def test_wrong_arguments(change, error, words):
    with pytest.raises(error, match=words):
        ops.block_variance(**({"images": torch.zeros(1, 3, 8, 8)} | change))
