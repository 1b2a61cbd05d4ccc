"""Metrics and views of photos: against scikit-image and SciPy, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from veilkern.evaluate import contour, psnr, ssim
from veilkern.evaluate.metrics import blurred_luma
from veilkern.evaluate.views import blurred_views


def pair(n=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.interpolate(torch.rand(n, 3, 14, 14, generator=g), size=112, mode="bilinear")
    y = (x + 0.2 * torch.randn(x.shape, generator=g)).clamp(0, 1)
    return (x * 255).to(torch.uint8), (y * 255).to(torch.uint8)


def test_ssim_and_psnr_against_scikit_image():
    x, y = pair(70)
    for i in (0, 69):
        a, b = x[i].numpy(), y[i].numpy()
        wanted = structural_similarity(
            a, b, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )
        assert ssim(x, y)[i].item() == pytest.approx(wanted, abs=1e-9)
        assert psnr(x, y)[i].item() == pytest.approx(peak_signal_noise_ratio(a, b, data_range=255), abs=1e-9)
    assert psnr(x, x).isinf().all()


@pytest.mark.parametrize(
    "height,width,window", [(5, 5, 5), (6, 20, 5), (9, 9, 9), (40, 10, 9), (11, 12, 11), (64, 13, 11), (1, 1, 1)]
)
def test_ssim_of_small_photos(height, width, window):
    """The largest odd window that fits, of the same sigma."""
    x, y = (t[:, :, :height, :width] for t in pair(2))
    side = torch.arange(window, dtype=torch.float64) - window // 2
    taps = torch.exp(-side.square() / (2 * 1.5**2))
    taps = (taps / taps.sum()).outer(taps / taps.sum()).expand(3, 1, -1, -1)

    def mean(z):
        return torch.nn.functional.conv2d(z, taps, groups=3)

    a, b = x.double(), y.double()
    var_a, var_b, both = mean(a * a) - mean(a) ** 2, mean(b * b) - mean(b) ** 2, mean(a * b) - mean(a) * mean(b)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mean(a) * mean(b) + c1) * (2 * both + c2)
    wanted = (top / ((mean(a) ** 2 + mean(b) ** 2 + c1) * (var_a + var_b + c2))).mean((1, 2, 3))
    torch.testing.assert_close(ssim(x, y), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sigma", [2.0, 4.0])
def test_contour_against_scipy(sigma):
    x, y = pair()
    for i in range(3):
        a, b = (
            gaussian_filter(np.tensordot([0.299, 0.587, 0.114], t[i].numpy().astype(float), 1), sigma, mode="mirror")
            for t in (x, y)
        )
        assert contour(x, y, sigma)[i].item() == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], abs=1e-6)
    torch.testing.assert_close(contour(x, 255 - x, sigma), -torch.ones(3, dtype=torch.float64))
    assert contour(x, torch.full_like(x, 9), sigma).abs().max() == 0


def test_blurred_views_show_a_negative_as_a_positive():
    x, _ = pair()
    blurred, leaked = blurred_views(x, 255 - x)
    assert blurred.shape == x.shape and blurred.dtype == torch.uint8
    assert (blurred.int() - leaked.int()).abs().max() <= 2 and blurred.min() == 0 and blurred.max() == 255
    # From the 1st to the 99th percentile to 0..255, however faint it is.
    faint = 100 + x // 16
    luma = blurred_luma(faint, 2.0)
    low, high = (np.quantile(luma.numpy(), q, axis=(1, 2), keepdims=True) for q in (0.01, 0.99))
    wanted = np.clip((luma.numpy() - low) / (high - low), 0, 1) * 255
    np.testing.assert_allclose(blurred_views(faint, faint)[0][:, 0].numpy(), wanted, atol=0.51)
    flat = torch.full_like(x, 9)
    assert blurred_views(x, flat)[1].shape == x.shape
