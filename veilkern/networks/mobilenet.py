"""MobileNet (Howard et al. 2017) for faces of 112 x 112: names and shapes of bubbliiiing's arcface-pytorch
(`mobilenetv1`), whose public checkpoint loads as it is; its classifier, `head`, is dropped.

Against the paper's network the first convolution has no stride, so that the last map is 7 x 7, and in place of an
average over it come a 1 x 1 convolution to fewer channels and a linear layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from veilkern.networks import layout

# Channels behind each depthwise separable block, by stage. Where they grow, but for the first, it has a stride of 2.
WIDTHS = ((64, 128, 128, 256, 256), (512,) * 6, (1024, 1024))
STEM, REDUCED = 32, 512


def separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Depthwise 3 x 3 convolution with stride, then pointwise; BN and ReLU6 behind each."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU6(),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


def strides(stem: int, widths: Sequence[Sequence[int]]) -> list[list[int]]:
    """The stride of each block, by stage."""
    flat = [stem, *itertools.chain.from_iterable(widths)]
    found = iter([1] + [2 if after > before else 1 for before, after in itertools.pairwise(flat[1:])])
    return [[next(found) for _ in stage] for stage in widths]


class MobileNet(nn.Module):
    """float [N, 3, 112, 112] RGB in [-1, 1] -> embedding [N, embedding], not normalised.

    widths: channels behind the blocks of the three stages; stem: behind the first convolution; reduced: of the last
    map, in front of the linear layer. stem_stride: 1 as published; 2 makes the last map 4 x 4. dropout: of that map,
    in training.
    """

    def __init__(
        self,
        widths: Sequence[Sequence[int]] = WIDTHS,
        embedding: int = 512,
        *,
        stem: int = STEM,
        reduced: int = REDUCED,
        stem_stride: int = 1,
        dropout: float = 0.5,
    ):
        super().__init__()
        first = nn.Sequential(nn.Conv2d(3, stem, 3, stem_stride, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU6())
        steps, inputs = strides(stem, widths), stem
        for number, (stage, moves) in enumerate(zip(widths, steps, strict=True), 1):
            blocks = [first] if number == 1 else []
            for width, stride in zip(stage, moves, strict=True):
                blocks.append(separable(inputs, width, stride))
                inputs = width
            setattr(self, f"stage{number}", nn.Sequential(*blocks))
        self.sep = nn.Conv2d(inputs, reduced, 1, bias=False)
        self.sep_bn, self.prelu = nn.BatchNorm2d(reduced), nn.PReLU(reduced)
        self.bn2 = nn.BatchNorm2d(reduced)
        self.dropout = nn.Dropout(dropout)
        side = layout.last_side(_halvings(steps) + stem_stride - 1)
        self.linear = nn.Linear(reduced * side**2, embedding)
        self.features = nn.BatchNorm1d(embedding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stage3(self.stage2(self.stage1(x)))  # type: ignore[operator]
        x = self.prelu(self.sep_bn(self.sep(x)))
        return self.features(self.linear(self.dropout(self.bn2(x).flatten(1))))


def _halvings(steps: Sequence[Sequence[int]]) -> int:
    return sum(stride == 2 for stage in steps for stride in stage)


def matches(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a checkpoint has this layout."""
    return "stage1.1.3.weight" in state and "sep.weight" in state and "features.weight" in state


def build(state: Mapping[str, torch.Tensor]) -> tuple[str, MobileNet]:
    """The network a checkpoint fits, with its name; widths, depths, stem and embedding are read from it."""
    stem, reduced = state["stage1.0.0.weight"].shape[0], state["sep.weight"].shape[0]
    widths = tuple(
        tuple(
            state[f"stage{number}.{place}.3.weight"].shape[0]
            for place in range(number == 1, layout.count(state, f"stage{number}."))
        )
        for number in (1, 2, 3)
    )
    embedding, features = state["linear.weight"].shape
    stride = layout.stem_stride(features, reduced, _halvings(strides(stem, widths)))
    blocks = sum(map(len, widths))
    if stem == STEM and widths != WIDTHS and {*sum(widths, ())} == {*sum(WIDTHS, ())}:  # without its last blocks
        raise ValueError(f"stages of {tuple(map(len, widths))} blocks, wanted {tuple(map(len, WIDTHS))}")
    known = (stem, widths, reduced, stride) == (STEM, WIDTHS, REDUCED, 1)
    name = "mobilenet" if known else f"mobilenet ({blocks} blocks, widths {stem} to {widths[-1][-1]})"
    return name, MobileNet(widths, embedding, stem=stem, reduced=reduced, stem_stride=stride)
