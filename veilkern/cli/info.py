"""veilkern info: versions, backends with the reason for each absence, processor, threads, launch tables."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

import veilkern as vk
from veilkern.cli._shared import NARROW, Bgr, Mean, Range, Size, Std, console, load_network

LIBRARIES = ("numpy", "triton", "safetensors", "pillow")


def info(
    model: Annotated[str | None, typer.Option("--model", help="Tell how this network would be run, too.")] = None,
    input_size: Size = 112,
    input_mean: Mean = None,
    input_std: Std = None,
    input_bgr: Bgr = False,
    input_range: Range = None,
) -> None:
    """Versions and backends, with the reason for each absence; how a network would be run."""
    facts = Table("", "", show_header=False, **NARROW)
    told = _facts()
    if model is not None:
        told |= _network(load_network(model, input_size, input_mean, input_std, input_bgr, input_range))
    for name, text in told.items():
        facts.add_row(name, escape(text))
    table = Table("backend", "serves", "ops, or the reason for its absence", **NARROW)
    for backend in vk.list_backends():
        detail = f"{backend.detail}: {', '.join(sorted(backend.ops))}" if backend.available else str(backend.reason)
        table.add_row(backend.name, "yes" if backend.available else "no", escape(detail))
    for part in (facts, table):
        for column in part.columns:
            column.overflow = "fold"  # a long word goes on in the next line: nothing is cut
        console.print(part)


def _facts() -> dict[str, str]:
    """What is told beside the backends, one line each."""
    import torch

    cuda = torch.version.cuda or torch.version.hip or "none"
    return {
        "veilkern": vk.__version__,
        "Python": f"{platform.python_version()}, {platform.platform()}, {platform.machine()}",
        "torch": f"{torch.__version__}, CUDA {cuda}",
        "libraries": ", ".join(f"{name} {_version(name)}" for name in LIBRARIES),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "instructions": _instructions(),
        "threads": f"{torch.get_num_threads()} of torch; {_cores()} of {os.cpu_count()} cores may be used",
        "launch tables": _launch_tables(),
    }


def _network(network: vk.FaceModel) -> dict[str, str]:
    """What the engine makes of a network, or why torch's autograd runs it."""
    from veilkern.engine import Frozen, frozen

    fast, why = frozen(network)
    if why:
        return {"network": str(network), "run by": f"torch's autograd: {why}"}
    assert isinstance(fast.module, Frozen)
    found = fast.module.program.describe()
    steps = ", ".join(f"{count} {kind}" for kind, count in found.steps.items())
    by_torch = f"; by torch: {', '.join(found.by_torch)}" if found.by_torch else ""
    return {
        "network": str(network),
        "run by": f"the engine: {steps}{by_torch}; {found.bits / 2**20:.2f} MiB of bits a photo for the gradient",
    }


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _instructions() -> str:
    """The instruction set of the C++ kernels."""
    try:
        from veilkern import _cpu  # type: ignore[attr-defined]  # compiled
    except ImportError:
        return "none: the C++ module is not built"
    best, used = _cpu.best_isa(), _cpu.isa()
    return best if best == used else f"{used} (this processor has {best})"


def _cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _launch_tables() -> str:
    """Where the Triton kernels' launches are read from."""
    from veilkern.backends.launch_tables import shipped_folder, user_folder

    yours = user_folder()
    count = len(list(yours.glob("*.json"))) if yours.is_dir() else 0
    try:
        shipped = str(shipped_folder())
    except ImportError as error:
        shipped = str(error)
    return f"yours in {yours} ({count} of them), shipped in {shipped}"
