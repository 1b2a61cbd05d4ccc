"""Ensemble: several FR networks as one, so that a veil is crafted for all of them at once."""

from __future__ import annotations

import functools
import hashlib
import math
import numbers
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from veilkern.networks.diagnosis import Check
from veilkern.networks.face_model import FaceModel, PhotosOfPeople
from veilkern.networks.input_spec import InputSpec


class Ensemble(FaceModel):
    """A FaceModel of several, the surrogates of one veil: each reads a photo in its own way, and

        f(x) = [sqrt(w_1) f_1(x), .., sqrt(w_k) f_k(x)]        sum of w_i = 1, |f_i| = 1, hence |f| = 1

    so a cosine of f is the weighted mean of their cosines, and a squared feature distance to the centre that of their
    squared distances. A veil crafted for it serves each of them: a platform can change its network, or ask two at
    once, and seal nothing again. A step costs what a step of each costs.

    members: FaceModels of one input size, on one device, not copied. weights: positive numbers, one a member (default:
    even), normalised to a sum of 1; for k networks that a veil fits unequally, give more to the harder one. Raises
    TypeError and ValueError for wrong arguments.
    """

    def __init__(self, members: Sequence[FaceModel], weights: Sequence[float] | None = None, *, name: str = ""):
        self.members = _checked(members)
        self.weights = _shares(weights, len(self.members))
        self.input = InputSpec(self.members[0].input.size)
        self.module = _Joined(self.members, self.weights)
        self.name = name or " + ".join(member.name for member in self.members)

    def __repr__(self) -> str:
        parts = ", ".join(f"{w:.3g} {m!r}" for w, m in zip(self.weights, self.members, strict=True))
        return f"Ensemble({parts})"

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the members' fingerprints and weights, in their order."""
        digest = hashlib.sha256(b"veilkern ensemble\0")
        for member, weight in zip(self.members, self.weights, strict=True):
            digest.update(f"{member.fingerprint} {weight!r}\n".encode())
        return digest.hexdigest()

    def about(self) -> dict[str, Any]:
        shares = [m.about() | {"weight": w} for m, w in zip(self.members, self.weights, strict=True)]
        return super().about() | {"members": shares}

    def join(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """The ensemble's features [N, d] from each member's, floats [N, d_i] of the same photos in one order, for
        templates that are stored by network. L2-normalised here. TypeError, ValueError where they do not fit."""
        features = list(features)
        for f in features:
            if not isinstance(f, torch.Tensor) or not f.is_floating_point():
                kind = f.dtype if isinstance(f, torch.Tensor) else type(f).__name__
                raise TypeError(f"Ensemble.join: features must be tensors of floats, got {kind}")
        shapes, count = [list(f.shape) for f in features], len(features[0]) if features else 0
        if shapes != [[count, width] for width in self._widths]:
            wanted = ", ".join(f"[N, {width}]" for width in self._widths)
            raise ValueError(f"Ensemble.join: features must be {wanted} of one N, got {shapes}")
        scales = [math.sqrt(weight) for weight in self.weights]
        return torch.cat([s * F.normalize(f, eps=0.0) for s, f in zip(scales, features, strict=True)], 1)

    def by_network(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        widths = self._widths
        if features.shape[1:] != (sum(widths),):
            raise ValueError(f"Ensemble.by_network: features must be [N, {sum(widths)}], got {list(features.shape)}")
        parts = zip(_labels(self.members), features.split(widths, 1), strict=True)
        return {label: F.normalize(part, eps=0.0) for label, part in parts}

    @functools.cached_property
    def _widths(self) -> list[int]:
        """Of each member's features."""
        black = torch.zeros((1, 3, *self.input.size), dtype=torch.uint8)
        return [member.features(black, check=False).shape[1] for member in self.members]

    def check(self, people: PhotosOfPeople, *, least_auc: float = 0.9) -> Check:
        """Of the joined features, once each member has passed alone: none may hide behind the others."""
        for member in self.members:
            member.check(people, least_auc=least_auc)
        return super().check(people, least_auc=least_auc)


class _Joined(nn.Module):
    """The members' features side by side. Their modules are its own, so that they move with it; so are the constants
    of their inputs, which are on the device once for all steps."""

    def __init__(self, members: Sequence[FaceModel], weights: Sequence[float]):
        super().__init__()
        self.networks = nn.ModuleList(member.module for member in members)
        self.members, self.scales = tuple(members), tuple(math.sqrt(w) for w in weights)
        for i, member in enumerate(members):
            for name in ("mean", "std"):
                values = torch.tensor(member.input.normalisation[name], device=member.device)
                self.register_buffer(f"{name}_{i}", values.view(3, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = []
        for i, (member, scale) in enumerate(zip(self.members, self.scales, strict=True)):
            photos = x.flip(1) if member.input.bgr else x
            mean, std = (getattr(self, f"{name}_{i}").to(x) for name in ("mean", "std"))  # there already
            photos = (photos - mean) / std
            parts.append(scale * member.embed_normalised(photos))
        return torch.cat(parts, 1)


def _labels(members: Sequence[FaceModel]) -> list[str]:
    """Their names, made unique: the second `net` is `net (2)`."""
    found: list[str] = []
    for member in members:
        label, number = member.name, 1
        while label in found:
            number += 1
            label = f"{member.name} ({number})"
        found.append(label)
    return found


def _checked(members: Sequence[FaceModel]) -> tuple[FaceModel, ...]:
    if isinstance(members, FaceModel) or not isinstance(members, Sequence):
        raise TypeError(f"Ensemble: members must be a list of FaceModels, got {type(members).__name__}")
    for member in members:
        if not isinstance(member, FaceModel):
            raise TypeError(f"Ensemble: members must be FaceModels, got {type(member).__name__}")
    if len(members) < 2:
        raise ValueError(f"Ensemble: members must be two at least, got {len(members)}")
    for what, values in (
        ("read photos of one size", {member.input.size for member in members}),
        ("be on one device", {str(member.device) for member in members}),
    ):
        if len(values) > 1:
            raise ValueError(f"Ensemble: members must {what}, got {', '.join(map(str, sorted(values)))}")
    return tuple(members)


def _shares(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    given: list[Any] = [1.0] * count if weights is None else list(weights)
    if not all(isinstance(w, numbers.Real) for w in given):
        raise TypeError(f"Ensemble: weights must be numbers, got {given}")
    if len(given) != count:
        raise ValueError(f"Ensemble: weights must be {count} numbers, one a member, got {len(given)}")
    if not all(math.isfinite(w) and w > 0 for w in given):
        raise ValueError(f"Ensemble: weights must be positive numbers, got {given}")
    total = float(sum(given))
    return tuple(w / total for w in given)


def crafted_for(about: dict[str, Any], model: FaceModel) -> bool:
    """Whether veils of a bank whose `model` entry is `about` were crafted for this network, alone or among others."""
    members = about.get("members", [])
    known = [about, *(m for m in members if isinstance(m, dict))] if isinstance(members, list) else [about]
    return model.fingerprint in [one.get("fingerprint") for one in known]
