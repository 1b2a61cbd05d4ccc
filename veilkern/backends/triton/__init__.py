"""The Triton kernels as a backend: from tensors to pointers, strides and a grid. The ops have checked everything.

A launch goes to the current stream of the tensors' device and nothing here waits for it. Strides are passed on: no
tensor is copied to be read. Batches lie on the first axis of the grid, whose limit is 2^31 - 1. With TRITON_INTERPRET=1
the kernels run on the CPU in Triton's interpreter: slow, the same arithmetic, for tests.
"""

from __future__ import annotations

import triton

from veilkern.backends.triton._launch import INTERPRETED, too_old
from veilkern.backends.triton.blend import blend
from veilkern.backends.triton.blend_normalize import blend_normalize
from veilkern.backends.triton.block_variance import block_variance
from veilkern.backends.triton.hull_distance import hull_distance, limit
from veilkern.backends.triton.recover import recover
from veilkern.backends.triton.ssim import ssim
from veilkern.backends.triton.veil_step import veil_step_

DEVICES = ("cpu",) if INTERPRETED else ("cuda",)
DETAIL = f"Triton {triton.__version__}" + (", interpreted on the CPU" if INTERPRETED else "")
OPS = {
    "blend": blend,
    "blend_normalize": blend_normalize,
    "recover": recover,
    "block_variance": block_variance,
    "hull_distance": hull_distance,
    "ssim": ssim,
    "veil_step_": veil_step_,
}
LIMITS = dict.fromkeys(OPS, too_old) | {"hull_distance": limit}
