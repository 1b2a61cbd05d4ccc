"""What a state dict tells of its network: how many blocks a stage has, how wide they are, how large the last map is.

Nothing but names and shapes is read, so a narrow or shallow network loads from its weights alone, as a published one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

SIDE = 112  # pixels of a photo's side, from which the size of the last map is worked out
SIGNED = {"size": SIDE, "mean": (0.5,) * 3, "std": (0.5,) * 3}  # FaceModel's keywords for RGB in [-1, 1]


def count(state: Mapping[str, torch.Tensor], prefix: str) -> int:
    """How many numbered children `prefix` has: of "layer1." with keys layer1.0.x and layer1.1.x two."""
    place = prefix.count(".")
    return len({key.split(".")[place] for key in state if key.startswith(prefix)})


def blocks(state: Mapping[str, torch.Tensor], stage: str) -> int:
    """As `count`, of a stage that no network of the layout is without; ValueError where it is absent."""
    found = count(state, f"{stage}.")
    if not found:
        raise ValueError(f"no block of {stage}: the file is not whole")
    return found


def last_side(halvings: int, side: int = SIDE) -> int:
    """The side of the map after so many layers of stride 2, each of which rounds up: 7 after four, 4 after five."""
    for _ in range(halvings):
        side = (side + 1) // 2
    return side


def stem_stride(features: int, channels: int, halvings: int) -> int:
    """The stride of a network's first convolution, 1 or 2, which no weight of its own tells.

    features: inputs of the linear layer behind the last map of so many channels; halvings: later layers of stride 2.
    ValueError where a photo of 112 x 112 has neither of the two maps.
    """
    for stride in (1, 2):
        if features == channels * last_side(halvings + stride - 1) ** 2:
            return stride
    sides = " or ".join(f"{channels} x {last_side(halvings + more)} x {last_side(halvings + more)}" for more in (0, 1))
    raise ValueError(f"a linear layer of {features} inputs, wanted {sides}, as photos of {SIDE} x {SIDE} give")


def described(
    name: str,
    depths: Sequence[int],
    widths: Sequence[int],
    published: Mapping[Any, str],
    usual: Sequence[int],
    *,
    convolutions: int = 2,
    strict: bool = True,
) -> str:
    """What a residual network with so many convolutions a block is called. Only a published shape has its published
    name: `published` by the depths, a tuple, in the `usual` widths; others say their layers and widths.

    strict: ValueError for other depths in the usual widths, which a checkpoint without its last blocks would have.
    """
    known, narrow = published.get(tuple(depths)), tuple(widths) != tuple(usual)
    if known is not None and not narrow:
        return known
    if strict and published and not narrow:
        raise ValueError(f"stages of {tuple(depths)} blocks, wanted {' or '.join(map(str, published))}")
    layers = convolutions * sum(depths) + 2
    about = [f"{layers} layers", *([f"widths {' '.join(map(str, widths))}"] if narrow else [])]
    return f"{name} ({', '.join(about)})"
