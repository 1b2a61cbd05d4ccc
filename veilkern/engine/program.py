"""A folded graph as it runs: forwards, keeping a bit for each activation, and backwards to the slope at the input.

Every value is dropped after its last use; backwards needs none of them, but for what torch keeps of a `call`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from veilkern.backends import serve
from veilkern.engine.convolution import Convolution
from veilkern.engine.graph import Graph, Rectify, Step

Values = dict[str, Any]
Slopes = dict[str, torch.Tensor]


def dense(tensor: torch.Tensor) -> torch.Tensor:
    """In one piece: photos in channels_last, all else row by row."""
    if tensor.ndim == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor.contiguous()


def add_to(slopes: Slopes, name: str, slope: torch.Tensor) -> None:
    """Add to the slope at a value; `slope` may be kept, and overwritten later."""
    slopes[name] = slopes[name].add_(slope) if name in slopes else slope


class Part:
    """A step that runs. forward(values, keep) gives the step's value and, where `keep`, what backwards needs of it;
    backward(kept, slope, slopes) adds to the slopes at its inputs. `slope` is the step's own from then on."""

    def __init__(self, step: Step, varying: set[str]):
        self.step, self.output = step, step.output
        self.inputs = [name for name in step.inputs if name in varying]  # those that depend on the network's input
        self.last: set[str] = set()  # values that nothing needs after this step

    def forward(self, values: Values, keep: bool) -> tuple[Any, Any]:
        raise NotImplementedError

    def backward(self, kept: Any, slope: torch.Tensor, slopes: Slopes) -> None:
        raise NotImplementedError


class Rectified:
    """A rectify, with the bias that comes before it."""

    def __init__(self, rectify: Rectify, add: torch.Tensor | None, device: torch.device, dtype: torch.dtype):
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        self.top = rectify.top
        self.slope, self.add = (None if t is None else t.to(device, exact) for t in (rectify.slope, add))
        if self.add is not None and self.add.ndim == 3:
            self.add = dense(self.add[None])[0]

    # ops.rectify_ and ops.rectify_gradient_, without their checks: a network has dozens of these in each pass.
    def forward_(self, x: torch.Tensor) -> torch.Tensor:
        bits = x.new_empty((x.shape[0], (x[:1].numel() + 7) // 8), dtype=torch.uint8)
        serve("rectify_", x, bits, self.add, self.slope, self.top, False)
        return bits

    def backward_(self, bits: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        serve("rectify_", slope, bits, None, self.slope, None, True)
        return slope


class ConvolutionPart(Part):
    def __init__(
        self,
        step: Step,
        varying: set[str],
        shape: tuple[int, ...],
        width: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(step, varying)
        self.convolution = Convolution(step, shape, width, device, dtype)
        self.plus, self.plane, self.rectified = step.plus, None, None
        add = step.bias
        if step.plane is not None:
            add = step.plane if add is None else step.plane + add.view(-1, 1, 1)
        if step.rectify is not None:
            self.rectified = Rectified(step.rectify, add, device, dtype)
        elif step.plane is not None and add is not None:
            self.plane = dense(add[None].to(device, dtype))[0]

    def forward(self, values: Values, keep: bool) -> tuple[torch.Tensor, Any]:
        plus = None if self.plus is None else values[self.plus]
        biased = self.rectified is None and self.plane is None
        y = self.convolution(values[self.step.inputs[0]], plus, biased=biased)
        if self.rectified is None:
            return y if self.plane is None else y.add_(self.plane), None
        return y, self.rectified.forward_(y)

    def backward(self, kept: Any, slope: torch.Tensor, slopes: Slopes) -> None:
        if self.rectified is not None:
            slope = self.rectified.backward_(kept, slope)
        name = self.step.inputs[0]
        slopes[name] = self.convolution.gradient(slope, slopes.pop(name, None))
        if self.plus is not None:
            add_to(slopes, self.plus, slope)


class LinearPart(Part):
    def __init__(self, step: Step, varying: set[str], device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(step, varying)
        assert step.weight is not None
        self.weight = step.weight.to(device, dtype).contiguous()
        self.bias = None if step.bias is None else step.bias.to(device, dtype)
        self.rectified = None if step.rectify is None else Rectified(step.rectify, None, device, dtype)

    def forward(self, values: Values, keep: bool) -> tuple[torch.Tensor, Any]:
        y = torch.nn.functional.linear(values[self.step.inputs[0]], self.weight, self.bias)
        return y, None if self.rectified is None else self.rectified.forward_(y)

    def backward(self, kept: Any, slope: torch.Tensor, slopes: Slopes) -> None:
        if self.rectified is not None:
            slope = self.rectified.backward_(kept, slope)
        add_to(slopes, self.step.inputs[0], slope @ self.weight)


class ScalePart(Part):
    def __init__(self, step: Step, varying: set[str], device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(step, varying)
        assert step.weight is not None and step.bias is not None
        shape = (-1, *(1,) * (len(step.shape) - 1))
        self.weight, self.bias = (t.to(device, dtype).view(shape) for t in (step.weight, step.bias))

    def forward(self, values: Values, keep: bool) -> tuple[torch.Tensor, Any]:
        return torch.addcmul(self.bias, values[self.step.inputs[0]], self.weight), None

    def backward(self, kept: Any, slope: torch.Tensor, slopes: Slopes) -> None:
        add_to(slopes, self.step.inputs[0], slope.mul_(self.weight))


class RectifyPart(Part):
    def __init__(self, step: Step, varying: set[str], device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(step, varying)
        assert step.rectify is not None
        self.rectified = Rectified(step.rectify, None, device, dtype)

    def forward(self, values: Values, keep: bool) -> tuple[torch.Tensor, Any]:
        x = values[self.step.inputs[0]]  # others may read it
        y = x.clone(memory_format=torch.channels_last if x.ndim == 4 else torch.contiguous_format)
        return y, self.rectified.forward_(y)

    def backward(self, kept: Any, slope: torch.Tensor, slopes: Slopes) -> None:
        add_to(slopes, self.step.inputs[0], self.rectified.backward_(kept, slope))


class AddPart(Part):
    def forward(self, values: Values, keep: bool) -> tuple[torch.Tensor, Any]:
        a, b = (values[name] for name in (self.step.inputs * 2)[:2])
        return a + b, (a.shape, b.shape)

    def backward(self, kept: Any, slope: torch.Tensor, slopes: Slopes) -> None:
        for turn, (name, shape) in enumerate(zip((self.step.inputs * 2)[:2], kept, strict=True)):
            if name in self.inputs:
                part = slope.clone() if turn == 0 else slope  # a slope has one owner
                add_to(slopes, name, part if shape == slope.shape else dense(part.sum_to_size(shape)))


class ConcatPart(Part):
    """sizes: channels of each input."""

    def __init__(self, step: Step, varying: set[str], sizes: list[int]):
        super().__init__(step, varying)
        self.sizes = sizes

    def forward(self, values: Values, keep: bool) -> tuple[torch.Tensor, Any]:
        return dense(torch.cat([values[name] for name in self.step.inputs], 1)), None

    def backward(self, kept: Any, slope: torch.Tensor, slopes: Slopes) -> None:
        for name, part in zip(self.step.inputs, slope.split(self.sizes, 1), strict=True):
            if name in self.inputs:
                add_to(slopes, name, dense(part))


class CallPart(Part):
    """Anything else, with torch's own gradient; in float32 where the engine's dtype has 16 bits, as its weights are."""

    def __init__(self, step: Step, varying: set[str], owner: fx.GraphModule, dtype: torch.dtype):
        super().__init__(step, varying)
        self.narrow = dtype if dtype in (torch.float16, torch.bfloat16) else None
        self.interpreter = fx.Interpreter(owner, garbage_collect_values=False)

    def _run(self, values: Values) -> Any:
        node, renamed = self.step.node, self.step.renamed
        assert node is not None
        args, kwargs = fx.node.map_arg(
            (node.args, node.kwargs), lambda n: self._wide(values[renamed.get(n.name, n.name)])
        )
        target = node.target
        if node.op == "call_method" and target == "view":  # of what lies in channels_last there may be none
            target = "reshape"
        found = getattr(self.interpreter, node.op)(target, args, kwargs)
        if not isinstance(found, torch.Tensor):
            return found
        return dense(found if self.narrow is None or not found.is_floating_point() else found.to(self.narrow))

    def _wide(self, value: Any) -> Any:
        return value.float() if isinstance(value, torch.Tensor) and value.dtype == self.narrow else value

    def forward(self, values: Values, keep: bool) -> tuple[Any, Any]:
        tensors = [n for n in self.inputs if isinstance(values[n], torch.Tensor) and values[n].is_floating_point()]
        if not (keep and tensors):
            with torch.no_grad():
                return self._run(values), None
        leaves = {name: values[name].detach().requires_grad_() for name in tensors}
        with torch.enable_grad():
            found = self._run(values | leaves)
        if not (isinstance(found, torch.Tensor) and found.requires_grad):
            return found, None
        return found.detach(), (found, leaves)

    def backward(self, kept: Any, slope: torch.Tensor, slopes: Slopes) -> None:
        if kept is None:
            return
        found, leaves = kept
        given = torch.autograd.grad(found, list(leaves.values()), slope, allow_unused=True)
        for place, (name, part) in enumerate(zip(leaves, given, strict=True)):
            if part is not None:
                part = dense(part)
                add_to(slopes, name, part.clone() if place else part)  # two of them may be the same memory


@dataclass(frozen=True)
class Description:
    """steps: how many of each kind; bits: bytes a photo that are kept for the gradient as bits; by_torch: functions
    whose gradient is torch's own, which may keep more."""

    steps: dict[str, int]
    bits: int
    by_torch: list[str]


class Program:
    """A graph on a device, in a dtype. width: photos that usually come at a time, as layouts are chosen for them."""

    def __init__(self, graph: Graph, shape: tuple[int, ...], width: int, device: torch.device, dtype: torch.dtype):
        self.source, self.result, self.dtype = graph.source, graph.result, dtype
        shapes = {graph.source: shape} | {step.output: step.shape for step in graph.steps}
        varying, self.constants, self.parts = {graph.source}, Values(), list[Part]()
        for step in graph.steps:
            part = _part(step, varying, shapes, width, device, dtype, graph.owner)
            if varying & {*step.inputs, step.plus}:
                varying.add(step.output)
                self.parts.append(part)
            else:
                self.constants[step.output] = part.forward(self.constants, False)[0]
        self._mark_last_uses()

    def describe(self) -> Description:
        """What it is made of."""
        kinds = Counter(part.step.kind for part in self.parts)
        gates = [part.step.shape for part in self.parts if part.step.rectify is not None]
        nodes = [part.step.node for part in self.parts if part.step.kind == "call"]
        names = dict.fromkeys(getattr(n.target, "__name__", str(n.target)) for n in nodes if n is not None)
        return Description(dict(kinds), sum((math.prod(s) + 7) // 8 for s in gates), list(names))

    def _mark_last_uses(self) -> None:
        seen = {self.result, *self.constants}
        for part in reversed(self.parts):
            names = {*part.step.inputs, *([part.step.plus] if part.step.plus else []), part.output}
            part.last = names - seen
            seen |= names

    def forward(self, x: torch.Tensor, keep: bool) -> tuple[torch.Tensor, list[Any]]:
        """The result for x [N, C, H, W], and what backwards needs where `keep`."""
        values, kept = {**self.constants, self.source: dense(x.to(self.dtype))}, []
        for part in self.parts:
            values[part.output], own = part.forward(values, keep)
            kept.append(own if keep else None)
            for name in part.last:
                del values[name]
        return values[self.result], kept

    def backward(self, kept: list[Any], slope: torch.Tensor) -> torch.Tensor:
        """The slope at the input, from that at the result. `kept` is emptied: there is no second time."""
        slopes = {self.result: dense(slope.to(self.dtype).clone())}
        for part in reversed(self.parts):
            own = kept.pop()
            if part.output in slopes:
                part.backward(own, slopes.pop(part.output), slopes)
        return slopes[self.source]


def _part(
    step: Step,
    varying: set[str],
    shapes: Mapping[str, tuple[int, ...]],
    width: int,
    device: torch.device,
    dtype: torch.dtype,
    owner: fx.GraphModule,
) -> Part:
    if step.kind == "convolution":
        return ConvolutionPart(step, varying, shapes[step.inputs[0]], width, device, dtype)
    if step.kind == "add":
        return AddPart(step, varying)
    if step.kind == "concat":
        return ConcatPart(step, varying, [shapes[name][0] for name in step.inputs])
    if step.kind == "call":
        return CallPart(step, varying, owner, dtype)
    kinds = {"linear": LinearPart, "scale": ScalePart, "rectify": RectifyPart}
    return kinds[step.kind](step, varying, device, dtype)
