"""Intervals over people: against SciPy, exact binomial bounds, and what a coverage of 95 % means."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from veilkern.evaluate.intervals import Interval, interval


def draws(seed: int, people: int, most: int = 6) -> list[np.ndarray]:
    """Values of people who differ, of one to `most` photos each."""
    g = np.random.Generator(np.random.Philox(seed))
    return [g.normal(g.normal(), 0.3, size=g.integers(1, most + 1)) for _ in range(people)]


@pytest.mark.parametrize("people", [8, 24, 200])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_the_mean_over_people_against_scipy(people, level):
    values = draws(people, people)
    means = np.array([v.mean() for v in values])
    found = interval(values, level=level, draws=20_000, seed=3)
    wanted = stats.bootstrap(
        (means,), np.mean, confidence_level=level, n_resamples=20_000, method="percentile", random_state=1
    ).confidence_interval
    noise = 0.08 * means.std() / math.sqrt(people)
    assert found.low == pytest.approx(wanted.low, abs=noise) and found.high == pytest.approx(wanted.high, abs=noise)
    assert (found.people, found.photos, found.method) == (people, sum(map(len, values)), "bootstrap")
    assert found.value == pytest.approx(means.mean()) and found.low < found.value < found.high


def test_the_mean_over_values_draws_whole_people():
    """All photos of a person together: as SciPy's bootstrap of the ratio of sums to counts over people."""
    values = draws(7, 40, most=30)
    sums, counts = np.array([v.sum() for v in values]), np.array([len(v) for v in values], dtype=float)
    found = interval(values, over="values", draws=20_000)
    wanted = stats.bootstrap(
        (sums, counts),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        random_state=1,
    ).confidence_interval
    noise = 0.03 * (wanted.high - wanted.low)
    assert found.low == pytest.approx(wanted.low, abs=noise) and found.high == pytest.approx(wanted.high, abs=noise)
    assert found.value == pytest.approx(np.concatenate(values).mean())
    # Photos drawn one by one, as if each were a person, would promise far too much.
    assert found.high - found.low > 2 * np.subtract(*reversed(interval(np.concatenate(values))[:2]))


def test_it_covers_as_often_as_it_says():
    """Of 300 samples of 40 people, about 95 % of the intervals hold the true mean."""
    g = np.random.Generator(np.random.Philox(5))
    hits = 0
    for seed in range(300):
        true = g.normal(2.0, 1.0, size=(40, 1)) + g.normal(0, 0.5, size=(40, 3))
        found = interval(true, draws=400, seed=seed)
        hits += found.low <= 2.0 <= found.high
    assert 0.90 * 300 <= hits <= 0.98 * 300


def test_the_same_call_gives_the_same_interval(monkeypatch):
    values = draws(1, 50)
    one = interval(values, seed=4)
    assert interval(values, seed=4) == one != interval(values, seed=5)
    monkeypatch.setattr("veilkern.evaluate.intervals._AT_ONCE", 170)  # three draws in memory together
    assert interval(values, seed=4) == one
    as_tensors = interval([torch.tensor(v) for v in values], seed=4)
    assert as_tensors == one == interval(iter([v.tolist() for v in values]), seed=4)
    assert interval([v.mean() for v in values], seed=4)[:2] == pytest.approx(one[:2], rel=1e-12)
    single = interval(values, draws=1)
    assert single.low == single.high and single != interval(values, draws=1, seed=1)
    assert interval(values, draws=2000, seed=4) == one


@pytest.mark.parametrize("people", [2, 3, 12, 500])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_shares_of_one_and_none_get_the_exact_bound(people, level):
    """Clopper and Pearson's bounds, of people: photos of a person are no trials of their own."""
    for share in (1.0, 0.0):
        found = interval([[share] * 7] * people, level=level)
        exact = stats.binomtest(int(share * people), people).proportion_ci(level, "exact")
        assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-12)
        assert (found.people, found.photos, found.value, found.method) == (people, 7 * people, share, "exact")
        assert interval([share] * people, level=level, share=True)[:2] == found[:2]
        plain = interval([share] * people, level=level, share=False)  # no share: an SSIM, say
        assert (plain.low, plain.high, plain.method) == (share, share, "bootstrap")
    assert interval([1.0] * 12).low == pytest.approx(0.735, abs=5e-4)  # as the module says


def test_what_is_between_is_no_exact_bound():
    nearly = interval([1.0] * 11 + [0.5])
    assert nearly.method == "bootstrap" and nearly.low < nearly.value < nearly.high == 1
    equal = interval([0.1] * 7, share=True)
    assert (equal.low, equal.high, equal.method) == (0.1, 0.1, "bootstrap")  # to the last bit
    assert interval([1.0, 0.0] * 6).method == "bootstrap"
    assert interval([3.0, 5.0])[:2] == (3, 5)  # of two people, a quarter of the draws are the one twice


def test_few_people_and_figures_that_are_none():
    nothing = interval([])
    assert math.isnan(nothing.low) and math.isnan(nothing.high) and math.isnan(nothing.value)
    assert (nothing.people, nothing.photos, nothing.method) == (0, 0, "none")
    alone = interval([[1.0, 1.0, 1.0]])
    assert math.isnan(alone.low) and math.isnan(alone.high) and alone.value == 1 and alone.method == "none"
    values = draws(2, 9)
    more = [*values, np.array([math.nan]), np.array([]), np.array([math.inf, -math.inf]), math.nan]
    assert interval(more) == interval(values)
    broken = [np.append(v, math.nan) for v in values]
    assert interval(broken) == interval(values)


@pytest.mark.parametrize(
    "options,words",
    [
        ({"level": 0.0}, "level must lie between 0 and 1"),
        ({"level": 95}, "level must lie between 0 and 1"),
        ({"level": math.nan}, "level must lie between 0 and 1"),
        ({"draws": 0}, "draws must be 1 or more"),
        ({"over": "pairs"}, "over must be 'people' or 'values'"),
        ({"share": True}, r"shares must lie between 0 and 1, got values from -0.5 to 2"),
    ],
)
def test_wrong_arguments(options, words):
    with pytest.raises(ValueError, match=words):
        interval([[0.1, 2.0], [-0.5]], **options)


def test_its_fields():
    assert Interval._fields[:4] == ("low", "high", "people", "photos")
