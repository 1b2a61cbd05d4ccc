"""What is done to a graph before it runs: BatchNorms go into weights, activations and sums into what comes before them.

A BatchNorm in front of a convolution with a border of zeros: its factor goes into the weights. Its sum may not become a
bias, since it is missing in the border; it becomes a bias of each place, the convolution of a constant image.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F

from veilkern.engine.graph import Graph, Step


def folded(graph: Graph) -> Graph:
    """The graph with as few steps as possible; it is changed."""
    _skip_same(graph)
    _scales_behind(graph)
    _scales_before(graph)
    _rectify_after(graph)
    _add_after(graph)
    _rectify_after(graph)  # of what is a sum by now
    return graph


def _rename(graph: Graph, old: str, new: str) -> None:
    for step in graph.steps:
        step.inputs = tuple(new if name == old else name for name in step.inputs)
        step.plus = new if step.plus == old else step.plus
        if step.kind == "call":
            step.renamed = {name: new if now == old else now for name, now in step.renamed.items()} | {old: new}
    graph.result = new if graph.result == old else graph.result


def _skip_same(graph: Graph) -> None:
    for step in [s for s in graph.steps if s.kind == "same"]:
        graph.steps.remove(step)
        _rename(graph, step.output, step.inputs[0])


def _makers(graph: Graph) -> dict[str, Step]:
    return {step.output: step for step in graph.steps}


def _only_user(graph: Graph, name: str, users: dict[str, list[Step]]) -> bool:
    return len(users.get(name, ())) == 1 and graph.result != name


def _joinable(graph: Graph, kind: str) -> Iterator[tuple[Step, Step]]:
    """Steps of a kind, each with the convolution or linear step whose value it alone takes. It is then part of that."""
    for step in [s for s in graph.steps if s.kind == kind]:
        before = _makers(graph).get(step.inputs[0])
        if before is None or before.kind not in ("convolution", "linear") or before.rectify is not None:
            continue
        if _only_user(graph, before.output, graph.users()):
            yield before, step
            graph.steps.remove(step)
            _rename(graph, step.output, before.output)


def _scales_behind(graph: Graph) -> None:
    """y = s (w x + b) + t."""
    for before, step in _joinable(graph, "scale"):
        assert before.weight is not None and step.weight is not None and step.bias is not None
        around = step.weight.view(-1, *(1,) * (before.weight.ndim - 1))
        before.weight = before.weight.double() * around
        if before.bias is not None or bool(step.bias.any()):  # a number that multiplies has no sum
            before.bias = step.bias if before.bias is None else before.bias.double() * step.weight + step.bias


def _scales_before(graph: Graph) -> None:
    """y = w (s x + t) + b, where every user is a convolution."""
    for step in [s for s in graph.steps if s.kind == "scale"]:
        users = graph.users().get(step.output, [])
        fits = [u.kind == "convolution" and u.inputs == (step.output,) and u.plus != step.output for u in users]
        if not users or not all(fits) or graph.result == step.output:
            continue
        for user in users:
            _take_up(user, step)
        graph.steps.remove(step)
        _rename(graph, step.output, step.inputs[0])


def _take_up(step: Step, scale: Step) -> None:
    assert step.weight is not None and scale.weight is not None and scale.bias is not None
    groups, weight = step.groups, step.weight.double()
    out, of_group = weight.shape[:2]
    here = scale.weight.view(groups, 1, of_group, 1, 1)
    constant = scale.bias.view(1, -1, 1, 1).expand(1, -1, *scale.shape[1:]).contiguous()
    step.weight = (weight.view(groups, out // groups, of_group, *weight.shape[2:]) * here).view_as(weight)
    if not bool(scale.bias.any()):
        return
    plane = F.conv2d(constant, weight, None, step.stride, step.padding, step.dilation, groups)[0]
    if any(step.padding):
        step.plane = plane
    else:
        middle = plane[:, 0, 0]
        step.bias = middle if step.bias is None else step.bias.double() + middle


def _rectify_after(graph: Graph) -> None:
    for before, step in _joinable(graph, "rectify"):
        before.rectify = step.rectify


def _add_after(graph: Graph) -> None:
    """A sum goes into the later of the convolutions that it adds."""
    for step in [s for s in graph.steps if s.kind == "add"]:
        makers, users, order = _makers(graph), graph.users(), {id(s): i for i, s in enumerate(graph.steps)}
        made = sorted((makers[n] for n in step.inputs if n in makers), key=lambda s: order[id(s)])
        if len(step.inputs) != 2 or not made or {m.shape for m in made} != {step.shape}:  # x + x; shapes that spread
            continue
        last = made[-1]
        plain = last.kind == "convolution" and last.rectify is None and last.plus is None and last.plane is None
        if not plain or not _only_user(graph, last.output, users):
            continue
        last.plus = next(name for name in step.inputs if name != last.output)
        graph.steps.remove(step)
        _rename(graph, step.output, last.output)
