"""What every method has: options, a fit, and what came of it with its cost."""

from __future__ import annotations

import hashlib
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from veilkern.crafting.config import CraftConfig
from veilkern.crafting.run import Run, at_work
from veilkern.data.people import People
from veilkern.errors import ModelError
from veilkern.networks.face_model import FaceModel

ShowProgress = bool | Callable[[int, int], None] | None


class Method(ABC):
    """A way to protect photos. name: its key in METHODS. scope: what one pattern serves, a `photo`, a `person` or
    `everybody`. aim: `hide` a face from people and keep it recognised, or `evade` recognition and keep it seen.
    recovers: whether photos come back. OPTIONS: keywords that `fit` takes beside steps, seed and
    progress. steps: at most, of whatever is crafted; the method's own number where none is given."""

    name: ClassVar[str]
    scope: ClassVar[str]
    aim: ClassVar[str] = "hide"
    recovers: ClassVar[bool] = True
    OPTIONS: ClassVar[tuple[str, ...]]
    steps: int

    def __init__(self, *, steps: int | None = None, seed: int = 0, **options: Any):
        """steps: None: the method's own number. seed: 0..2^64 - 1, everything random follows from it. options: those of
        the method; TypeError for another, ValueError for a value that means nothing."""
        if unknown := sorted(set(options) - set(self.OPTIONS)):
            raise TypeError(
                f"fit: {self.name} has no option {', '.join(unknown)}; it has steps, seed and {', '.join(self.OPTIONS)}"
            )
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"fit: seed must be an integer, got {seed!r}")
        if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int)):
            raise TypeError(f"fit: steps must be an integer or None, got {steps!r}")
        if steps is not None and steps < 1:
            raise ValueError(f"fit: steps must be positive, got {steps}")
        self.seed = CraftConfig(seed=seed).seed  # checks its range
        self.prepare(steps, options)

    @abstractmethod
    def prepare(self, steps: int | None, options: dict[str, Any]) -> None:
        """Take steps and options in and check them."""

    @abstractmethod
    def fit(self, model: FaceModel, crafting: People, progress: ShowProgress) -> Fitted:
        """What is done once, before any photo is protected."""


@dataclass
class Spent:
    """photos: protected. passes: image-steps, one photo forward through the network and its slope back. clean_passes:
    photos embedded as they are. seconds: wall clock."""

    photos: int = 0
    passes: int = 0
    clean_passes: int = 0
    seconds: float = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Adds the seconds inside, also where an error ends them."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - begun


class Fitted(ABC):
    """A method fitted to a network and to persons: protects any photos of theirs.

    method, scope, aim, recovers: of the Method. failed: by name of each person who could not be fitted, why. fitting,
    protecting: what `fit` spent, and `protect` so far.

    Photos that fill up the network's last batch, and the one forward pass a photo by which craft measures a finished
    veil, are counted in no passes; the seconds have them.
    """

    def __init__(self, method: Method, model: FaceModel, crafting: People, progress: ShowProgress):
        self.made_by, self.model, self.progress = method, model, progress
        self.method, self.scope, self.aim, self.recovers = method.name, method.scope, method.aim, method.recovers
        self.names, self.photos = list(crafting.names), len(crafting.images)
        self.failed: dict[str, str] = {}
        self.fitting, self.protecting = Spent(), Spent()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.method} of {len(self.names)} persons, {self.passes} passes)"

    @property
    def passes(self) -> int:
        """Image-steps so far: forward and input gradient of one photo each."""
        return self.fitting.passes + self.protecting.passes

    @property
    def clean_passes(self) -> int:
        """Photos embedded as they are, so far."""
        return self.fitting.clean_passes + self.protecting.clean_passes

    @property
    def seconds(self) -> float:
        """Seconds of crafting so far. Where each photo is crafted for itself these are all of `protect`'s; else
        applying a pattern is no crafting, and told by `cost` alone."""
        return self.fitting.seconds + (self.protecting.seconds if self.scope == "photo" else 0.0)

    @property
    def passes_per_person(self) -> float:
        """Image-steps of each person fitted, whatever the number of her photos later; 0 unless scope is `person`."""
        return self._each("person", self.fitting.passes)

    @property
    def passes_per_photo(self) -> float | None:
        """Image-steps of each photo protected so far (None before the first); 0 unless scope is `photo`."""
        return self._marginal(self.protecting.passes) if self.scope == "photo" else 0.0

    def cost(self) -> dict[str, Any]:
        """Everything for a table of costs. people, photos: fitted, and their crafting photos. protected: photos so far.
        passes, clean_passes, seconds: all spent so far (seconds with those of applying).

        P persons of n photos cost `once` + P (`person` + n `photo`), in passes and in seconds: passes_once, ..,
        seconds_photo. Those of a photo are None before one is protected. stored_bytes: what must be kept for each
        `person`, `photo` or for everybody (`once`) to recover, or to protect more."""
        fit, own = self.fitting, self.protecting
        all_seconds = fit.seconds + own.seconds
        found: dict[str, Any] = {
            "method": self.method,
            "scope": self.scope,
            "people": len(self.names),
            "photos": self.photos,
        }
        found |= {"protected": own.photos, "passes": self.passes, "clean_passes": self.clean_passes}
        found |= {"seconds": all_seconds}
        for kind in ("passes", "clean_passes", "seconds"):
            spent = getattr(fit, kind)
            found[f"{kind}_once"] = float(spent) if self.scope == "everybody" else 0.0
            found[f"{kind}_person"] = self._each("person", spent)
            found[f"{kind}_photo"] = self._marginal(getattr(own, kind))
        if self.scope != "photo":  # known before any photo is protected
            found |= {"passes_photo": 0.0, "clean_passes_photo": 0.0}
        found["stored_bytes"] = self._stored()
        return found

    def _each(self, scope: str, spent: float) -> float:
        return spent / (len(self.names) - len(self.failed)) if self.scope == scope else 0.0

    def _marginal(self, spent: float) -> float | None:
        return spent / self.protecting.photos if self.protecting.photos else None

    def _stored(self) -> int:
        """Bytes of one pattern, a byte a value."""
        height, width = self.model.input.size
        return 3 * height * width

    def protect(self, people: People) -> torch.Tensor:
        """Protected photos, uint8 [N, 3, H, W], of persons who were fitted: crafting photos or others of theirs.

        Image-specific methods craft each photo here, and serve whoever comes, as those for everybody do. Raises
        TypeError and ValueError for wrong photos or persons who were not fitted, ModelError for a person or photo that
        the network fails on, by name.
        """
        self.require(people)
        if not len(people.images):
            return people.images.clone()
        with self.protecting.timed():
            found = self._protect(people)
        self.protecting.photos += len(found)
        return found

    def recover(self, people: People, protected: torch.Tensor) -> torch.Tensor | None:
        """The photos again, uint8 [N, 3, H, W], of what `protect(people)` gave; None where the method has no way back.

        people: the same photos in the same order; where each has a pattern of its own they tell which (a system would
        keep a number beside each photo), else only whose they are.
        """
        self.require(people)
        if not isinstance(protected, torch.Tensor) or protected.shape != people.images.shape:
            got = list(protected.shape) if isinstance(protected, torch.Tensor) else type(protected).__name__
            raise ValueError(
                f"{self.method}: protected must be a tensor {list(people.images.shape)}, one of each photo of people, "
                f"got {got}"
            )
        return self._recover(people, protected) if self.recovers and len(protected) else None

    @abstractmethod
    def _protect(self, people: People) -> torch.Tensor: ...

    def _recover(self, people: People, protected: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def require(self, people: People) -> None:
        """Raises what `protect` says it raises."""
        require_people(self.model, people)
        if self.scope != "person":
            return
        if strangers := [name for name in people.names if name not in self.names]:
            raise ValueError(f"{self.method}: people must be persons who were fitted, got {', '.join(strangers[:5])}")
        if lost := [name for name in people.names if name in self.failed]:
            raise ModelError(f"{self.method}: {lost[0]} could not be fitted: {self.failed[lost[0]]}")

    def require_somebody(self) -> None:
        """ModelError where everybody failed, with the first one's name."""
        if self.names and len(self.failed) == len(self.names):
            name, why = next(iter(self.failed.items()))
            raise ModelError(f"{self.method}: nobody could be fitted; {name}: {why}")


def require_people(model: object, people: object) -> None:
    """TypeError, ValueError for what is no network, no People, or photos of another size."""
    if not isinstance(model, FaceModel):
        raise TypeError(f"fit: model must be a FaceModel, got {type(model).__name__}")
    if not isinstance(people, People):
        raise TypeError(f"methods: people must be a People, got {type(people).__name__}")
    if tuple(people.images.shape[2:]) != tuple(model.input.size):
        raise ValueError(
            f"methods: the network wants photos of {tuple(model.input.size)}, people has "
            f"{tuple(people.images.shape[2:])}"
        )


def require_photos(crafting: People) -> None:
    """ValueError where a person, or everybody, has no photo."""
    if not len(crafting) or 0 in crafting.counts.tolist():
        raise ValueError("fit: crafting must hold persons with at least one photo each")


def number_of(method: str, option: str, value: object, *, positive: bool = False) -> float:
    """A finite number, 0 or more (or positive); TypeError, ValueError that name the option."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{method}: {option} must be a number, got {value!r}")
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        raise ValueError(f"{method}: {option} must be {'positive' if positive else '0 or more'}, got {value}")
    return float(value)


def pixels_id(image: torch.Tensor) -> str:
    """SHA-256 of a photo's pixels, uint8 [3, H, W]."""
    return hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()


@contextmanager
def working(model: FaceModel, seed: int | None) -> Iterator[Run]:
    """What craft works with, for methods that have a loop of their own: `.network`, the engine's where it can be,
    `.width`, photos in the network at a time, `.key`, made from the seed; on craft's number of threads."""
    with at_work(model, CraftConfig(seed=seed), None, None, False, None) as run:
        yield run
