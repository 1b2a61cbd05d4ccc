"""Networks to be trained: each architecture with fresh weights, as published or small."""

from __future__ import annotations

import json
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from veilkern.networks import inception_resnet, ir, iresnet, layout
from veilkern.networks.inception_resnet import InceptionResNet
from veilkern.networks.ir import IR
from veilkern.networks.iresnet import IResNet
from veilkern.networks.loading import INPUT_KEY, INPUT_KEYWORDS
from veilkern.networks.mobilefacenet import MobileFaceNet, Shape
from veilkern.networks.mobilenet import MobileNet
from veilkern.networks.senet import SEResNet


@dataclass(frozen=True)
class Recipe:
    """How an architecture is made, by the size of its embedding, as published and small. input: FaceModel's keywords
    for it, and small_input for the small one."""

    big: Callable[[int], nn.Module]
    small: Callable[[int], nn.Module]
    input: Mapping[str, object] = field(default_factory=lambda: layout.SIGNED)
    small_input: Mapping[str, object] = field(default_factory=lambda: layout.SIGNED)


_NARROW = (16, 32, 64, 96)  # channels of the stages of small residual networks, whose stem has a stride of 2


def _iresnet(name: str, depths: Sequence[int]) -> Recipe:
    return Recipe(
        lambda embedding: IResNet(iresnet.DEPTHS[name], embedding),
        lambda embedding: IResNet(depths, embedding, _NARROW, 2),
    )


def _ir(excite: bool) -> Recipe:
    narrow = {"widths": _NARROW, "reduction": 4, "stem_stride": 2, "dropout": 0.0}
    return Recipe(
        lambda embedding: IR(ir.DEPTHS[50], excite, embedding),
        lambda embedding: IR((1, 1, 1, 1), excite, embedding, **narrow),  # type: ignore[arg-type]
    )


RECIPES = {
    "iresnet18": _iresnet("iresnet18", (1, 1, 1, 1)),
    "iresnet34": _iresnet("iresnet34", (1, 2, 1, 1)),
    "iresnet50": _iresnet("iresnet50", (1, 1, 2, 1)),
    "iresnet100": _iresnet("iresnet100", (1, 2, 2, 1)),
    "ir50": _ir(False),
    "ir_se50": _ir(True),
    "mobilefacenet": Recipe(
        lambda embedding: MobileFaceNet(Shape(embedding=embedding)),
        lambda embedding: MobileFaceNet(Shape(32, (1, 1, 1), 0, embedding, 32)),
    ),
    "mobilenet": Recipe(
        lambda embedding: MobileNet(embedding=embedding),
        lambda embedding: MobileNet(((24, 48, 96), (192,), (384,)), embedding, stem=12, reduced=32, dropout=0.0),
    ),
    "se_resnet50": Recipe(
        lambda embedding: SEResNet(embedding=embedding),
        lambda embedding: SEResNet((1, 1, 1, 1), embedding, (16, 32, 48, 64), reduction=4),
    ),
    "inception_resnet_v1": Recipe(
        lambda embedding: InceptionResNet(embedding=embedding),
        lambda embedding: InceptionResNet((1, 1, 1), embedding, 3, dropout=0.0),
        inception_resnet.PUBLISHED,
        inception_resnet.PUBLISHED | {"size": layout.SIDE},
    ),
}


def make(name: str, *, embedding: int | None = None, small: bool = False) -> tuple[nn.Module, dict[str, Any]]:
    """A network of this architecture with fresh weights, in train mode, and the keywords of its FaceModel.

    name: one of ARCHITECTURES. embedding: numbers of a feature (default: 512, of small ones 128). small: the same
    layout with half of the channels or fewer and about one block a stage: 13 to 34 million multiplications a photo of
    112 x 112 and, with an embedding of 128, 0.16 to 0.52 million parameters, so that two CPU cores train it in minutes.

    Weights are torch's defaults for each layer, drawn from torch's global generator: seed that for the same network
    again. `module.state_dict()` is a whole checkpoint: FaceModel.load knows the layout, the widths and the depths by
    its names and shapes. Where the input is another than the architecture's (a size of one's own), save it with
    `stated`. Raises ValueError for an unknown name or an embedding that is no integer of 2 at least.
    """
    recipe = RECIPES.get(name)
    if recipe is None:
        raise ValueError(f"make: name must be one of {', '.join(RECIPES)}, got {name!r}")
    embedding = (128 if small else 512) if embedding is None else embedding
    if not isinstance(embedding, numbers.Integral) or embedding < 2:
        raise ValueError(f"make: embedding must be an integer of 2 at least, got {embedding!r}")
    made = (recipe.small if small else recipe.big)(int(embedding))
    return made.train(), dict(recipe.small_input if small else recipe.input)


def stated(keywords: Mapping[str, object]) -> dict[str, str]:
    """Safetensors metadata by which FaceModel.load knows the input of a checkpoint: FaceModel's keywords size, mean,
    std, bgr, value_range, those that are given. They come before what the architecture usually takes, and after what
    the caller of FaceModel.load says. ValueError for other keywords."""
    unknown = set(keywords) - set(INPUT_KEYWORDS)
    if unknown:
        raise ValueError(f"stated: keywords must be of {', '.join(INPUT_KEYWORDS)}, got {', '.join(sorted(unknown))}")
    return {INPUT_KEY: json.dumps(dict(keywords))}
