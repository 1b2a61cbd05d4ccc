"""TrainConfig: everything that a trained network's weights hang on, but for the photos; and the Plan made of it."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from typing import Any

from veilkern.networks.input_spec import InputSpec
from veilkern.training.heads import HEADS, default_scale
from veilkern.training.schedule import SCHEDULES

OPTIMIZERS = ("sgd", "adamw")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
EPOCHS = 20
HELD_OUT, MOST_HELD_OUT = 0.05, 500  # share of the identities kept for verification by default, and at most so many
_RATES = {"sgd": 0.1 / 512, "adamw": 3e-3 / 128}  # largest learning rate for each photo of a batch
_DECAYS = {"sgd": 5e-4, "adamw": 1e-2}


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained. Where None, the default is another for each head or optimiser, as `Plan` resolves it.

    arch: an architecture of `veilkern.networks.making.make`; small, embedding: as there.
    head: softmax, lmcl or arcface; margin and scale: see `veilkern.training.heads` (margin of lmcl is a cosine, default
    0.35; of arcface radians, default 0.5). margin_warmup: share of the steps over which the margin grows from 0.
    optimizer: sgd (momentum 0.9) or adamw. lr: the largest learning rate, default 0.1 for 512 photos a batch (sgd) or
    0.003 for 128 (adamw), in proportion to the batch, and a tenth of it from a checkpoint. weight_decay: of all weights
    but biases, BatchNorms and slopes, default 5e-4 (sgd), 0.01 (adamw). clip: largest norm of the gradient, 0: any.
    schedule: onecycle, cosine, step or constant; warmup: share of the steps over which the rate grows to its largest.
    epochs (default 20) or steps: how long. batch: photos a step, on all devices together.
    seed: of the first weights, the order of the photos and what is done to them.
    precision: 32-true, bf16-mixed or 16-mixed. shift: pixels that a photo is moved by, at most, its edge repeated.
    brightness: by which share it is made lighter or darker, at most. (Every photo is mirrored in half of the cases.)
    held_out: identities never trained on, for verification: a share below 1, or a number; default a twentieth, at most
    500, and none where other photos are given to verify on.

    Raises TypeError and ValueError for wrong values.
    """

    arch: str
    head: str = "arcface"
    small: bool = False
    embedding: int | None = None
    margin: float | None = None
    scale: float | None = None
    margin_warmup: float = 0.0
    optimizer: str = "sgd"
    lr: float | None = None
    weight_decay: float | None = None
    clip: float = 5.0
    schedule: str = "onecycle"
    warmup: float = 0.15
    epochs: float | None = None
    steps: int | None = None
    batch: int = 128
    seed: int = 0
    precision: str = "32-true"
    shift: int = 0
    brightness: float = 0.0
    held_out: float | None = None

    def __post_init__(self) -> None:
        _choice("head", self.head, HEADS)
        _choice("optimizer", self.optimizer, OPTIMIZERS)
        _choice("schedule", self.schedule, SCHEDULES)
        _choice("precision", self.precision, PRECISIONS)
        for name, least in (("steps", 1), ("batch", 2), ("seed", 0), ("shift", 0), ("embedding", 2)):
            _number(name, getattr(self, name), least, whole=True, below=2**63)
        for name in ("margin", "clip", "weight_decay", "held_out"):
            _number(name, getattr(self, name), 0.0)
        for name in ("margin_warmup", "warmup", "brightness"):
            _number(name, getattr(self, name), 0.0, below=1.0)
        for name in ("scale", "lr", "epochs"):
            _number(name, getattr(self, name), 0.0, above=True)
        if self.epochs is not None and self.steps is not None:
            raise ValueError(f"TrainConfig: epochs or steps, not both, got {self.epochs} and {self.steps}")
        if self.head == "softmax" and (self.margin is not None or self.scale is not None or self.margin_warmup):
            raise ValueError("TrainConfig: the softmax head has no margin and no scale")
        if self.margin is not None and self.margin >= (1.0 if self.head == "lmcl" else math.pi / 2):
            wanted = "a cosine below 1" if self.head == "lmcl" else "radians below pi / 2"
            raise ValueError(f"TrainConfig: margin of {self.head} must be {wanted}, got {self.margin}")
        if self.held_out is not None and self.held_out >= 1 and self.held_out != int(self.held_out):
            raise ValueError(f"TrainConfig: held_out must be a share below 1 or a whole number, got {self.held_out}")

    def held_out_of(self, identities: int, able: int) -> int:
        """How many of so many identities, of which `able` have two photos at least, are kept for verification.
        ValueError where it is one, which can be mistaken for nobody, or fewer than two are left to train on."""
        if self.held_out is None:
            count = min(max(2, round(HELD_OUT * identities)), MOST_HELD_OUT, able)
            return count if count >= 2 and identities - count >= 2 else 0
        count = int(self.held_out) if self.held_out >= 1 else math.ceil(self.held_out * identities)
        if count == 1 or (count and identities - count < 2):
            raise ValueError(
                "train: held_out must be none or two identities at least, and leave two to train on, got "
                f"{count} of {identities}"
            )
        return count

    def as_dict(self) -> dict[str, Any]:
        """Every field by its name."""
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """A TrainConfig for so many photos, nothing left open. epoch: steps that go over all photos once, a fraction."""

    margin: float
    scale: float
    lr: float
    weight_decay: float
    steps: int
    epoch: float

    @classmethod
    def of(cls, config: TrainConfig, identities: int, photos: int, *, tuned: bool) -> Plan:
        """tuned: training starts from a checkpoint."""
        usual = HEADS[config.head]
        epoch = photos / config.batch
        steps = config.steps or max(1, math.ceil((EPOCHS if config.epochs is None else config.epochs) * epoch))
        rate = _RATES[config.optimizer] * config.batch * (0.1 if tuned else 1.0)
        return cls(
            margin=usual if config.margin is None else config.margin,
            scale=default_scale(identities) if config.scale is None else config.scale,
            lr=rate if config.lr is None else config.lr,
            weight_decay=_DECAYS[config.optimizer] if config.weight_decay is None else config.weight_decay,
            steps=steps,
            epoch=epoch,
        )


def input_keywords(spec: InputSpec) -> dict[str, Any]:
    """FaceModel's keywords for an input."""
    return {field.name: getattr(spec, field.name) for field in fields(spec)}


def _choice(name: str, value: object, known: Collection[str]) -> None:
    if value not in known:
        raise ValueError(f"TrainConfig: {name} must be one of {', '.join(known)}, got {value!r}")


def _number(
    name: str, value: Any, least: float, *, whole: bool = False, above: bool = False, below: float = math.inf
) -> None:
    """None is left to the default."""
    if value is None:
        return
    kind = numbers.Integral if whole else numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind):
        wanted = "an integer" if whole else "a number"
        raise TypeError(f"TrainConfig: {name} must be {wanted}, got {type(value).__name__}")
    number = float(value)
    if not math.isfinite(number) or not least <= number < below or (above and number == least):
        limit = f"above {least:g}" if above else f"{least:g} or more"
        limit += f" and below {below:g}" if below < math.inf else ""
        raise ValueError(f"TrainConfig: {name} must be {limit}, got {value}")
