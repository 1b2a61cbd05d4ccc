"""The C++ kernels as a backend: from tensors to addresses, sizes and strides. The ops have checked everything."""

from __future__ import annotations

from veilkern.backends import launchers
from veilkern.backends.cpu._tensors import _cpu

DEVICES = ("cpu",)
DETAIL = f"C++, {_cpu.isa()}"
OPS = launchers(__name__, __path__)
