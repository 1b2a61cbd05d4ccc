"""Figures with intervals: means, the AUC of own against others, and shares, over persons.

Intervals are of 95 % and by a bootstrap over persons: a thousand times every person gets a random weight (exponential,
the Bayesian bootstrap of Rubin 1981, in which nobody ever vanishes), with which the figure is computed anew; its spread
times Student's t of P - 1 degrees of freedom gives the interval. A comparison of one person's photo with another's has
the weights of both. All weights follow from a seed. An audit asks of dozens of figures whether they are chance: the
intervals of those (AUC, rank-1) are wider, so that with 95 % none of them misses (Bonferroni).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch

DRAWS = 1000


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % interval; NaN where there is nothing to tell."""

    value: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether `value` lies in the interval."""
        return self.low <= value <= self.high


NOTHING = Figure(math.nan, math.nan, math.nan)


class Bootstrap:
    """Weights of P persons, drawn once, so that all figures of an audit are moved alike. people: P. looks: how many
    figures are held against chance, whose intervals hold all together."""

    def __init__(self, people: int, seed: int, looks: int = 1, draws: int = DRAWS):
        generator = torch.Generator().manual_seed(seed)
        drawn = -torch.log1p(-torch.rand(draws, people, generator=generator, dtype=torch.float64))
        self.weights = torch.cat([torch.ones(1, people, dtype=torch.float64), drawn])  # the first row: the figure
        # Weights of this kind vary less than the photos of P persons drawn anew: by (P - 1) / (P + 1).
        less = math.sqrt((people + 1) / (people - 1)) if people > 1 else math.nan
        self.reach, self.joint = (less * student(people - 1, 0.05 / count) for count in (1, looks))

    def mean(self, values: torch.Tensor, persons: torch.Tensor, *others: torch.Tensor) -> Figure:
        """Mean of values [n] of these persons, int64 [n]; others: who else each value is of."""
        return self._mean(values, (persons, *others), self.reach, -math.inf, math.inf)

    def share(self, values: torch.Tensor, persons: torch.Tensor, *, joint: bool = False) -> Figure:
        """As `mean`, of values 0 to 1; joint: one of the figures that are held against chance."""
        return self._mean(values, (persons,), self.joint if joint else self.reach, 0.0, 1.0)

    def auc(self, own: torch.Tensor, persons: torch.Tensor, others: torch.Tensor, targets: torch.Tensor) -> Figure:
        """The chance that a score of an own photo lies above one of another person's (Mann-Whitney; ties count half).

        own [n] of persons int64 [n]; others [n, K]: the same outputs against photos of persons targets int64 [n, K].
        """
        if not others.numel() or not own.numel():
            return NOTHING
        total = self.weights.shape[1]
        # Others' scores are joined by (person, target), which share their weights.
        cell = (persons[:, None] * total + targets).flatten()
        kinds, place = cell.unique(return_inverse=True)
        scores = others.flatten().double().contiguous()
        wins = torch.zeros(total, len(kinds), dtype=torch.float64)
        for p in persons.unique().tolist():
            mine = own[persons == p].double().sort().values
            below, upto = (torch.searchsorted(mine, scores, right=side) for side in (False, True))
            above = len(mine) - 0.5 * (below + upto).double()
            wins[p].index_add_(0, place, above)
        counts = torch.bincount(place, minlength=len(kinds)).double()
        of_pair = self.weights[:, kinds // total] * self.weights[:, kinds % total]
        photos = torch.bincount(persons, minlength=total).double()
        won = ((self.weights @ wins) * of_pair).sum(1)
        return _figure(won / ((self.weights @ photos) * (of_pair @ counts)), self.joint, 0.0, 1.0)

    def _mean(self, values: torch.Tensor, persons: tuple[Any, ...], times: float, least: float, most: float) -> Figure:
        good = values.isfinite()
        if not good.any():
            return NOTHING
        weights = self.weights[:, persons[0][good]]
        for more in persons[1:]:
            weights = weights * self.weights[:, more[good]]
        return _figure((weights @ values[good].double()) / weights.sum(1), times, least, most)


def _figure(drawn: torch.Tensor, times: float, least: float, most: float) -> Figure:
    value, reach = drawn[0].item(), times * drawn[1:].std().item()
    # Rounded, so that what is the same for all persons has an interval without width.
    return Figure(*(round(one, 9) for one in (value, max(least, value - reach), min(most, value + reach))))


def student(degrees: int, outside: float = 0.05) -> float:
    """The value that Student's t exceeds to either side with a chance of `outside` in all, within 2 % from 7 degrees of
    freedom on (Abramowitz and Stegun 26.7.5; of fewer it is too small: their intervals say little anyhow)."""
    if degrees < 1:
        return math.nan
    z = NormalDist().inv_cdf(1 - outside / 2)
    series = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees ** (power + 1) for power, term in enumerate(series))
