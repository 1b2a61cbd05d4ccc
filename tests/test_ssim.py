"""ssim: against scikit-image, by direct sums for `same` borders, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from veilkern import ops


def pair(generator, n=3, side=24):
    x = torch.rand(n, 3, side, side + 5, dtype=torch.float64, generator=generator)
    return x, (x + 0.2 * torch.randn(x.shape, dtype=torch.float64, generator=generator)).clamp(0, 1)


def test_against_scikit_image(generator):
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
def test_by_direct_sums(borders, generator):
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


def test_equal_is_one_and_gradients(generator):
    x, y = pair(generator, n=2, side=12)
    torch.testing.assert_close(ops.ssim(x, x), torch.ones(2, dtype=torch.float64))
    assert ops.ssim(x[:0], y[:0]).shape == (0,)
    small = [t[:1, :1, :6, :7].clone().requires_grad_() for t in (x, y)]
    assert torch.autograd.gradcheck(lambda a, b: ops.ssim(a, b, window=5), small)
    torch.testing.assert_close(ops.ssim(x.transpose(2, 3), y.transpose(2, 3)), ops.ssim(x, y))


@pytest.mark.parametrize(
    "change,error,words",
    [
        ({"x": torch.zeros(1, 3, 16, 16, dtype=torch.uint8)}, TypeError, "x must be float32 or float64"),
        ({"y": torch.zeros(2, 3, 16, 16)}, ValueError, "y must have the shape of x"),
        ({"window": 10}, ValueError, "window must be an odd positive integer"),
        ({"window": 17}, ValueError, "window must fit the image"),
        ({"borders": "wrap"}, ValueError, "borders must be one of"),
        ({"sigma": 0.0}, ValueError, "must be positive"),
    ],
)
def test_wrong_arguments(change, error, words):
    with pytest.raises(error, match=words):
        ops.ssim(**({"x": torch.zeros(1, 3, 16, 16), "y": torch.zeros(1, 3, 16, 16)} | change))
