"""A face-recognition network that knows nothing but its features and the slope at its input.

Its parameters never change, so BatchNorms go into weights, and nothing is kept for their gradients: of each activation
one bit stays, of all else nothing. What torch.fx cannot follow keeps running as it is.
"""

from __future__ import annotations

import copy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from veilkern.engine.folding import folded
from veilkern.engine.graph import first_line, read
from veilkern.engine.program import Program
from veilkern.errors import ModelError
from veilkern.networks.ensemble import Ensemble
from veilkern.networks.face_model import FaceModel


class Frozen(nn.Module):
    """A module whose forward pass and input gradient are the engine's. plain: the module itself, in eval mode. size: of
    its photos. width: photos that come at a time. dtype: of the engine's activations.

    Raises ModelError, saying why, where the engine cannot take the place of the module.
    """

    def __init__(self, plain: nn.Module, size: tuple[int, int], width: int, dtype: torch.dtype):
        super().__init__()
        self.plain = plain
        first = next(plain.parameters(), torch.empty(0))
        kind = first.dtype if first.is_floating_point() else torch.float32
        example = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)).to(first.device, kind)
        graph = folded(read(plain, example))
        exact = dtype if dtype in (torch.float32, torch.float64) else torch.float32
        self.program = Program(graph, (3, *size), width, first.device, exact)
        self._compare(example)
        if dtype != exact:
            self.program = Program(graph, (3, *size), width, first.device, dtype)

    def _compare(self, example: torch.Tensor) -> None:
        """A trace follows one way through the forward: refuse where another input would take another. An activation
        near 0 may take the other side, which a slope shows."""
        for x in (example, 1 - 2 * example.flip(3)):
            theirs, ours = (_with_slope(module, x) for module in (self.plain, self))
            for name, a, b, bound in zip(("features", "slopes"), ours, theirs, (1e-4, 1e-2), strict=True):
                far = float((a - b).norm() / b.norm().clamp_min(1e-30))
                if not far <= bound:
                    raise ModelError(f"its {name} come out otherwise: {far:.1e} apart, wanted at most {bound:.0e}")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return _Pass.apply(x, self.program)  # type: ignore[no-untyped-call]
        return self.program.forward(x.detach(), False)[0]


def _with_slope(module: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        found = module(x).double()
        if not found.requires_grad:
            raise ModelError("it passes no gradient to its input")
        weights = torch.linspace(-1, 1, found.numel(), dtype=found.dtype, device=x.device).view(found.shape)
        (slope,) = torch.autograd.grad((found * weights).sum(), x)
    return found.detach(), slope


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, program: Program) -> torch.Tensor:
        found, kept = program.forward(x.detach(), True)
        ctx.program, ctx.kept, ctx.dtype = program, kept, x.dtype
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor, None]:
        if not ctx.kept:
            raise RuntimeError("the engine keeps what a backward pass needs for one time only")
        with torch.no_grad():
            return ctx.program.backward(ctx.kept, slope).to(ctx.dtype), None


_Made = tuple[tuple[Any, ...], tuple[FaceModel | None, str]]
_made: WeakKeyDictionary[FaceModel, dict[torch.dtype, _Made]] = WeakKeyDictionary()


def frozen(
    model: FaceModel, *, width: int = 16, dtype: torch.dtype = torch.float32, fingerprint: str = ""
) -> tuple[FaceModel, str]:
    """The same network by the engine, and "" or, where the engine cannot serve it, the network itself, and why.

    Of an Ensemble each member that the engine can serve is its own, and why others are not is told by name.
    width: photos that come at a time. dtype: what activations are computed in; features come out in it. fingerprint:
    the model's, where it is known already. The last one made for a model and dtype is kept as long as the model lives.
    """
    key = (fingerprint or model.fingerprint, model.device, width)
    known = _made.setdefault(model, {})
    if dtype not in known or known[dtype][0] != key:
        known[dtype] = key, _frozen(model, width, dtype)
    fast, why = known[dtype][1]
    return model if fast is None else fast, why


def _frozen(model: FaceModel, width: int, dtype: torch.dtype) -> tuple[FaceModel | None, str]:
    if isinstance(model, Ensemble):  # each member that can be, alone
        made = [_frozen(member, width, dtype) for member in model.members]
        members = [member if fast is None else fast for member, (fast, _) in zip(model.members, made, strict=True)]
        whys = [f"{member.name}: {why}" for member, (_, why) in zip(model.members, made, strict=True) if why]
        return Ensemble(members, model.weights, name=model.name), "; ".join(whys)
    try:
        module = Frozen(model.module, model.input.size, width, dtype)
    except Exception as error:  # a network may raise anything; it then runs, and fails, as it is
        return None, first_line(error)
    fast = copy.copy(model)
    fast.module = module
    return fast, ""
