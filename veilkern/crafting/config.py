"""CraftConfig: everything that decides what a veil becomes."""

from __future__ import annotations

import dataclasses
import math
import warnings
from dataclasses import dataclass

SCHEDULES = ("linear", "cosine", "constant")
SUBSPACES = ("centre", "convex", "affine", "span", "self")  # the kinds of hull_distance, named without importing torch


@dataclass(frozen=True)
class CraftConfig:
    """How veils are crafted. Validated on creation (ValueError, TypeError); kept in the bank.

    alpha: share of the photo in the protected photo; 0.2 is 51/255. Anything that is not a/255 is rounded to the
        nearest a/255, with a warning.
    lam, mu, nu: weights of L_vis, L_var and L_con in L = L_fea - lam L_vis + mu L_var + nu L_con (eq. 13, and a term on
        the residual contour). L_con = mean over the person's photos of rho^4, plus rho^4 of her mean photo; rho is the
        correlation of the lumas of x and x' after a Gaussian blur of 2 pixels. nu = 0 leaves it out.
    steps, step_size, schedule: MI-FGSM steps, the size of the first in [0, 1] pixel values, and how it goes on:
        `linear` and `cosine` fall to nearly zero, `constant` stays.
    decay: of the momentum.
    photos_per_step: photos of each person that go through the network in a step, drawn without replacement until all
        were used; 0: all of them.
    subspace: what L_fea measures the distance to: `centre` (the hull's centre, the person's mean clean feature), the
        paper's `convex` hull, `affine`, `span`, or `self` (each photo to its own clean feature: V-UAP with mu = 0).
        `centre` is the default because a whole hull lets the veil settle on one odd photo of the person (measured:
        docs/figures.md).
    visual: `norm` (||x - x'||_2) or `mse`.
    block, block_stride, variance: the box sums of L_var, and its form `consistent` or `literal` (the paper's print,
        mostly a penalty on brightness).
    early_stop: stop a person once, over the last `patience` steps, the mean feature distance is at most
        `stop_distance` and the mean total loss is no better, by `stop_improvement` of its size, than over the
        `patience` steps before. False: all steps. A stopped person, and one that ends all steps with that feature
        distance reached, counts as converged.
    seed: makes the key from a number, for experiments that others can repeat; no secret. Give a key instead for use.
    photos_in_flight: bounds the memory: persons are crafted together as long as their photos of a step are no more
        than this, and their photos in all no more than ten times this. No more go through the network at a time.
    """

    alpha: float = 0.2
    lam: float = 0.06
    mu: float = 0.03
    nu: float = 1.5
    steps: int = 80
    photos_per_step: int = 1
    step_size: float = 8 / 255
    schedule: str = "linear"
    decay: float = 1.0
    subspace: str = "centre"
    visual: str = "norm"
    block: tuple[int, int] = (3, 3)
    block_stride: int = 1
    variance: str = "consistent"
    early_stop: bool = True
    stop_distance: float = 0.4
    stop_improvement: float = 0.002
    patience: int = 10
    seed: int | None = None
    photos_in_flight: int = 64

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), field.default)
        object.__setattr__(self, "block", tuple(self.block))
        positive = ("steps", "step_size", "block_stride", "patience", "photos_in_flight")
        for name in (*positive, "lam", "mu", "nu", "photos_per_step", "decay", "stop_distance", "stop_improvement"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0 or (name in positive and value == 0):
                raise ValueError(
                    f"CraftConfig: {name} must be {'positive' if name in positive else '0 or more'}, got {value}"
                )
        choices = {
            "schedule": SCHEDULES,
            "subspace": SUBSPACES,
            "visual": ("norm", "mse"),
            "variance": ("consistent", "literal"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"CraftConfig: {name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}"
                )
        if self.step_size > 1:
            raise ValueError(
                f"CraftConfig: step_size must be at most 1 (pixel values are in [0, 1]), got {self.step_size}"
            )
        if len(self.block) != 2 or min(self.block) < 1:
            raise ValueError(f"CraftConfig: block must be two positive integers (h, w), got {self.block}")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise ValueError(f"CraftConfig: seed must lie in 0..2^64 - 1, got {self.seed}")
        self._round_alpha()

    def _round_alpha(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"CraftConfig: alpha must lie between 0 and 1, got {self.alpha}")
        a = min(max(round(self.alpha * 255), 1), 254)
        if abs(self.alpha * 255 - a) > 1e-6:
            warnings.warn(
                f"CraftConfig: alpha {self.alpha} rounded to {a}/255 = {a / 255:.6f}", UserWarning, stacklevel=4
            )
        object.__setattr__(self, "alpha", a / 255)

    @property
    def blend(self) -> int:
        """The integer a of alpha = a / 255."""
        return round(self.alpha * 255)

    def step_at(self, step: int) -> float:
        """Step size of step 0, 1, .. steps - 1."""
        done = step / self.steps
        share = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}[self.schedule]
        return self.step_size * share

    def as_dict(self) -> dict:
        """Plain values for JSON; `CraftConfig(**d)` makes the same again."""
        values = dataclasses.asdict(self)
        values["block"] = list(self.block)
        return values


def _check_type(name: str, value: object, default: object) -> None:
    if name == "seed":
        good = value is None or (isinstance(value, int) and not isinstance(value, bool))
    elif isinstance(default, bool):
        good = isinstance(value, bool)
    elif isinstance(default, int):
        good = isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(default, float):
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
    elif isinstance(default, tuple):
        good = isinstance(value, (tuple, list)) and all(isinstance(v, int) for v in value)
    else:
        good = isinstance(value, type(default))
    if not good:
        raise TypeError(
            f"CraftConfig: {name} must be {type(default).__name__ if default is not None else 'int or None'}, "
            f"got {value!r}"
        )
