"""Weights for tests of LPIPS: random ones, in the layouts of the public files."""

from __future__ import annotations

import torch

SHAPES = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}


def alexnet(seed: int = 0) -> dict[str, torch.Tensor]:
    """In the layout of torchvision's checkpoint, something of its classifier too."""
    g = torch.Generator().manual_seed(seed)
    state = {}
    for place, shape in SHAPES.items():
        reach = (shape[1] * shape[2] * shape[3]) ** -0.5
        state[f"features.{place}.weight"] = torch.randn(shape, generator=g) * reach * 1.5
        state[f"features.{place}.bias"] = torch.randn(shape[0], generator=g) * 0.05
    return state | {"classifier.6.bias": torch.zeros(1000)}


def heads(seed: int = 1) -> dict[str, torch.Tensor]:
    """In the layout of lpips' files."""
    g = torch.Generator().manual_seed(seed)
    return {f"lin{i}.model.1.weight": torch.rand(1, s[0], 1, 1, generator=g) for i, s in enumerate(SHAPES.values())}
