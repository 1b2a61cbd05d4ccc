"""The C++ kernels as a backend: from tensors to addresses, sizes and strides. The ops have checked everything."""

from __future__ import annotations

from veilkern.backends.cpu._tensors import _cpu
from veilkern.backends.cpu.blend import blend
from veilkern.backends.cpu.blend_normalize import blend_normalize
from veilkern.backends.cpu.block_variance import block_variance
from veilkern.backends.cpu.hull_distance import hull_distance
from veilkern.backends.cpu.recover import recover
from veilkern.backends.cpu.ssim import ssim
from veilkern.backends.cpu.veil_step import veil_step_

DEVICES = ("cpu",)
DETAIL = f"C++, {_cpu.isa()}"
OPS = {
    "blend": blend,
    "blend_normalize": blend_normalize,
    "recover": recover,
    "block_variance": block_variance,
    "hull_distance": hull_distance,
    "ssim": ssim,
    "veil_step_": veil_step_,
}
