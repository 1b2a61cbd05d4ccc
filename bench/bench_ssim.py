"""ssim: ours, the separable convolutions of the reference and of pytorch-msssim, torch.compile, scikit-image.

`python bench/bench_ssim.py` prints ratios from one interleaved run;
`pytest --benchmark-enable bench/bench_ssim.py` gives pytest-benchmark's table.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import torch

try:
    import pytorch_msssim
except ImportError:  # a bare GPU machine: its row then lacks this rival
    pytorch_msssim = None

sys.path.insert(0, str(Path(__file__).parent))
from common import ON_GPU, case_of, compare, compiled, copy_of, main, sizes

from veilkern import ops, reference

PEER = ("pytorch_msssim",) if pytorch_msssim else ()
FORWARD = ("veilkern", "eager", "compile", *PEER, *(() if ON_GPU else ("scikit_image",)), "copy")
WITH_GRADIENT = ("veilkern", "eager", "compile", *PEER, "copy")


def by_scikit_image(x, y):
    from skimage.metrics import structural_similarity

    options = {"channel_axis": 0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return [structural_similarity(a, b, data_range=1.0, **options) for a, b in zip(x, y, strict=True)]


def forward(made: dict) -> dict:
    x, y = made["x"], made["y"]
    calls = {
        "veilkern": functools.partial(ops.ssim, x, y),
        "eager": functools.partial(reference.ssim, x, y),
        "compile": functools.partial(compiled(reference.ssim), x, y),
        "copy": copy_of(x.numel() * 4),
    }
    if pytorch_msssim:
        peer = functools.partial(pytorch_msssim.ssim, data_range=1.0, size_average=False)
        assert torch.allclose(ops.ssim(x, y), peer(x, y), atol=1e-5)
        calls["pytorch_msssim"] = functools.partial(peer, x, y)
    if not ON_GPU:
        calls["scikit_image"] = functools.partial(by_scikit_image, x.numpy(), y.numpy())
    return calls


def with_autograd(score_of, x, y):
    x.grad = None
    score_of(x, y).sum().backward()
    return x.grad


def with_gradient(made: dict) -> dict:
    x, y = made["x"], made["y"]
    leaf = x.clone().requires_grad_()
    calls = {
        "veilkern": functools.partial(with_autograd, ops.ssim, leaf, y),
        "eager": functools.partial(with_autograd, reference.ssim, leaf, y),
        "compile": functools.partial(with_autograd, compiled(reference.ssim), leaf, y),
        "copy": copy_of(x.numel() * 4),
    }
    if pytorch_msssim:
        peer = functools.partial(pytorch_msssim.ssim, data_range=1.0, size_average=False)
        calls["pytorch_msssim"] = functools.partial(with_autograd, peer, leaf, y)
    return calls


CASES = [
    *(case_of(size, forward, FORWARD) for size in sizes("ssim")),
    *(case_of(size, with_gradient, WITH_GRADIENT) for size in sizes("ssim_gradient")),
]
test_ssim = compare("ssim", CASES)

if __name__ == "__main__":
    main("ssim", CASES)
