"""How the Triton kernels are launched: tables by GPU name, op and shape class, read once, never searched in a call.

A table is a JSON file: the user's own for this GPU (made by `veilkern tune`), else the one shipped for it, else the
shipped default; where a table lacks an op or a class, the next one answers. Which class a call falls into is decided
by its launcher in veilkern.backends.triton.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import re
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch

from veilkern.errors import VeilkernError

# What an entry may hold; every number is a positive integer, and those marked True are powers of two.
FIELDS = {
    "block": True, "tile": True, "group": True, "chunk": True, "num_warps": True, "registers": False,
    "slots_per_processor": False,
}  # fmt: skip


_tried: ContextVar[tuple[str, str, dict[str, int]] | None] = ContextVar("veilkern_launch", default=None)


@contextlib.contextmanager
def trying(op: str, kind: str, entry: dict[str, int]) -> Iterator[None]:
    """Launch this op's shape class by `entry` inside the block, whatever the tables say, as `veilkern tune` does."""
    token = _tried.set((op, kind, entry))
    try:
        yield
    finally:
        _tried.reset(token)


def user_folder() -> Path:
    """Where `veilkern tune` writes: $VEILKERN_LAUNCHES, else veilkern/launch in the user's configuration folder."""
    if given := os.environ.get("VEILKERN_LAUNCHES"):
        return Path(given)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "veilkern" / "launch"


def file_name(gpu: str) -> str:
    """The name of a GPU's table: `NVIDIA H200` is nvidia-h200.json."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") + ".json"


def read_table(path: Path) -> dict[str, dict[str, dict[str, int]]]:
    """The launches of a table file; VeilkernError where it is not one."""
    try:
        launches = json.loads(path.read_text(encoding="utf-8"))["launches"]
        for op, classes in launches.items():
            for kind, entry in classes.items():
                for name, value in entry.items():
                    whole = isinstance(value, int) and not isinstance(value, bool) and value > 0
                    if name not in FIELDS or not whole or (FIELDS[name] and value & (value - 1)):
                        raise ValueError(f"{op}, {kind}: {name} = {value!r}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise VeilkernError(f"{path}: not a table of launches: {type(error).__name__}: {error}") from error
    return launches


def shipped_folder() -> Path:
    """Where the shipped tables lie: beside the kernels."""
    spec = importlib.util.find_spec("veilkern.kernels.indexing")
    if spec is None or spec.origin is None:
        raise ImportError("veilkern.kernels is missing: reinstall veilkern")
    return Path(spec.origin).parent / "launch"


@functools.cache
def tables(gpu: str) -> tuple[dict[str, Any], ...]:
    """The tables that count for this GPU, the nearest first."""
    places = [user_folder() / file_name(gpu), shipped_folder() / file_name(gpu)]
    found = [read_table(path) for path in places if path.is_file()]
    return (*found, read_table(shipped_folder() / "default.json"))


@functools.cache
def gpu_name(device: torch.device) -> str:
    """The GPU's name, `interpreter` for the CPU."""
    return "interpreter" if device.type == "cpu" else torch.cuda.get_device_name(device)


def launch_of(op: str, kind: str, device: torch.device) -> dict[str, int]:
    """The numbers to launch `op` with for shape class `kind`."""
    tried = _tried.get()
    if tried is not None and tried[:2] == (op, kind):
        return tried[2]
    for table in tables(gpu_name(device)):
        if found := table.get(op, {}).get(kind):
            return found
    raise KeyError(f"no launch for {op}, {kind}")  # the shipped default holds every class: a test sees to it
