"""Intervals over people: how far a mean would move with other people.

The percentile bootstrap with people as clusters (Efron and Tibshirani, 1993): people are drawn with replacement, as
many as there are, all photos of a person together, and the mean is computed anew; the interval is what the middle
`level` of these means spans. It knows of differences between the people drawn only: of few people, below about ten, it
is too narrow, and where all have the same value it has no width. A share for which that value is 0 or 1 therefore gets
the exact bound of Clopper and Pearson (1934) instead, of P trials that all ended alike: the other end of the interval
is (outside / 2)^(1 / P), outside = 1 - level, or 1 minus that; for 12 people of whom all are found, 0.735 at 95 %. (The
"rule of three", 1 - 3 / P, is the one-sided bound and a little narrower.) A trial is a person: that all of her photos
are found. Since a mean over people is never below the share of people with all photos found, the bound holds for
it (for one over all values it is as good as their people are alike in number).

veilkern.auditing.statistics has intervals of another kind, for figures that are held against chance: of two people's
photos at once, widened so that many looks hold together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

Values: TypeAlias = "float | Iterable[float]"
_AT_ONCE = 2**22  # draws times people in memory together


class Interval(NamedTuple):
    """low, high: NaN where it cannot be told. people, photos: persons and values that count. value: the mean itself.
    method: `bootstrap`, `exact` (a share of 0 or 1), or `none` (fewer than two people)."""

    low: float
    high: float
    people: int
    photos: int
    value: float
    method: Literal["bootstrap", "exact", "none"]


def interval(
    values_by_person: Iterable[Values],
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
    over: Literal["people", "values"] = "people",
    share: bool | None = None,
) -> Interval:
    """The interval of a mean. values_by_person: of each person one number, or her photos' (pairs') numbers; those that
    are not finite do not count, nor a person without any other.

    over: what the figure is a mean over: `people`, each with the mean of her values, or all `values` alike. draws,
    seed: of the bootstrap (NumPy's Philox): the same call gives the same interval. share: whether the values are shares
    from 0 to 1; None: where they are all 0 or all 1. Of one person there is no interval. Raises ValueError for wrong
    arguments.
    """
    if not 0 < level < 1:
        raise ValueError(f"interval: level must lie between 0 and 1, got {level}")
    if draws < 1:
        raise ValueError(f"interval: draws must be 1 or more, got {draws}")
    if over not in ("people", "values"):
        raise ValueError(f"interval: over must be 'people' or 'values', got {over!r}")
    parts = [_finite(values) for values in values_by_person]
    parts = [part for part in parts if len(part)]
    people, photos = len(parts), sum(map(len, parts))
    sums, counts = (np.array([of(part) for part in parts], dtype=np.float64) for of in (np.sum, len))
    if over == "people":
        sums, counts = sums / counts, np.ones(people)
    value = float(sums.sum() / counts.sum()) if people else math.nan
    low, high = (min((p.min() for p in parts), default=math.nan), max((p.max() for p in parts), default=math.nan))
    if share and not (low >= 0 and high <= 1) and people:
        raise ValueError(f"interval: shares must lie between 0 and 1, got values from {low:g} to {high:g}")
    if people < 2:
        return Interval(math.nan, math.nan, people, photos, value, "none")
    if share is not False and low == high and low in (0, 1):
        bound = ((1 - level) / 2) ** (1 / people)
        low, high = (bound, 1.0) if low else (0.0, 1 - bound)
        return Interval(low, high, people, photos, value, "exact")
    if low == high:  # but for rounding, that is what every draw gives
        return Interval(float(low), float(low), people, photos, value, "bootstrap")
    outside = (1 - level) / 2
    low, high = np.quantile(_drawn(sums, counts, draws, seed), (outside, 1 - outside)).tolist()
    return Interval(low, high, people, photos, value, "bootstrap")


def _finite(values: Values) -> np.ndarray:
    found = np.asarray(values if hasattr(values, "__array__") or not isinstance(values, Iterable) else list(values))
    found = found.astype(np.float64).reshape(-1)
    return found[np.isfinite(found)]


def _drawn(sums: np.ndarray, counts: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """The mean of each draw: sums over counts, both over the people drawn."""
    generator = np.random.Generator(np.random.Philox(seed))
    people = len(sums)
    at_once = max(1, _AT_ONCE // people)
    found = []
    for begin in range(0, draws, at_once):
        who = generator.integers(people, size=(min(at_once, draws - begin), people))
        found.append(sums[who].sum(1) / counts[who].sum(1))
    return np.concatenate(found)
