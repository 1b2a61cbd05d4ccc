"""IR-50 and IR-SE-50 (ArcFace): names and shapes of face.evoLVe and InsightFace_Pytorch, whose checkpoints load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from veilkern.networks import layout

# Layers of the published networks: blocks of each stage.
DEPTHS = {50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 152: (3, 8, 36, 3)}
WIDTHS = (64, 128, 256, 512)


def blocks_of(depths: Sequence[int], widths: Sequence[int] = WIDTHS) -> list[tuple[int, int, int]]:
    """(inputs, outputs, stride) of each block."""
    blocks, inputs = [], widths[0]
    for depth, width in zip(depths, widths, strict=True):
        blocks += [(inputs, width, 2)] + [(width, width, 1)] * (depth - 1)
        inputs = width
    return blocks


class SqueezeExcite(nn.Module):
    """Channel weights from the channel means."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


class Block(nn.Module):
    """BN, conv, PReLU, conv with stride, BN, perhaps squeeze-and-excitation, plus the shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, excite: bool, reduction: int = 16):
        super().__init__()
        self.shortcut_layer = (
            nn.MaxPool2d(1, stride)
            if inputs == outputs
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )
        layers = [
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.res_layer = nn.Sequential(*layers, *([SqueezeExcite(outputs, reduction)] if excite else []))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class IR(nn.Module):
    """float [N, 3, 112, 112] RGB in [-1, 1] -> embedding [N, embedding], not normalised.

    depths: blocks of the four stages. widths: their channels, each stage's its own, and the stem has those of the
    first. excite: with squeeze-and-excitation through a `reduction`-th of the channels. stem_stride: 1 as published; 2
    reads a quarter of the places, and its last map is 4 x 4 in place of 7 x 7. dropout: of the last map, in training.
    """

    def __init__(
        self,
        depths: Sequence[int] = DEPTHS[50],
        excite: bool = False,
        embedding: int = 512,
        *,
        widths: Sequence[int] = WIDTHS,
        reduction: int = 16,
        stem_stride: int = 1,
        dropout: float = 0.5,
    ):
        super().__init__()
        first, last = widths[0], widths[-1]
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, first, 3, stem_stride, 1, bias=False), nn.BatchNorm2d(first), nn.PReLU(first)
        )
        self.body = nn.Sequential(*[Block(*block, excite, reduction) for block in blocks_of(depths, widths)])
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(last),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(last * layout.last_side(len(depths) + stem_stride - 1) ** 2, embedding),
            nn.BatchNorm1d(embedding),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output_layer(self.body(self.input_layer(x)))


def matches(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a checkpoint has this layout."""
    return "input_layer.0.weight" in state and "body.0.res_layer.0.weight" in state and "output_layer.3.weight" in state


def build(state: Mapping[str, torch.Tensor]) -> tuple[str, IR]:
    """The network a checkpoint fits, with its name; all is read from its shapes. Only the published shapes have their
    published names: others are called by their layers and widths."""
    outputs = [state[f"body.{n}.res_layer.1.weight"].shape[0] for n in range(layout.count(state, "body."))]
    widths, depths = _stages(outputs)
    excite = "body.0.res_layer.5.fc1.weight" in state
    reduction = widths[0] // state["body.0.res_layer.5.fc1.weight"].shape[0] if excite else 16
    embedding, features = state["output_layer.3.weight"].shape
    stride = layout.stem_stride(features, widths[-1], 4)
    kind = "ir_se" if excite else "ir"
    published = {known: f"{kind}{n}" for n, known in DEPTHS.items()} if stride == 1 and reduction == 16 else {}
    name = layout.described(kind, depths, widths, published, WIDTHS)
    net = IR(depths, excite, embedding, widths=widths, reduction=reduction, stem_stride=stride)
    return name, net


def _stages(outputs: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Width and depth of each stage, from the channels of each block. ValueError unless there are four widths."""
    widths = tuple(dict.fromkeys(outputs))
    depths = tuple(outputs.count(width) for width in widths)
    if len(widths) != 4 or list(outputs) != [w for w, depth in zip(widths, depths, strict=True) for _ in range(depth)]:
        raise ValueError(f"blocks of {list(outputs)} channels, wanted four widths one after the other")
    return widths, depths
