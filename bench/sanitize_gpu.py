"""Every Triton kernel once on small and odd shapes, to be run under compute-sanitizer (a step of bench/gpu.sh).

compute-sanitizer --tool memcheck python bench/sanitize_gpu.py
Run with PYTORCH_NO_CUDA_MEMORY_CACHING=1: only then does every tensor end where its memory ends.
"""

from __future__ import annotations

import torch

import veilkern as vk
from veilkern import ops


def every_op(n: int, people: int, height: int, width: int) -> None:
    """One call of each op, results discarded: the tests compare them, this looks at the accesses."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=g).cuda()
    veils = torch.randint(0, 256, (people, 3, height, width), dtype=torch.uint8, generator=g).cuda()
    rows = torch.randint(0, people, (n,), generator=g).cuda()
    offsets = torch.tensor([0] * people + [n]).cuda()  # all photos are the last person's: the others have none
    offsets[1:-1] = torch.arange(1, people).cuda()
    x, y = images.float() / 255, images.flip(3).float() / 255
    features, clean = (torch.nn.functional.normalize(torch.randn(n, 70, generator=g) + 1).cuda() for _ in range(2))
    for lossless in (False, True):
        hidden = ops.blend(images, veils, rows, 51, lossless=lossless)
        ops.recover(hidden, veils, rows, 51)
        ops.recover(hidden.transpose(2, 3), veils.transpose(2, 3), rows, 51, gaussian_sigma=1.0)
    for dtype in (torch.float32, torch.bfloat16):
        ops.blend_normalize(images, veils / 255.0, rows, 51, mean=[0.5] * 3, std=[0.5] * 3, dtype=dtype)
    keys, nonces = (torch.randint(0, 256, (k, size), generator=g).byte().cuda() for k, size in ((people, 32), (n, 12)))
    for lossless in (False, True):
        sealed = ops.seal(images, veils, rows, keys, nonces, lossless=lossless)
        ops.unseal(sealed, veils, rows, keys)
        turned = sealed.transpose(2, 3), veils.transpose(2, 3)
        ops.unseal(*turned, rows, keys, rounds=12)
        ops.seal(images.to(memory_format=torch.channels_last), veils, rows, keys, nonces, lossless=lossless)
    for dtype in (torch.float32, torch.bfloat16):
        ops.seal_normalize(images, veils / 255.0, rows, keys, nonces, mean=[0.5] * 3, std=[0.5] * 3, dtype=dtype)
    for block, stride in (((3, 3), 1), ((2, 4), 3)):
        ops.block_variance_gradient(x, block=block, stride=stride, form="literal")
    for subspace in ("convex", "affine", "span", "centre", "self"):
        ops.hull_distance(features, clean, offsets, subspace=subspace, width=n)
    ops.ssim_gradient(x, y, window=5, borders="same")
    for visual in ("norm", "mse"):
        state = veils / 255.0, torch.zeros_like(veils, dtype=torch.float32), x - 0.5, images, offsets
        ops.veil_step_(*state, a=51, lam=0.04, mu=0.01, step=0.1, decay=1.0, visual=visual)
    last = torch.channels_last
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        slope, bias = torch.full((3,), 0.25, dtype=exact).cuda(), (x[0] - 0.5).to(exact)
        for add, more in ((None, {}), (bias[:, 0, 0].contiguous(), {"top": 0.25}), (bias, {"slope": slope})):
            bits = ops.rectify_((x - 0.5).to(dtype, memory_format=last), add, **more)
            ops.rectify_gradient_(y.to(dtype, memory_format=last), bits, more.get("slope"))
        ops.rectify_gradient_(features.to(dtype), ops.rectify_(features.to(dtype)))
    torch.cuda.synchronize()


if __name__ == "__main__":
    with vk.use_backend("triton"):
        every_op(5, 3, 7, 9)
        every_op(4, 2, 112, 112)
        every_op(1, 1, 5, 130)
    print("every kernel ran")
