"""MobileFaceNet: names of InsightFace_Pytorch; checkpoints of arcface_torch's mbf and of bubbliiiing's arcface-pytorch
are renamed to them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from veilkern.networks import layout


class Conv(nn.Module):
    """Convolution, BN and, unless linear, PReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, linear: bool = False
    ):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, 1 if kernel == 3 else 0, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.prelu = nn.Identity() if linear else nn.PReLU(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.prelu(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """Pointwise to `middle` channels, depthwise with stride, pointwise back; with a shortcut at stride 1."""

    def __init__(self, inputs: int, middle: int, outputs: int, stride: int):
        super().__init__()
        self.conv = Conv(inputs, middle)
        self.conv_dw = Conv(middle, middle, 3, stride, middle)
        self.project = Conv(middle, outputs, linear=True)
        self.residual = stride == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.project(self.conv_dw(self.conv(x)))
        return x + y if self.residual else y


class Stage(nn.Module):
    """Bottlenecks in a row (`model`, as the checkpoints call it)."""

    def __init__(self, width: int, middle: int, depth: int):
        super().__init__()
        self.model = nn.Sequential(*[Bottleneck(width, middle, width, 1) for _ in range(depth)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


@dataclass(frozen=True)
class Shape:
    """What differs between the published networks. stem: blocks of the second layer, 0: one depthwise convolution.
    unit: half of the channels inside the first blocks, by which those inside all others go; 64 as published."""

    width: int = 64
    depths: tuple[int, int, int] = (4, 6, 2)
    stem: int = 0
    embedding: int = 512
    unit: int = 64


class MobileFaceNet(nn.Module):
    """float [N, 3, 112, 112] RGB in [-1, 1] -> embedding [N, embedding], not normalised."""

    def __init__(self, shape: Shape = Shape()):
        super().__init__()
        w, u = shape.width, shape.unit
        self.conv1 = Conv(3, w, 3, 2)
        if shape.stem:
            self.conv2 = Stage(w, 2 * u, shape.stem)
        else:
            self.conv2_dw = Conv(w, w, 3, 1, u)
        self.conv_23, self.conv_3 = Bottleneck(w, 2 * u, w, 2), Stage(w, 2 * u, shape.depths[0])
        self.conv_34, self.conv_4 = Bottleneck(w, 4 * u, 2 * w, 2), Stage(2 * w, 4 * u, shape.depths[1])
        self.conv_45, self.conv_5 = Bottleneck(2 * w, 8 * u, 2 * w, 2), Stage(2 * w, 4 * u, shape.depths[2])
        self.conv_6_sep = Conv(2 * w, 8 * u)
        self.conv_6_dw = Conv(8 * u, 8 * u, 7, groups=8 * u, linear=True)
        self.linear = nn.Linear(8 * u, shape.embedding, bias=False)
        self.bn = nn.BatchNorm1d(shape.embedding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        x = self.conv2(x) if hasattr(self, "conv2") else self.conv2_dw(x)
        x = self.conv_5(self.conv_45(self.conv_4(self.conv_34(self.conv_3(self.conv_23(x))))))
        return self.bn(self.linear(self.conv_6_dw(self.conv_6_sep(x)).flatten(1)))


_PARTS, _LAYERS = ("conv", "conv_dw", "project"), ("conv", "bn", "prelu")
_PLACES = {"2": "conv_23", "3": "conv_3", "4": "conv_34", "5": "conv_4", "6": "conv_45", "7": "conv_5"}


_OTHERS = {  # bubbliiiing's names behind the last block
    "sep": "conv_6_sep.conv",
    "sep_bn": "conv_6_sep.bn",
    "prelu": "conv_6_sep.prelu",
    "GDC_dw": "conv_6_dw.conv",
    "GDC_bn": "conv_6_dw.bn",
    "features": "linear",
    "last_bn": "bn",
}


def rename(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A checkpoint of arcface_torch's mbf, or of bubbliiiing's, in the names used here; any other as it is."""
    if "GDC_dw.weight" in state:
        places = {key: key.partition(".") for key in state}
        found = {f"{_OTHERS.get(place, place)}.{leaf}": state[key] for key, (place, _, leaf) in places.items()}
        if "linear.weight" in found:  # there a convolution of 1 x 1
            found["linear.weight"] = found["linear.weight"].flatten(1)
        return found
    if "features.layers.2.weight" not in state:
        return dict(state)
    return {_renamed(key): value for key, value in state.items()}


def _renamed(key: str) -> str:
    if match := re.fullmatch(r"layers\.([0-7])\.layers\.(\d+)\.layers\.(\d)\.layers\.(\d)\.(\w+)", key):
        place, block, part, layer, leaf = match.groups()
        return f"{_PLACES.get(place, 'conv2')}.model.{block}.{_PARTS[int(part)]}.{_LAYERS[int(layer)]}.{leaf}"
    if match := re.fullmatch(r"layers\.([246])\.layers\.(\d)\.layers\.(\d)\.(\w+)", key):
        place, part, layer, leaf = match.groups()
        return f"{_PLACES[place]}.{_PARTS[int(part)]}.{_LAYERS[int(layer)]}.{leaf}"
    if match := re.fullmatch(r"(layers\.0|layers\.1|conv_sep|features\.layers\.0)\.layers\.(\d)\.(\w+)", key):
        place, layer, leaf = match.groups()
        names = {
            "layers.0": "conv1",
            "layers.1": "conv2_dw",
            "conv_sep": "conv_6_sep",
            "features.layers.0": "conv_6_dw",
        }
        return f"{names[place]}.{_LAYERS[int(layer)]}.{leaf}"
    return key.replace("features.layers.2.", "linear.").replace("features.layers.3.", "bn.")


def matches(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a checkpoint has one of the three layouts."""
    marks = ("conv_6_dw.conv.weight", "features.layers.0.layers.0.weight", "GDC_dw.weight")
    return any(mark in state for mark in marks)


def build(state: Mapping[str, torch.Tensor]) -> tuple[str, MobileFaceNet]:
    """The network that a checkpoint (renamed) fits, with its name; all is read from its shapes. A narrower network
    than the published ones is called by its widths."""
    d3, d4, d5 = (layout.blocks(state, f"{stage}.model") for stage in ("conv_3", "conv_4", "conv_5"))
    stem = layout.count(state, "conv2.model.")
    width, unit = state["conv1.conv.weight"].shape[0], state["conv_6_sep.conv.weight"].shape[0] // 8
    shape = Shape(width, (d3, d4, d5), stem, state["linear.weight"].shape[0], unit)
    name = "mobilefacenet" if unit == Shape.unit else f"mobilefacenet (widths {width} to {8 * unit})"
    return name, MobileFaceNet(shape)
