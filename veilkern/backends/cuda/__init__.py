"""The CUDA kernels (kernels/*.cu) as a backend: for the ops, and the calls of them, in which they beat Triton's.

That is decided by what is counted of both: bytes, instructions, launches (bench/results/resources.md; on a GPU,
bench/gpu.sh measures it). All other calls are Triton's, and `LACKS` and `LIMITS` say why. A launch goes to the current
stream of the tensors' device and nothing here waits for it. On first use on a device each op is tried on a few values
(_probe.py); one that fails is left to Triton with the reason. With VEILKERN_CUDA_EMULATE=1 and the module of `make
emulate` the kernels run on the CPU: slow, the same arithmetic, for tests.
"""

from __future__ import annotations

from veilkern.backends import launchers, limits
from veilkern.backends.cuda._launch import EMULATED, MODULE
from veilkern.backends.cuda._probe import tried_first

DEVICES = ("cpu",) if EMULATED else ("cuda",)
DETAIL = "CUDA C++, emulated on the CPU" if EMULATED else f"CUDA C++ for {MODULE.ARCHITECTURES}"
OPS = launchers(__name__, __path__)
LIMITS = tried_first(limits(__name__, OPS))
_AT_THE_ROOF = "left to Triton, whose kernel needs no more than the memory's time, by count"
LACKS = {
    **dict.fromkeys(("blend", "blend_normalize", "rectify_"), _AT_THE_ROOF),
    **dict.fromkeys(
        ("seal", "unseal", "seal_normalize"),
        "left to Triton: what bounds it is the cipher's integer arithmetic, the same in both",
    ),
    "hull_distance": "left to Triton: a person's few features fit a program, and one launch serves all",
}
