"""The ops as torch sees them: one library, and one way to register an op with its schema, body and fake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from veilkern.backends import choice, choosing

LIBRARY = torch.library.Library("veilkern", "DEF")


def register(schema: str, body: Callable, fake: Callable) -> None:
    """Define an op: its schema, what runs on any device, and what it returns without running (shapes and dtypes)."""
    name = schema.partition("(")[0]
    LIBRARY.define(schema)
    LIBRARY.impl(name, body, "CompositeExplicitAutograd")
    torch.library.register_fake(f"veilkern::{name}", fake, lib=LIBRARY)


def register_autograd(name: str, backward: Callable, setup_context: Callable) -> None:
    """How an op's gradient is made, by the backend that was chosen for the op. It is made once: its own gradient raises
    RuntimeError."""

    def remember(ctx, inputs, output):
        _remember(ctx, setup_context, inputs, output)

    torch.library.register_autograd(f"veilkern::{name}", _once(name, backward), setup_context=remember, lib=LIBRARY)


def recorded(name: str, body: Callable, backward: Callable, setup_context: Callable) -> Callable:
    """An op's body with the gradient of register_autograd, past the dispatcher: for calls that `records_now`."""

    def forward(ctx, *inputs):
        output = body(*inputs)
        _remember(ctx, setup_context, inputs, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(_once(name, backward))}
    function: Any = type(name, (torch.autograd.Function,), methods)
    return function.apply


def _remember(ctx, setup_context: Callable, inputs: tuple, output: object) -> None:
    ctx.chosen = choice()
    setup_context(ctx, inputs, output)


def _once(name: str, backward: Callable) -> Callable:
    def once(ctx, *gradients):
        if torch.is_grad_enabled():
            raise RuntimeError(
                f"veilkern.ops.{name} is differentiable once: call backward without create_graph=True, or use "
                f"veilkern.reference.{name}"
            )
        with choosing(ctx.chosen):
            return backward(ctx, *gradients)

    return once


def is_watched() -> bool:
    """Whether torch's own calls are looked at on their way (FakeTensorMode, make_fx, torch.jit.trace): then they may
    return tensors without memory, and a kernel called beside them would be missing from what is recorded."""
    return torch._C._len_torch_dispatch_stack() > 0 or torch._C._get_tracing_state() is not None


def runs_now(*tensors: torch.Tensor | None) -> bool:
    """Whether an op may run its body at once: plain tensors, outside of torch.compile and whatever else watches, and
    no gradient to record. That saves the dispatcher's time, which is more than a small batch takes."""
    if torch.compiler.is_compiling() or is_watched():
        return False
    recording = torch.is_grad_enabled()
    return all(t is None or (type(t) is torch.Tensor and not (recording and t.requires_grad)) for t in tensors)


def records_now(*tensors: torch.Tensor) -> bool:
    """Whether an op may record its gradient itself (see `recorded`), which is quicker than the dispatcher: plain
    tensors, outside of torch.compile and whatever else watches, and of the transforms of torch.func."""
    watched = torch.compiler.is_compiling() or is_watched() or torch._C._are_functorch_transforms_active()
    return not watched and all(type(t) is torch.Tensor for t in tensors)
