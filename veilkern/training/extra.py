"""What the extra `train` brings, asked for where it is used: the rest of veilkern never needs it."""

from __future__ import annotations

import importlib
from types import ModuleType

from veilkern.errors import ModelError


def needed(module: str) -> ModuleType:
    """A module of the extra; ModelError that names the extra where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ModelError(f"training networks needs the train extra, `pip install veilkern[train]` ({error})") from error
