"""The reference as a backend: every op in plain PyTorch, on any device. Every backend has these signatures."""

from __future__ import annotations

from veilkern.backends.reference.blend import blend
from veilkern.backends.reference.blend_normalize import blend_normalize
from veilkern.backends.reference.block_variance import block_variance
from veilkern.backends.reference.hull_distance import hull_distance
from veilkern.backends.reference.recover import recover
from veilkern.backends.reference.ssim import ssim
from veilkern.backends.reference.veil_step import veil_step_

DEVICES: tuple[str, ...] = ()
DETAIL = "plain PyTorch"
OPS = {
    "blend": blend,
    "blend_normalize": blend_normalize,
    "recover": recover,
    "block_variance": block_variance,
    "hull_distance": hull_distance,
    "ssim": ssim,
    "veil_step_": veil_step_,
}
