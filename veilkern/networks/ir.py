"""IR-50 and IR-SE-50 (ArcFace): names and shapes of face.evoLVe and InsightFace_Pytorch, whose checkpoints load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

# Blocks of 50 layers: (inputs, outputs, stride).
DEPTHS = {50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 152: (3, 8, 36, 3)}


def blocks_of(depths: Sequence[int]) -> list[tuple[int, int, int]]:
    """(inputs, outputs, stride) of each block."""
    blocks, inputs = [], 64
    for depth, width in zip(depths, (64, 128, 256, 512), strict=True):
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

    def __init__(self, inputs: int, outputs: int, stride: int, excite: bool):
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
        self.res_layer = nn.Sequential(*layers, *([SqueezeExcite(outputs)] if excite else []))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class IR(nn.Module):
    """float [N, 3, 112, 112] RGB in [-1, 1] -> embedding [N, embedding], not normalised."""

    def __init__(self, depths: Sequence[int] = DEPTHS[50], excite: bool = False, embedding: int = 512):
        super().__init__()
        self.input_layer = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        self.body = nn.Sequential(*[Block(*block, excite) for block in blocks_of(depths)])
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512),
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(512 * 7 * 7, embedding),
            nn.BatchNorm1d(embedding),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output_layer(self.body(self.input_layer(x)))


def matches(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a checkpoint has this layout."""
    return "input_layer.0.weight" in state and "body.0.res_layer.0.weight" in state and "output_layer.3.weight" in state


def build(state: Mapping[str, torch.Tensor]) -> tuple[str, IR]:
    """The network a checkpoint fits, with its name."""
    count = len({key.split(".")[1] for key in state if key.startswith("body.")})
    layers = next((n for n, depths in DEPTHS.items() if sum(depths) == count), None)
    if layers is None:
        raise ValueError(
            f"{count} blocks, wanted {', '.join(str(sum(d)) for d in DEPTHS.values())} (50, 100, 152 layers)"
        )
    excite = "body.0.res_layer.5.fc1.weight" in state
    name = f"ir_se{layers}" if excite else f"ir{layers}"
    return name, IR(DEPTHS[layers], excite, state["output_layer.3.weight"].shape[0])
