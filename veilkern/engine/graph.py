"""A network's forward pass as a list of steps: read by torch.fx, BatchNorm folded away, what belongs together joined.

A step computes one value from others. Kinds: convolution, linear, scale (a BatchNorm that nothing takes up, or a number
that multiplies), rectify (ReLU, ReLU6, PReLU), add, concat (channels side by side), and call, which is anything else:
torch computes it and its gradient by itself.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from veilkern.errors import ModelError


@dataclass
class Rectify:
    """y = z where 0 < z < top, else slope z, or where top is given 0 below and top above. slope float [1] or [C], None
    for 0."""

    slope: torch.Tensor | None = None
    top: float | None = None


@dataclass
class Step:
    """kind and, by kind, what it needs; inputs and output are names of values.

    convolution: weight [O, I / groups, h, w], bias [O], plane [O, H, W] (a bias of each place) or none, stride,
    padding, dilation, groups; linear: weight [O, I], bias. scale: weight and bias [C]. Then, where they could be
    joined: `rectify` of the result, or `plus`, the value that is added to it. call: the fx node.
    """

    kind: str
    output: str
    inputs: tuple[str, ...] = ()
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    plane: torch.Tensor | None = None
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1
    rectify: Rectify | None = None
    plus: str | None = None
    node: fx.Node | None = None
    renamed: dict[str, str] = field(default_factory=dict)  # of a call: values that its node knows by other names
    shape: tuple[int, ...] = field(default=())  # of the output, without the batch


@dataclass
class Graph:
    """Steps in the order of their work, from the value `source` to `result`. owner: the traced module, for calls."""

    steps: list[Step]
    source: str
    result: str
    owner: fx.GraphModule

    def users(self) -> dict[str, list[Step]]:
        """The steps that take each value."""
        found: dict[str, list[Step]] = {}
        for step in self.steps:
            for name in (*step.inputs, *([step.plus] if step.plus else [])):
                found.setdefault(name, []).append(step)
        return found


def read(module: nn.Module, example: torch.Tensor) -> Graph:
    """The graph of a module in eval mode. example: an input, whose shapes are those of all later ones but for the
    batch. ModelError where torch.fx cannot follow the module, saying why."""
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError("torch.fx cannot follow TorchScript")
    try:
        traced = fx.symbolic_trace(_Whole(module))
    except Exception as error:  # whatever a module's forward raises on proxies
        raise ModelError(f"torch.fx cannot follow its forward: {first_line(error)}") from error
    shapes = _Shapes(traced)
    with torch.no_grad():
        shapes.run(example)
    nodes = list(traced.graph.nodes)
    placeholders = [node for node in nodes if node.op == "placeholder"]
    if len(placeholders) != 1 or not isinstance(nodes[-1].args[0], fx.Node):
        raise ModelError("its forward must take one tensor and return one")
    depending = {placeholders[0].name}
    steps = []
    for node in nodes:
        if node.op in ("placeholder", "output"):
            continue
        shape = shapes.found.get(node.name, ())
        step = _step(node, traced, shape)
        step.shape = shape
        if len(step.shape) not in _RANKS.get(step.kind, (len(step.shape),)):
            step = Step("call", node.name, step.inputs, node=node, shape=step.shape)
        if depending & {n.name for n in node.all_input_nodes}:
            depending.add(node.name)
        elif step.kind != "call":
            step = Step("call", node.name, tuple(n.name for n in node.all_input_nodes), node=node, shape=step.shape)
        steps.append(step)
    return Graph(steps, placeholders[0].name, nodes[-1].args[0].name, traced)


# Sizes of a value without the batch for which a kind is the engine's own: [C], and [C, H, W] in channels_last.
_RANKS = {"linear": (1,), "scale": (1, 3), "rectify": (1, 3), "convolution": (3,), "concat": (1, 3)}


class _Whole(nn.Module):
    """A network as a part: of the module that it is given torch.fx follows the class's forward, and would pass over one
    that was set on the network itself, and its hooks."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.training = network, network.training

    def forward(self, x: torch.Tensor) -> Any:
        return self.network(x)


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class _Shapes(fx.Interpreter):
    """Runs the module once, and keeps the shapes."""

    def __init__(self, traced: fx.GraphModule):
        super().__init__(traced)
        self.found: dict[str, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.found[n.name] = tuple(value.shape[1:])
        elif isinstance(value, (tuple, list)) and any(isinstance(part, torch.Tensor) for part in value):
            raise ModelError(f"{n.target} gives several tensors at once")
        return value


def _step(node: fx.Node, traced: fx.GraphModule, shape: tuple[int, ...]) -> Step:
    inputs = tuple(n.name for n in node.all_input_nodes)
    plain = Step("call", node.name, inputs, node=node)
    if node.op == "call_module":
        return _of_module(traced.get_submodule(str(node.target)), plain)
    if node.op == "call_function" and node.target in (operator.add, torch.add, operator.iadd):
        two = len(node.args) == 2 and all(isinstance(a, fx.Node) for a in node.args) and not node.kwargs
        return replace(plain, kind="add") if two else plain
    if node.op == "call_function" and node.target in (torch.cat, torch.concat):
        return _concat(node, plain, shape)
    if (number := _factor(node)) is not None and shape:
        weight = torch.full(shape[:1], number, dtype=torch.float64)
        return replace(plain, kind="scale", weight=weight, bias=torch.zeros_like(weight))
    function = node.target if node.op == "call_function" else {"relu": F.relu}.get(str(node.target))
    return replace(plain, kind="rectify", rectify=Rectify(top=_TOPS[function])) if function in _TOPS else plain


def _concat(node: fx.Node, plain: Step, shape: tuple[int, ...]) -> Step:
    """Values side by side along their channels, the first dimension behind the batch."""
    parts = node.args[0] if node.args else ()
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if not isinstance(parts, (tuple, list)) or not all(isinstance(part, fx.Node) for part in parts):
        return plain
    if dim not in (1, -len(shape)) or set(node.kwargs) - {"dim"}:
        return plain
    return replace(plain, kind="concat", inputs=tuple(part.name for part in parts if isinstance(part, fx.Node)))


def _factor(node: fx.Node) -> float | None:
    """The number that one value is multiplied by, if that is what the node does."""
    by_function = node.op == "call_function" and node.target in (operator.mul, torch.mul)
    if not by_function and (node.op, node.target) != ("call_method", "mul"):
        return None
    numbers = [a for a in node.args if isinstance(a, (int, float))]
    alone = len(node.args) == 2 and len(numbers) == 1 and not node.kwargs and len(node.all_input_nodes) == 1
    return float(numbers[0]) if alone else None


_TOPS: dict[Any, float | None] = {F.relu: None, torch.relu: None, F.relu6: 6.0, nn.ReLU: None, nn.ReLU6: 6.0}


def _of_module(layer: nn.Module, plain: Step) -> Step:
    kind = type(layer)
    if len(plain.inputs) != 1:
        return plain
    if (
        isinstance(layer, nn.Conv2d)
        and kind is nn.Conv2d
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    ):
        return replace(
            plain, kind="convolution", weight=layer.weight.detach(), bias=_detached(layer.bias), stride=layer.stride,
            padding=tuple(map(int, layer.padding)), dilation=layer.dilation, groups=layer.groups,
        )  # fmt: skip
    if isinstance(layer, nn.Linear) and kind is nn.Linear:
        return replace(plain, kind="linear", weight=layer.weight.detach(), bias=_detached(layer.bias))
    if (
        isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm1d))
        and kind in (nn.BatchNorm2d, nn.BatchNorm1d)
        and layer.running_mean is not None
        and not layer.training
    ):
        weight, bias = scale_of(layer)
        return replace(plain, kind="scale", weight=weight, bias=bias)
    if kind in _TOPS:
        return replace(plain, kind="rectify", rectify=Rectify(top=_TOPS[kind]))
    if isinstance(layer, nn.PReLU) and kind is nn.PReLU:
        return replace(plain, kind="rectify", rectify=Rectify(slope=layer.weight.detach()))
    if kind is nn.Identity or (kind in (nn.Dropout, nn.Dropout1d, nn.Dropout2d) and not layer.training):
        return replace(plain, kind="same")
    return plain


def _detached(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.detach()


def scale_of(norm: nn.BatchNorm2d | nn.BatchNorm1d) -> tuple[torch.Tensor, torch.Tensor]:
    """A BatchNorm in eval mode as y = weight x + bias, in float64: it is rounded when it is part of the weights."""
    mean, variance = norm.running_mean.double(), norm.running_var.double()  # type: ignore[union-attr]
    weight = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        weight = weight * norm.weight.detach().double()
    return weight, -mean * weight + (0 if norm.bias is None else norm.bias.detach().double())
