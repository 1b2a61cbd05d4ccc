"""The truth: every op in plain PyTorch, one file each, checked in float64; kernels are tested and timed against it."""

from veilkern.reference.blend import blend, blend_float
from veilkern.reference.blend_normalize import blend_normalize
from veilkern.reference.block_variance import block_sums, block_variance, block_variance_gradient
from veilkern.reference.hull_distance import hull_distance
from veilkern.reference.keystream import keystream
from veilkern.reference.recover import gaussian_filter, recover, recover_float
from veilkern.reference.rectify import rectify_, rectify_gradient_
from veilkern.reference.seal import seal
from veilkern.reference.seal_normalize import seal_normalize
from veilkern.reference.ssim import ssim, ssim_gradient
from veilkern.reference.unseal import unseal
from veilkern.reference.veil_step import veil_step_

__all__ = [
    "blend",
    "blend_float",
    "blend_normalize",
    "block_sums",
    "block_variance",
    "block_variance_gradient",
    "gaussian_filter",
    "hull_distance",
    "keystream",
    "recover",
    "recover_float",
    "rectify_",
    "rectify_gradient_",
    "seal",
    "seal_normalize",
    "ssim",
    "ssim_gradient",
    "unseal",
    "veil_step_",
]
