"""The table: an entry for every op of veilkern.ops, found in the modules of veilkern/testing/ops."""

from __future__ import annotations

import importlib
import pkgutil

from veilkern.testing import ops as folder
from veilkern.testing.entry import Entry


def _found() -> dict[str, Entry]:
    modules = sorted(module.name for module in pkgutil.iter_modules(folder.__path__))
    entries = [e for name in modules for e in importlib.import_module(f"{folder.__name__}.{name}").ENTRIES]
    return {entry.name: entry for entry in entries}


TABLE = _found()
