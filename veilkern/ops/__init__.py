"""The ops: one file each, with the public function, its checks, its torch schema, fake and gradient.

A call's way: public function -> checks -> torch op -> backends.select -> launcher -> kernel.
"""

from veilkern.ops.blend import blend
from veilkern.ops.blend_normalize import blend_normalize
from veilkern.ops.block_variance import block_variance, block_variance_gradient
from veilkern.ops.hull_distance import hull_distance
from veilkern.ops.recover import recover
from veilkern.ops.rectify import rectify_, rectify_gradient_
from veilkern.ops.seal import seal
from veilkern.ops.seal_normalize import seal_normalize
from veilkern.ops.ssim import ssim, ssim_gradient
from veilkern.ops.unseal import unseal
from veilkern.ops.veil_step import veil_step_

__all__ = [
    "blend",
    "blend_normalize",
    "block_variance",
    "block_variance_gradient",
    "hull_distance",
    "recover",
    "rectify_",
    "rectify_gradient_",
    "seal",
    "seal_normalize",
    "ssim",
    "ssim_gradient",
    "unseal",
    "veil_step_",
]
