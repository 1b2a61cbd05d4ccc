"""Templates: the clean features of many persons in one ragged batch, of which sealed veils are made without a photo."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from veilkern.data.people import People
from veilkern.data.photos import photo_id

_NEAR_ONE = 1e-5  # a length that is 1 but for rounding: such a feature is taken as it is, bit for bit


@dataclass(frozen=True, repr=False)
class Templates:
    """Features of P persons, N in all, as People holds photos: those of person p are rows offsets[p]:offsets[p + 1].

    features: float32 [N, d], L2-normalised. offsets: int64 [P + 1]. names: P unique names.
    """

    features: torch.Tensor
    offsets: torch.Tensor
    names: list[str]

    def __repr__(self) -> str:  # never the features: they are biometric data
        return f"Templates({len(self)} persons, {len(self.features)} features of {self.features.shape[1]} numbers)"

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, features: object, names: object) -> Templates:
        """From features, floats [N, d], and a name for each; persons in the order in which they first come, of each her
        features in the order given. TypeError, ValueError for what is none, not finite, or has no direction."""
        if not isinstance(features, torch.Tensor) or not features.is_floating_point():
            kind = features.dtype if isinstance(features, torch.Tensor) else type(features).__name__
            raise TypeError(f"craft: features must be a tensor of floats [N, d], got {kind}")
        if features.layout is not torch.strided or features.device.type == "meta":
            raise TypeError(
                f"craft: features must be a dense tensor with values, got {features.layout} on {features.device}"
            )
        if features.ndim != 2 or not len(features):
            raise ValueError(f"craft: features must be [N, d], at least one, got {list(features.shape)}")
        if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(n, str) for n in names):
            raise TypeError(f"craft: names must be a list of text, one a feature, got {type(names).__name__}")
        if len(names) != len(features):
            raise ValueError(f"craft: names must have {len(features)} entries, one a feature, got {len(names)}")
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            rows.setdefault(name, []).append(row)
        order = [row for own in rows.values() for row in own]
        counts = torch.tensor([0] + [len(own) for own in rows.values()])
        return cls(_normalised(features.detach().cpu())[order], counts.cumsum(0), list(rows))

    @property
    def counts(self) -> torch.Tensor:
        """Features of each person, int64 [P]."""
        return self.offsets.diff()

    @property
    def rows(self) -> torch.Tensor:
        """The person of each feature, int64 [N]."""
        return torch.repeat_interleave(torch.arange(len(self)), self.counts)

    def take(self, features: Iterable[int]) -> Templates:
        """These features only (row numbers, in rising order); persons left without one go."""
        index = torch.tensor(sorted(features), dtype=torch.int64)
        counts = torch.bincount(self.rows[index], minlength=len(self))
        names = [name for name, n in zip(self.names, counts.tolist(), strict=True) if n]
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts[counts > 0].cumsum(0)])
        return Templates(self.features[index], offsets, names)


def _normalised(features: torch.Tensor) -> torch.Tensor:
    """float32 of length 1, worked out in float64; what has that length already stays as it is."""
    length = features.double().norm(dim=1, keepdim=True)
    bad = ~(length.isfinite() & (length > 0)).flatten()
    if bool(bad.any()):
        raise ValueError(
            f"craft: features must be finite and no zero vectors, got {int(bad.sum())} that are not (first: number "
            f"{int(bad.nonzero()[0])})"
        )
    scaled = torch.where((length - 1).abs() <= _NEAR_ONE, features.double(), features.double() / length)
    return scaled.float()


Subjects = People | Templates  # whom veils are crafted for


def between(subjects: Subjects, first: int, last: int) -> Subjects:
    """Persons first .. last - 1."""
    begin, end = int(subjects.offsets[first]), int(subjects.offsets[last])
    offsets, names = subjects.offsets[first : last + 1] - begin, subjects.names[first:last]
    if isinstance(subjects, Templates):
        return Templates(subjects.features[begin:end], offsets, names)
    return People(subjects.images[begin:end], offsets, names, subjects.files[begin:end])


def without(subjects: Subjects, names: Iterable[str]) -> Subjects:
    """The persons who are not named."""
    gone = set(names)
    return subjects.take([i for i, p in enumerate(subjects.rows.tolist()) if subjects.names[p] not in gone])


def counted(subjects: Subjects, p: int) -> dict[str, Any]:
    """How many photos or templates person p has, as her record says it."""
    return {"templates" if isinstance(subjects, Templates) else "photos": int(subjects.counts[p])}


def identified(subjects: Subjects, p: int) -> dict[str, Any]:
    """What her veil is made from, as her record says it: the ids of her photos, or hashes of her templates."""
    part = slice(int(subjects.offsets[p]), int(subjects.offsets[p + 1]))
    if isinstance(subjects, Templates):
        rows = [feature.numpy().tobytes() for feature in subjects.features[part]]
        return {"template_ids": [hashlib.sha256(b"veilkern template\0" + row).hexdigest()[:16] for row in rows]}
    return {"photo_ids": [photo_id(image) for image in subjects.images[part]]}
