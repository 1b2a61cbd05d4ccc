"""The engine: a frozen network's features and input gradient, at the speed of its arithmetic."""

from veilkern.engine.frozen import Frozen, frozen

__all__ = ["Frozen", "frozen"]
