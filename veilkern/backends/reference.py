"""The reference as a backend: every op in plain PyTorch, on any device."""

from __future__ import annotations

from veilkern import reference

DEVICES: tuple[str, ...] = ()
DETAIL = "plain PyTorch"


def blend(images, veils, rows, a, lossless, out):
    """Launcher of `blend`: writes `out`."""
    out.copy_(reference.blend(images, veils, rows, a, lossless=lossless))


def recover(protected, veils, rows, a, gaussian_sigma, out):
    """Launcher of `recover`: writes `out`."""
    out.copy_(reference.recover(protected, veils, rows, a, gaussian_sigma=gaussian_sigma))


OPS = {
    "blend": blend,
    "recover": recover,
    "blend_normalize": reference.blend_normalize,
    "block_variance": reference.block_variance,
    "hull_distance": reference.hull_distance,
    "ssim": reference.ssim,
    "veil_step_": reference.veil_step_,
}
