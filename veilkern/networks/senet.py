"""SE-ResNet-50 (Hu et al. 2018): bottlenecks with squeeze-and-excitation. Three kinds of checkpoints load:

- VGGFace2's own for PyTorch (`senet50_128`, `senet50_256`, `senet50_ft`; names such as conv2_1_1x1_reduce), RGB;
- cydonia999's VGGFace2-pytorch (names such as layer1.0.conv4), the names used here, BGR. These are published as pickled
  arrays: save the same names and arrays as safetensors first;
- ours, which end in a linear layer and BN: 112 x 112 RGB in [-1, 1].

The classifiers (`fc`, `classifier`) are dropped; without `feat_extract`, the average over the last map is the feature.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from veilkern.networks import layout

DEPTHS = {"se_resnet50": (3, 4, 6, 3)}
WIDTHS = (64, 128, 256, 512)  # inside the bottlenecks
GROWTH = 4  # channels behind a bottleneck for each inside
_MEAN = (131.0912, 103.8827, 91.4953)  # of VGGFace2, red, green, blue, of 255
VGGFACE2 = {"size": 224, "mean": _MEAN, "value_range": 255.0}


class Bottleneck(nn.Module):
    """1 x 1 with stride, 3 x 3, 1 x 1; channel weights from the channel means; plus the shortcut; ReLU."""

    def __init__(self, inputs: int, width: int, stride: int, first: bool, reduction: int = 16):
        super().__init__()
        outputs, squeezed = GROWTH * width, GROWTH * width // reduction
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv4, self.conv5 = nn.Conv2d(outputs, squeezed, 1), nn.Conv2d(squeezed, outputs, 1)
        self.relu, self.sigmoid = nn.ReLU(), nn.Sigmoid()
        self.downsample: nn.Module | None = None
        if first:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))
        gate = self.sigmoid(self.conv5(self.relu(self.conv4(y.mean((2, 3), keepdim=True)))))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(gate * y + shortcut)


class SEResNet(nn.Module):
    """float [N, 3, H, W] -> embedding [N, embedding], or the average over the last map, [N, 4 widths[-1]]; not
    normalised.

    depths, widths: blocks of the four stages and the channels inside them; the stem has those of the first. embedding:
    None for none. normalised: with BN behind it. reduction: of the channels in the squeeze.
    """

    def __init__(
        self,
        depths: Sequence[int] = DEPTHS["se_resnet50"],
        embedding: int | None = 512,
        widths: Sequence[int] = WIDTHS,
        *,
        normalised: bool = True,
        reduction: int = 16,
    ):
        super().__init__()
        inputs = widths[0]
        self.conv1 = nn.Conv2d(3, inputs, 7, 2, 3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(inputs), nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
        for number, (depth, width) in enumerate(zip(depths, widths, strict=True), 1):
            blocks = []
            for place in range(depth):
                stride = 2 if place == 0 and number > 1 else 1
                blocks.append(Bottleneck(inputs, width, stride, place == 0, reduction))
                inputs = GROWTH * width
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.feat_extract = nn.Conv2d(inputs, embedding, 1, bias=False) if embedding else nn.Identity()
        self.feat_bn = nn.BatchNorm1d(embedding) if embedding and normalised else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)  # type: ignore[operator]
        return self.feat_bn(self.feat_extract(self.avgpool(x)).flatten(1))


_PARTS = {"1x1_reduce": 1, "3x3": 2, "1x1_increase": 3, "1x1_down": 4, "1x1_up": 5}


def rename(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A checkpoint in the names used here, without its classifier. ValueError where ours ends without its BatchNorm: it
    would be taken for one of VGGFace2's, which read photos in another way."""
    if "conv1.weight" in state and "feat_extract.weight" in state and "feat_bn.weight" not in state:
        raise ValueError("no feat_bn: the file is not whole")
    found = {_renamed(key): value for key, value in state.items()}
    return {key: value for key, value in found.items() if key.partition(".")[0] not in ("fc", "classifier")}


def _renamed(key: str) -> str:
    if match := re.fullmatch(r"conv1_7x7_s2(_bn)?\.(\w+)", key):
        return f"{'bn1' if match[1] else 'conv1'}.{match[2]}"
    if match := re.fullmatch(r"conv([2-5])_(\d+)_1x1_proj(_bn)?\.(\w+)", key):
        return f"layer{int(match[1]) - 1}.{int(match[2]) - 1}.downsample.{1 if match[3] else 0}.{match[4]}"
    if match := re.fullmatch(rf"conv([2-5])_(\d+)_({'|'.join(_PARTS)})(_bn)?\.(\w+)", key):
        part = f"{'bn' if match[4] else 'conv'}{_PARTS[match[3]]}"
        return f"layer{int(match[1]) - 1}.{int(match[2]) - 1}.{part}.{match[5]}"
    return key


def matches(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a checkpoint has one of the layouts."""
    ours = "layer1.0.conv4.weight" in state and "layer1.0.conv5.weight" in state
    return ours or ("conv1_7x7_s2.weight" in state and "conv2_1_1x1_down.weight" in state)


def input_of(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """FaceModel's keywords for a checkpoint (not renamed): of VGGFace2 224 x 224 in 0..255 less its mean colour."""
    if "conv1_7x7_s2.weight" in state:
        return VGGFACE2
    return layout.SIGNED if "feat_bn.weight" in state else VGGFACE2 | {"mean": _MEAN[::-1], "bgr": True}


def build(state: Mapping[str, torch.Tensor]) -> tuple[str, SEResNet]:
    """The network a checkpoint (renamed) fits, with its name; all is read from its shapes."""
    depths = tuple(layout.blocks(state, f"layer{n}") for n in range(1, 5))
    widths = tuple(state[f"layer{n}.0.conv1.weight"].shape[0] for n in range(1, 5))
    squeezed, squeezed_from = state["layer1.0.conv4.weight"].shape[:2]
    reduction = squeezed_from // squeezed
    embedding = state["feat_extract.weight"].shape[0] if "feat_extract.weight" in state else None
    published = {known: name for name, known in DEPTHS.items()} if reduction == 16 else {}
    name = layout.described("se_resnet", depths, widths, published, WIDTHS, convolutions=3)
    normalised = "feat_bn.weight" in state
    return name, SEResNet(depths, embedding, widths, normalised=normalised, reduction=reduction)
