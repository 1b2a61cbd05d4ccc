"""The reference as a backend: every op in plain PyTorch, on any device. Every backend has these signatures."""

from __future__ import annotations

from veilkern.backends import launchers

DEVICES: tuple[str, ...] = ()
DETAIL = "plain PyTorch"
OPS = launchers(__name__, __path__)
