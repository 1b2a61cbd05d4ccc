"""IResNet (ArcFace): names and shapes of insightface's arcface_torch, so that its checkpoints load as they are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

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
    """float [N, 3, 112, 112] RGB in [-1, 1] -> embedding [N, embedding], not normalised."""

    def __init__(self, depths: tuple[int, int, int, int], embedding: int = 512):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1, self.prelu = nn.BatchNorm2d(64), nn.PReLU(64)
        inputs = 64
        for number, (depth, width) in enumerate(zip(depths, WIDTHS, strict=True), 1):
            blocks = [Block(inputs, width, 2)] + [Block(width, width, 1) for _ in range(depth - 1)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            inputs = width
        self.bn2 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * 7 * 7, embedding)
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
    """The network a checkpoint fits, with its name; depths and embedding size are read from it."""
    found = [{key.split(".")[1] for key in state if key.startswith(f"layer{n}.")} for n in range(1, 5)]
    depths = tuple(len(numbers) for numbers in found)
    name = next((name for name, known in DEPTHS.items() if known == depths), f"iresnet{depths}")
    return name, IResNet(depths, state["fc.weight"].shape[0])  # type: ignore[arg-type]
