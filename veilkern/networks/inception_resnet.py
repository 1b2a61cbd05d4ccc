"""Inception-ResNet-v1 (Szegedy et al. 2017, as FaceNet has it): names and shapes of facenet-pytorch, whose public
checkpoints (vggface2, casia-webface) load as they are; their classifier, `logits`, is dropped.

Convolutions to the end of the last map and an average over it, so photos of other sizes than 160 x 160 fit too: of
112 x 112, the last map is 2 x 2 in place of 3 x 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from veilkern.networks import layout

DEPTHS = (5, 10, 5)
UNIT = 16  # of which all widths are multiples, as published
PUBLISHED = {"size": 160, "mean": (127.5 / 255,) * 3, "std": (128 / 255,) * 3}  # (255 x - 127.5) / 128


class Conv(nn.Module):
    """Convolution, BN and ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.bn(self.conv(x)))


class Branches(nn.Module):
    """branch0, branch1 .. of one input, their outputs side by side."""

    def __init__(self, *branches: nn.Module):
        super().__init__()
        self.names = [f"branch{number}" for number in range(len(branches))]
        for name, branch in zip(self.names, branches, strict=True):
            self.add_module(name, branch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.get_submodule(name)(x) for name in self.names], 1)


class Residual(Branches):
    """y = relu(x + scale (1 x 1 convolution of the branches)); the ReLU unless it is the last of all."""

    def __init__(self, width: int, inside: int, scale: float, *branches: nn.Module, last: bool = False):
        super().__init__(*branches)
        self.conv2d = nn.Conv2d(inside, width, 1)
        self.scale = scale
        self.relu = nn.Identity() if last else nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.conv2d(super().forward(x)) * self.scale + x)


def _block35(u: int) -> Residual:
    w, h = 16 * u, 2 * u
    second = nn.Sequential(Conv(w, h), Conv(h, h, 3, 1, 1))
    third = nn.Sequential(Conv(w, h), Conv(h, h, 3, 1, 1), Conv(h, h, 3, 1, 1))
    return Residual(w, 3 * h, 0.17, Conv(w, h), second, third)


def _crossed(w: int, h: int, side: int, scale: float, *, last: bool = False) -> Residual:
    """A block whose second branch goes along rows, then along columns."""
    along = Conv(h, h, (1, side), 1, (0, side // 2)), Conv(h, h, (side, 1), 1, (side // 2, 0))
    return Residual(w, 2 * h, scale, Conv(w, h), nn.Sequential(Conv(w, h), *along), last=last)


def _mixed_6a(u: int) -> Branches:
    w = 16 * u
    second = nn.Sequential(Conv(w, 12 * u), Conv(12 * u, 12 * u, 3, 1, 1), Conv(12 * u, 16 * u, 3, 2))
    return Branches(Conv(w, 24 * u, 3, 2), second, nn.MaxPool2d(3, 2))


def _mixed_7a(u: int) -> Branches:
    w, h = 56 * u, 16 * u
    return Branches(
        nn.Sequential(Conv(w, h), Conv(h, 24 * u, 3, 2)),
        nn.Sequential(Conv(w, h), Conv(h, h, 3, 2)),
        nn.Sequential(Conv(w, h), Conv(h, h, 3, 1, 1), Conv(h, h, 3, 2)),
        nn.MaxPool2d(3, 2),
    )


class InceptionResNet(nn.Module):
    """float [N, 3, 160, 160] RGB, (255 x - 127.5) / 128 -> embedding [N, embedding], not normalised.

    depths: blocks of the three repeated stages. unit: of which all widths are multiples. dropout: of the average, in
    training.
    """

    def __init__(self, depths: Sequence[int] = DEPTHS, embedding: int = 512, unit: int = UNIT, *, dropout: float = 0.6):
        super().__init__()
        first, second, third = depths
        u = unit
        self.conv2d_1a = Conv(3, 2 * u, 3, 2)
        self.conv2d_2a = Conv(2 * u, 2 * u, 3)
        self.conv2d_2b = Conv(2 * u, 4 * u, 3, 1, 1)
        self.maxpool_3a = nn.MaxPool2d(3, 2)
        self.conv2d_3b = Conv(4 * u, 5 * u)
        self.conv2d_4a = Conv(5 * u, 12 * u, 3)
        self.conv2d_4b = Conv(12 * u, 16 * u, 3, 2)
        self.repeat_1 = nn.Sequential(*[_block35(u) for _ in range(first)])
        self.mixed_6a = _mixed_6a(u)
        self.repeat_2 = nn.Sequential(*[_crossed(56 * u, 8 * u, 7, 0.10) for _ in range(second)])
        self.mixed_7a = _mixed_7a(u)
        self.repeat_3 = nn.Sequential(*[_crossed(112 * u, 12 * u, 3, 0.20) for _ in range(third)])
        self.block8 = _crossed(112 * u, 12 * u, 3, 1.0, last=True)
        self.avgpool_1a = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.last_linear = nn.Linear(112 * u, embedding, bias=False)
        self.last_bn = nn.BatchNorm1d(embedding, eps=0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool_3a(self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x))))
        x = self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(x)))
        x = self.repeat_2(self.mixed_6a(self.repeat_1(x)))
        x = self.block8(self.repeat_3(self.mixed_7a(x)))
        x = self.dropout(self.avgpool_1a(x).flatten(1))
        return self.last_bn(self.last_linear(x))


def matches(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a checkpoint has this layout."""
    return "conv2d_1a.conv.weight" in state and "mixed_6a.branch0.conv.weight" in state and "last_bn.weight" in state


def rename(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The checkpoint without its classifier."""
    return {key: value for key, value in state.items() if key not in ("logits.weight", "logits.bias")}


def input_of(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """FaceModel's keywords for it: 160 x 160, as published; of a narrower one, 112 x 112 as `make` says."""
    return PUBLISHED if state["conv2d_1a.conv.weight"].shape[0] == 2 * UNIT else PUBLISHED | {"size": layout.SIDE}


def build(state: Mapping[str, torch.Tensor]) -> tuple[str, InceptionResNet]:
    """The network a checkpoint fits, with its name; depths, widths and embedding are read from it."""
    depths = tuple(layout.blocks(state, f"repeat_{number}") for number in (1, 2, 3))
    unit = state["conv2d_1a.conv.weight"].shape[0] // 2
    embedding = state["last_linear.weight"].shape[0]
    if unit == UNIT and depths != DEPTHS:  # a checkpoint without its last blocks
        raise ValueError(f"stages of {depths} blocks, wanted {DEPTHS}")
    blocks = " ".join(map(str, depths))
    name = "inception_resnet_v1" + ("" if unit == UNIT else f" ({blocks} blocks, {unit} of {UNIT} parts of the widths)")
    return name, InceptionResNet(depths, embedding, unit)
