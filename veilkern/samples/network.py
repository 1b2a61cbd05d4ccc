"""The embedded face-recognition network: small, trained on synthetic people only (see train.py)."""

from __future__ import annotations

import torch
from torch import nn


class Block(nn.Module):
    """Residual block: BN, 3 x 3 convolution with stride, BN, PReLU, 3 x 3 convolution, BN, plus the shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) + self.shortcut(x)


class SampleNet(nn.Module):
    """float [N, 3, 112, 112] RGB in [-1, 1] -> embedding [N, 128], not normalised; 0.4 million parameters."""

    def __init__(self, embedding: int = 128):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.PReLU(24))
        self.body = nn.Sequential(Block(24, 32, 2), Block(32, 64, 2), Block(64, 64, 1), Block(64, 128, 2))
        self.pool = nn.Sequential(
            nn.BatchNorm2d(128), nn.Conv2d(128, 128, 7, groups=128, bias=False), nn.BatchNorm2d(128), nn.Flatten()
        )
        self.head = nn.Sequential(nn.Linear(128, embedding, bias=False), nn.BatchNorm1d(embedding))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.body(self.stem(x))))
