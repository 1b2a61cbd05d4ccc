"""CraftConfig: everything that decides what a veil becomes."""

from __future__ import annotations

import dataclasses
import math
import warnings
from dataclasses import dataclass
from typing import Any

SCHEMES = ("blend", "sealed")
ROBUST = ("none", "mild", "strong")
LEVELS, ROUNDS = (16, 32, 64, 128), (12, 20)  # of the ops, named without importing torch
PRECISIONS = ("float32", "bfloat16")
SCHEDULES = ("linear", "cosine", "constant")
SUBSPACES = ("centre", "convex", "affine", "span", "self")  # the kinds of hull_distance, named without importing torch
_BY_SCHEME: Any = None  # the default of what depends on scheme and robust: None is replaced by the value of _defaults


@dataclass(frozen=True)
class CraftConfig:
    """How veils are crafted. Validated on creation (ValueError, TypeError); kept in the bank.

    What is None by default gets a value that depends on scheme and robust, so that every field of a configuration has
    a value, and `CraftConfig(**config.as_dict())` is the same again. To change the scheme make a new configuration;
    dataclasses.replace would carry the other scheme's values over.

    scheme: `blend`, the paper's (x' = alpha x + (1 - alpha) v), or `sealed`: the photo's share is encrypted, so that to
        the network x' is the veil and uniform noise of `levels` levels, drawn anew in each step. No photo is in that
        loop, only clean features: alpha, lam and nu are 0, `visual` and the subspace `self` mean nothing. levels (16,
        32, 64, 128) and rounds (12, 20) of ChaCha belong to `sealed` alone.
    robust: what is done to the protected photos in some steps before the network sees them (noise, blur, resizing,
        JPEG, shifts: crafting/robust.py), so that the veil bears it later: `none` (default of blend), `mild` (default
        of sealed), `strong`.
    alpha: share of the photo in the protected photo; 0.2 (default) is 51/255. Anything that is not a/255 is rounded to
        the nearest a/255, with a warning.
    lam, mu, nu: weights of L_vis, L_var and L_con in L = L_fea - lam L_vis + mu L_var + nu L_con (eq. 13, and a term on
        the residual contour). L_con = mean over the person's photos of rho^4, plus rho^4 of her mean photo; rho is the
        correlation of the lumas of x and x' after a Gaussian blur of 2 pixels. nu = 0 leaves it out. By default 0.06
        (`strong` 0.03), 0.03 and 1.5; sealed 0 (with L_vis a sealed veil becomes a negative of the person's mean face),
        0.01 and 0.
    steps, step_size, schedule: MI-FGSM steps, the size of the first in [0, 1] pixel values, and how it goes on:
        `linear` and `cosine` fall to nearly zero, `constant` stays. By default 40 steps from 16/255; sealed 16 from
        32/255; `mild` 80 and `strong` 200 from 16/255.
    decay: of the momentum; by default 0.9, sealed 0.8, `mild` and `strong` 1 (docs/convergence.md tells why).
    photos_per_step: photos of each person that go through the network in a step, drawn without replacement until all
        were used; 0: all of them. Sealed: how many drawings of the noise; 0: one for each photo, or template.
    subspace: what L_fea measures the distance to: `centre` (the hull's centre, the person's mean clean feature), the
        paper's `convex` hull, `affine`, `span`, or `self` (each photo to its own clean feature: V-UAP with mu = 0).
        `centre` is the default because a whole hull lets the veil settle on one odd photo of the person (measured:
        docs/figures.md).
    visual: `norm` (||x - x'||_2) or `mse`.
    block, block_stride, block_form: the box sums of L_var, and its form `consistent` or `literal` (the paper's print,
        mostly a penalty on brightness). Boxes are 3 x 3, the paper's; sealed 9 x 9, as wide as what a blurred eye sees:
        no photo is in that loop to keep the veil from its outlines.
    early_stop: stop a person once, over the last `patience` steps, the mean feature distance is at most
        `stop_distance` and the mean total loss is no better, by `stop_improvement` of its size, than over the
        `patience` steps before. False: all steps. A stopped person, and one that ends all steps with that feature
        distance reached, counts as converged. Default: not with robust, where the steps' figures tell of what was done
        to the photos as much as of the veil.
    seed: makes the key from a number, for experiments that others can repeat; no secret. Give a key instead for use.
    precision: what the engine computes a step's activations and slopes in: `float32`, or `bfloat16`, for devices that
        are faster at it; embedding, losses, veils and records stay float32. ModelError for a network that the engine
        cannot run.
    photos_in_flight: bounds the memory: persons are crafted together as long as their photos of a step are no more
        than this, and their photos in all no more than ten times this. No more go through the network at a time.
    """

    alpha: float = _BY_SCHEME
    lam: float = _BY_SCHEME
    mu: float = _BY_SCHEME
    nu: float = _BY_SCHEME
    steps: int = _BY_SCHEME
    photos_per_step: int = 1
    step_size: float = _BY_SCHEME
    schedule: str = "linear"
    decay: float = _BY_SCHEME
    subspace: str = "centre"
    visual: str = "norm"
    block: tuple[int, int] = _BY_SCHEME
    block_stride: int = 1
    block_form: str = "consistent"
    early_stop: bool = _BY_SCHEME
    stop_distance: float = 0.4
    stop_improvement: float = 0.002
    patience: int = 10
    seed: int | None = None
    photos_in_flight: int = 64
    scheme: str = "blend"
    levels: int = 64
    rounds: int = 20
    robust: str = _BY_SCHEME
    precision: str = "float32"

    def __post_init__(self) -> None:
        self._check_choices(scheme=SCHEMES)
        if self.robust is None:
            object.__setattr__(self, "robust", "mild" if self.scheme == "sealed" else "none")
        self._check_choices(robust=ROBUST)
        for name, value in _defaults(self.scheme, self.robust).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), str(field.type))
        object.__setattr__(self, "block", tuple(self.block))
        positive = ("steps", "step_size", "block_stride", "patience", "photos_in_flight")
        for name in (*positive, "lam", "mu", "nu", "photos_per_step", "decay", "stop_distance", "stop_improvement"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0 or (name in positive and value == 0):
                raise ValueError(
                    f"CraftConfig: {name} must be {'positive' if name in positive else '0 or more'}, got {value}"
                )
        self._check_choices(
            schedule=SCHEDULES,
            precision=PRECISIONS,
            subspace=SUBSPACES,
            visual=("norm", "mse"),
            block_form=("consistent", "literal"),
            levels=LEVELS,
            rounds=ROUNDS,
        )
        if self.step_size > 1:
            raise ValueError(
                f"CraftConfig: step_size must be at most 1 (pixel values are in [0, 1]), got {self.step_size}"
            )
        if len(self.block) != 2 or min(self.block) < 1:
            raise ValueError(f"CraftConfig: block must be two positive integers (h, w), got {self.block}")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise ValueError(f"CraftConfig: seed must lie in 0..2^64 - 1, got {self.seed}")
        if self.scheme == "sealed":
            self._refuse_what_sealed_has_not()
            return
        for name, value in (("levels", 64), ("rounds", 20)):
            if getattr(self, name) != value:
                raise ValueError(
                    f"CraftConfig: {name} must be {value} where scheme is blend (it is of sealed photos), got "
                    f"{getattr(self, name)}"
                )
        self._round_alpha()

    def _check_choices(self, **choices: tuple[Any, ...]) -> None:
        for name, allowed in choices.items():
            if (value := getattr(self, name)) not in allowed or isinstance(value, bool):
                raise ValueError(f"CraftConfig: {name} must be one of {', '.join(map(str, allowed))}, got {value!r}")

    def _refuse_what_sealed_has_not(self) -> None:
        """Nothing that is asked for is left out in silence."""
        for name, value, why in (
            ("alpha", 0, "a sealed photo is no mixture"),
            ("lam", 0, "with L_vis a sealed veil becomes a negative of the person's mean face"),
            ("nu", 0, "no photo shows in a sealed one"),
            ("visual", "norm", "there is no L_vis"),
        ):
            if getattr(self, name) != value:
                raise ValueError(
                    f"CraftConfig: {name} must be {value} where scheme is sealed ({why}), got {getattr(self, name)!r}"
                )
        if self.subspace == "self":
            raise ValueError(
                "CraftConfig: subspace must be another than self where scheme is sealed (no photo is in the loop), got "
                "'self'"
            )

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
        """The integer a of alpha = a / 255; 0 where photos are sealed."""
        return round(self.alpha * 255)

    def step_at(self, step: int) -> float:
        """Step size of step 0, 1, .. steps - 1."""
        done = step / self.steps
        share = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}[self.schedule]
        return self.step_size * share

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `CraftConfig(**d)` makes the same again."""
        values = dataclasses.asdict(self)
        values["block"] = list(self.block)
        return values


def _defaults(scheme: str, robust: str) -> dict[str, Any]:
    """The defaults that depend on both, and of what is meaningless in a scheme the value that says so."""
    sealed = scheme == "sealed"
    loss = _SEALED_LOSS if sealed else _BLEND_LOSS
    steps, size, decay = _OPTIMISER.get((scheme, robust)) or _OPTIMISER["", robust]
    if not sealed and robust == "strong":  # with twice as much the veil hides the photo at the cost of its reach
        loss = {**loss, "lam": 0.03}
    return {**loss, "steps": steps, "step_size": size, "decay": decay, "early_stop": robust == "none"}


# Steps, the size of the first, and the decay of the momentum: chosen by docs/convergence.md. A veil that is to bear
# strong noise needs all of its steps in the momentum: what each of them draws is another noise.
_OPTIMISER = {
    ("blend", "none"): (40, 16 / 255, 0.9),
    ("sealed", "none"): (16, 32 / 255, 0.8),
    ("", "mild"): (80, 16 / 255, 1.0),
    ("", "strong"): (200, 16 / 255, 1.0),
}
_BLEND_LOSS = {"alpha": 0.2, "lam": 0.06, "mu": 0.03, "nu": 1.5, "block": (3, 3)}
_SEALED_LOSS = {"alpha": 0.0, "lam": 0.0, "mu": 0.01, "nu": 0.0, "block": (9, 9)}
_KINDS = {
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "bool": lambda value: isinstance(value, bool),
    "str": lambda value: isinstance(value, str),
    "tuple[int, int]": lambda value: isinstance(value, (tuple, list)) and all(isinstance(v, int) for v in value),
}


def _check_type(name: str, value: object, annotation: str) -> None:
    kind = annotation.removesuffix(" | None")
    if not (_KINDS[kind](value) or (value is None and kind != annotation)):
        wanted = f"{kind} or None" if kind != annotation else kind.partition("[")[0]
        raise TypeError(f"CraftConfig: {name} must be {wanted}, got {value!r}")
