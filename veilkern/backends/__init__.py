"""Which backend serves an op: the one place where that is decided.

`list_backends()` names every backend with its ops, or the reason for its absence; `with use_backend("reference"):`
asks for one by name, and raises where it cannot serve. Without that, the first in the order for the tensors' device
that supports the call serves it; what each says against it is in the error when none does. Backends load on first use;
a failure is kept as the reason.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch

from veilkern.errors import BackendError

ORDER = ("cuda", "triton", "cpu", "reference")
# By the type of device; any other has the reference alone. (Triton's interpreter takes tensors on the CPU, by name.)
_ORDER_ON = {"cuda": ("cuda", "triton", "reference"), "cpu": ("cpu", "reference")}
_asked: ContextVar[str | None] = ContextVar("veilkern_backend", default=None)
_threads: ContextVar[int | None] = ContextVar("veilkern_threads", default=None)


@dataclass(frozen=True)
class Backend:
    """A backend: its ops by name, the device types it serves ("" for any), and why it is absent, if it is.

    limits: of ops that do not serve every call, a function of the op's arguments that gives the reason, or None.
    lacks: ops that it does not have, with the reason.
    """

    name: str
    ops: dict[str, Callable[..., Any]] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    detail: str = ""
    reason: str | None = None
    limits: dict[str, Callable[..., str | None]] = field(default_factory=dict)
    lacks: dict[str, str] = field(default_factory=dict)

    @property
    def available(self) -> bool:
        """Whether it can serve at all."""
        return self.reason is None

    def supports(self, op: str, *arguments: object) -> str | None:
        """None when it serves `op` with these arguments (the launcher's, a tensor first; all tensors are on one
        device: the ops have seen to it), else the reason."""
        if self.reason is not None:
            return self.reason
        if op not in self.ops:
            return self.lacks.get(op, "no such op")
        device = arguments[0].device.type  # type: ignore[attr-defined]
        if self.devices and device not in self.devices:
            return f"serves tensors on {', '.join(self.devices)}"
        return self.limits[op](*arguments) if op in self.limits else None


def launchers(package: str, folder: Iterable[str]) -> dict[str, Callable[..., Any]]:
    """The launchers in a backend's folder, by op: each public module has one, named after it (one that writes in place
    ends in _, as in torch)."""
    found = {}
    for stem in sorted(module.name for module in pkgutil.iter_modules(folder) if not module.name.startswith("_")):
        module = importlib.import_module(f"{package}.{stem}")
        op = stem if hasattr(module, stem) else f"{stem}_"
        found[op] = getattr(module, op)
    return found


def limits(package: str, ops: Iterable[str]) -> dict[str, Callable[..., str | None]]:
    """The `limit` of each op's module in a backend's folder: the reason why a call is not served, or None."""
    return {op: importlib.import_module(f"{package}.{op.removesuffix('_')}").limit for op in ops}


@functools.cache
def _load(name: str) -> Backend:
    try:
        module = importlib.import_module(f"veilkern.backends.{name}")
    except ImportError as error:
        return Backend(name, reason=f"{error}")
    limits, lacks = (getattr(module, table, {}) for table in ("LIMITS", "LACKS"))
    return Backend(name, module.OPS, module.DEVICES, module.DETAIL, limits=limits, lacks=lacks)


def list_backends() -> list[Backend]:
    """Every backend in the order of preference."""
    return [_load(name) for name in ORDER]


@contextlib.contextmanager
def use_backend(name: str, *, threads: int | None = None) -> Iterator[Backend]:
    """Serve every op inside the block by this backend; BackendError when it is unknown or absent.

    threads: how many the `cpu` backend uses (default: torch.get_num_threads()). Other Python threads are not affected.
    Gradients of what runs inside are served by it too, wherever and whenever `backward` is called.
    """
    if name not in ORDER:
        raise BackendError(f"use_backend: no backend {name!r}; there are {', '.join(ORDER)}")
    backend = _load(name)
    if not backend.available:
        raise BackendError(f"use_backend: {name} is not available: {backend.reason}")
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise ValueError(f"use_backend: threads must be a positive integer, got {threads!r}")
    if threads is not None and name != "cpu":
        raise ValueError(f"use_backend: threads must be None for {name}: only cpu takes a number of threads")
    with choosing((name, threads)):
        yield backend


def choice() -> tuple[str | None, int | None]:
    """What this Python thread has asked for: backend and number of threads, None for what it leaves open."""
    return _asked.get(), _threads.get()


@contextlib.contextmanager
def choosing(chosen: tuple[str | None, int | None]) -> Iterator[None]:
    """Serve by an earlier `choice()` inside the block, in whatever thread: for gradients, which autograd makes in
    threads of its own, where no use_backend reaches."""
    asked, counted = _asked.set(chosen[0]), _threads.set(chosen[1])
    try:
        yield
    finally:
        _asked.reset(asked)
        _threads.reset(counted)


def thread_count() -> int:
    """How many threads a kernel on the CPU may use now."""
    return _threads.get() or torch.get_num_threads()


def select(op: str, *arguments: object) -> Callable[..., Any]:
    """The launcher that serves `op` with these arguments; BackendError, with every backend's reason, when none does."""
    asked = _asked.get()
    order = _ORDER_ON.get(arguments[0].device.type, ("reference",)) if asked is None else (asked,)  # type: ignore[attr-defined]
    for name in order:
        backend = _load(name)
        if backend.supports(op, *arguments) is None:
            return backend.ops[op]
    reasons = "; ".join(f"{name}: {_load(name).supports(op, *arguments)}" for name in order)
    raise BackendError(f"{op}: no backend serves this call ({reasons})")


def serve(op: str, *arguments: object) -> Any:
    """Run `op` by the backend that is asked for, or else by the first that serves this call."""
    return select(op, *arguments)(*arguments)
