"""The Triton kernels as a backend: from tensors to pointers, strides and a grid. The ops have checked everything.

A launch goes to the current stream of the tensors' device and nothing here waits for it. Strides are passed on: no
tensor is copied to be read. Batches lie on the first axis of the grid, whose limit is 2^31 - 1. With TRITON_INTERPRET=1
the kernels run on the CPU in Triton's interpreter: slow, the same arithmetic, for tests.
"""

from __future__ import annotations

from veilkern.backends import launchers
from veilkern.backends.triton._launch import INTERPRETED, too_old, triton  # says why where there is none
from veilkern.backends.triton.hull_distance import limit

DEVICES = ("cpu",) if INTERPRETED else ("cuda",)
DETAIL = f"Triton {triton.__version__}" + (", interpreted on the CPU" if INTERPRETED else "")
OPS = launchers(__name__, __path__)
LIMITS = dict.fromkeys(OPS, too_old) | {"hull_distance": limit}
