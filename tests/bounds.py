"""A bounds check in Triton's interpreter: what a launch loads or stores must lie in memory that was given to it.

`install()` wraps the interpreter's own loads, stores and atomics. An address of a lane that is not masked off, and that
lies in no storage of an argument of the launch, raises OutOfBounds (the interpreter makes an InterpreterError of it)
with the kernel, the line, and the argument that it just missed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch


class OutOfBounds(Exception):
    """A kernel touched memory that its launch was not given."""


@dataclass
class Launch:
    """The kernel that runs and the memory of its arguments: begin, end and name of each storage."""

    kernel: str
    storages: list[tuple[int, int, str]]


_running: list[Launch] = []


def storages_of(names: list[str], arguments: list) -> list[tuple[int, int, str]]:
    """Begin, end and the arguments' names of every storage, each once."""
    found: dict[tuple[int, int], list[str]] = {}
    for name, value in zip(names, arguments, strict=False):
        if isinstance(value, torch.Tensor):
            storage = value.untyped_storage()
            begin = storage.data_ptr()
            found.setdefault((begin, begin + storage.nbytes()), []).append(name)
    return [(begin, end, ", ".join(names)) for (begin, end), names in found.items()]


def check(what: str, pointers, mask: np.ndarray | None) -> None:
    """Every address whose lane is not masked off lies, as a whole value, in one storage of the launch."""
    addresses = pointers.data if mask is None else pointers.data[np.broadcast_to(mask, pointers.data.shape)]
    if not addresses.size or not _running:
        return
    size = max(pointers.get_element_ty().primitive_bitwidth // 8, 1)
    low, high = int(addresses.min()), int(addresses.max()) + size
    storages = _running[-1].storages
    if any(begin <= low and high <= end for begin, end, _ in storages):
        return  # the usual case: all of one pointer
    inside = np.zeros(addresses.shape, dtype=bool)
    for begin, end, _ in storages:
        inside |= (addresses >= begin) & (addresses <= end - size) if end - begin >= size else False
    if not inside.all():
        raise OutOfBounds(_message(what, addresses[~inside], size))


def _message(what: str, outside: np.ndarray, size: int) -> str:
    launch, first = _running[-1], int(outside.flat[0])

    def distance(storage: tuple[int, int, str]) -> int:
        begin, end, _ = storage
        return begin - first if first < begin else first + size - end

    begin, end, name = min(launch.storages, key=distance)
    where = f"{first - begin} bytes from the start of its {end - begin}"
    return (
        f"{launch.kernel}: {what} of {outside.size} values outside of what it was given, the first nearest to {name}, "
        f"{where}, at {_line()}"
    )


def _line() -> str:
    """The kernel's own line: the innermost frame that is neither Triton's nor this file's."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path != __file__ and "/triton/" not in path and not path.startswith("<"):
            return f"{Path(path).name}:{frame.f_lineno} ({frame.f_code.co_name})"
        frame = frame.f_back  # type: ignore[assignment]
    return "an unknown line"


def install() -> None:
    """Check every launch of the interpreter from here on."""
    from triton.runtime.interpreter import GridExecutor, InterpreterBuilder

    plain_call, plain_arguments = GridExecutor.__call__, GridExecutor._init_args_hst
    plain = {name: getattr(InterpreterBuilder, name) for name in _ACCESSES}

    def arguments(self, given, options):
        positional, named = plain_arguments(self, given, options)
        names, values = [*self.arg_names[: len(positional)], *named], [*positional, *named.values()]
        _running[-1].storages = storages_of(names, values)
        return positional, named

    def call(self, *given, **options):
        _running.append(Launch(self.fn.__name__, []))
        try:
            return plain_call(self, *given, **options)
        finally:
            _running.pop()

    GridExecutor._init_args_hst, GridExecutor.__call__ = arguments, call
    for name, (what, pointers, mask) in _ACCESSES.items():
        setattr(InterpreterBuilder, name, _checked(plain[name], what, pointers, mask))


# Method of the interpreter's builder -> what it does, and which of its arguments are the pointers and the mask
_ACCESSES = {
    "create_masked_load": ("load", 0, 1),
    "create_masked_store": ("store", 0, 2),
    "create_atomic_rmw": ("atomic", 1, 3),
    "create_atomic_cas": ("atomic", 0, None),
}


def _checked(plain, what: str, pointers: int, mask: int | None):
    def access(self, *given):
        check(what, given[pointers], None if mask is None else given[mask].data)
        return plain(self, *given)

    return access
