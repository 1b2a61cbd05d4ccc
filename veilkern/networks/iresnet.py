"""IResNet (ArcFace): names and shapes of insightface's arcface_torch, so that its checkpoints load as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from veilkern.networks import layout

DEPTHS = {
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
}
WIDTHS = (64, 128, 256, 512)


class Block(nn.Module):
    """BN, conv, BN, PReLU, conv with stride, BN, plus the shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        shortcut = x if self.downsample is None else self.downsample(x)
        return y + shortcut


class IResNet(nn.Module):
    """float [N, 3, 112, 112] RGB in [-1, 1] -> embedding [N, embedding], not normalised.

    depths: blocks of the four stages. widths: their channels, and the stem has those of the first. stem_stride: 1 as
    published; 2 reads a quarter of the places, and its last map is 4 x 4 in place of 7 x 7.
    """

    def __init__(
        self,
        depths: Sequence[int],
        embedding: int = 512,
        widths: Sequence[int] = WIDTHS,
        stem_stride: int = 1,
    ):
        super().__init__()
        inputs = widths[0]
        self.conv1 = nn.Conv2d(3, inputs, 3, stem_stride, 1, bias=False)
        self.bn1, self.prelu = nn.BatchNorm2d(inputs), nn.PReLU(inputs)
        for number, (depth, width) in enumerate(zip(depths, widths, strict=True), 1):
            blocks = [Block(inputs, width, 2)] + [Block(width, width, 1) for _ in range(depth - 1)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            inputs = width
        self.bn2 = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs * layout.last_side(len(depths) + stem_stride - 1) ** 2, embedding)
        self.features = nn.BatchNorm1d(embedding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.prelu(self.bn1(self.conv1(x)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)  # type: ignore[operator]
        return self.features(self.fc(self.bn2(x).flatten(1)))


def matches(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a checkpoint has this layout."""
    return "layer1.0.bn1.weight" in state and "fc.weight" in state and "features.weight" in state


def build(state: Mapping[str, torch.Tensor]) -> tuple[str, IResNet]:
    """The network a checkpoint fits, with its name; depths, widths, stem and embedding are read from it. Only the
    published shapes have their published names: others are called by their layers and widths."""
    depths = tuple(layout.blocks(state, f"layer{n}") for n in range(1, 5))
    widths = tuple(state[f"layer{n}.0.conv1.weight"].shape[0] for n in range(1, 5))
    embedding, features = state["fc.weight"].shape
    stride = layout.stem_stride(features, widths[-1], 4)
    published = {known: name for name, known in DEPTHS.items()} if stride == 1 else {}
    name = layout.described("iresnet", depths, widths, published, WIDTHS, strict=False)
    return name, IResNet(depths, embedding, widths, stride)
