"""The ops: one file each, with the public function, its checks and, where it has a kernel, its torch schema.

A call's way: public function -> checks -> torch op -> backends.select -> launcher -> kernel.
"""

from veilkern.ops.blend import blend
from veilkern.ops.blend_normalize import blend_normalize
from veilkern.ops.block_variance import block_variance
from veilkern.ops.hull_distance import hull_distance
from veilkern.ops.recover import recover
from veilkern.ops.ssim import ssim
from veilkern.ops.veil_step import veil_step_

__all__ = ["blend", "blend_normalize", "block_variance", "hull_distance", "recover", "ssim", "veil_step_"]
