"""Whether a device runs the CUDA kernels: each op, at its first use there, on its examples, against the reference."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable
from typing import Any

import torch

from veilkern.backends.cuda._launch import EMULATED

Limit = Callable[..., "str | None"]
NEAR = 1e-4  # of the largest value: an example has a few hundred values, a wrong kernel is far off


def tried_first(limits: dict[str, Limit]) -> dict[str, Limit]:
    """The limits of each op, and behind them the question whether its kernel runs on the device at all."""
    return {op: functools.partial(_limit, op, limit) for op, limit in limits.items()}


def _limit(op: str, limit: Limit, tensor: torch.Tensor, *others: object) -> str | None:
    try:
        reason = limit(tensor, *others)
    except RuntimeError as error:  # the first question to a driver that is too old
        return str(error).partition("\n")[0]
    return reason if reason is not None or EMULATED else _tried(op, tensor.device)


_results: dict[tuple[str, torch.device], str | None] = {}


def _tried(op: str, device: torch.device) -> str | None:
    """None where the op's kernel gives the right values there, else the reason in a line. The first time in a process
    it waits for the device; a stream that is being captured must not wait, so until then Triton serves."""
    key = (op, device)
    if key not in _results:
        with torch.cuda.device(device):
            if torch.cuda.is_current_stream_capturing():
                return "not tried on this device before a CUDA graph was captured: call the op once first"
        try:
            _results[key] = failure(op, device)
        except torch.OutOfMemoryError:  # of this moment, not of the device
            return "there was no memory to try it on this device"
    return _results[key]


@torch.inference_mode(False)
def failure(op: str, device: torch.device) -> str | None:
    """What is wrong with an op's kernel on a device, in a line; None where nothing is."""
    launcher, truth = (
        getattr(importlib.import_module(f"veilkern.backends.{name}.{op.removesuffix('_')}"), op)
        for name in ("cuda", "reference")
    )
    examples = importlib.import_module(f"veilkern.backends.cuda.{op.removesuffix('_')}").examples
    strict = torch.cuda.get_sync_debug_mode() if device.type == "cuda" else 0
    try:
        if strict:
            torch.cuda.set_sync_debug_mode(0)  # waiting for the device is what this is about
        for arguments in examples():
            wanted, found = (
                _results_of(run, [_copy(value, there) for value in arguments])
                for run, there in ((truth, torch.device("cpu")), (launcher, device))
            )
            if not all(_near(a, b) for a, b in zip(found, wanted, strict=True)):
                return "wrong values on this device (please report it)"
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError) as error:  # no image for the device, a driver that is too old
        return str(error).partition("\n")[0]
    finally:
        if strict:
            torch.cuda.set_sync_debug_mode(strict)
    return None


def _copy(value: object, device: torch.device) -> object:
    return value.to(device, copy=True) if isinstance(value, torch.Tensor) else value


def _results_of(run: Callable[..., Any], arguments: list[Any]) -> list[torch.Tensor]:
    """What a launcher returns, and all tensors that it was given, some of which it has written; in float64, here."""
    with torch.no_grad():
        found = run(*arguments)
    returned: Iterable[Any] = found if isinstance(found, tuple) else () if found is None else (found,)
    return [value.cpu().double() for value in (*returned, *arguments) if isinstance(value, torch.Tensor)]


def _near(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    bound = NEAR * wanted.abs().nan_to_num().amax().clamp_min(1e-6).item() if wanted.numel() else 0.0
    return found.shape == wanted.shape and torch.allclose(found, wanted, rtol=0, atol=bound, equal_nan=True)
