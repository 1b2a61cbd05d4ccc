"""AUC, means and intervals of the audit: against counting by hand, and against what they promise."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from veilkern.auditing.statistics import NOTHING, Bootstrap, Figure, student

nan = math.nan


def test_auc_is_mann_whitney():
    g = torch.Generator().manual_seed(0)
    persons = torch.tensor([0, 0, 1, 2, 2, 2])
    targets = torch.tensor([[1, 2], [2, 1], [0, 2], [0, 1], [1, 0], [0, 1]])
    own = torch.randint(0, 6, (6,), generator=g).double()  # with ties
    others = torch.randint(0, 6, (6, 2), generator=g).double()
    wins = stats.mannwhitneyu(own.numpy(), others.flatten().numpy()).statistic / 72
    found = Bootstrap(3, seed=1).auc(own, persons, others, targets)
    assert found.value == pytest.approx(wins, abs=1e-9) and 0 <= found.low < found.value < found.high <= 1


def test_auc_at_its_ends():
    persons, targets = torch.tensor([0, 1, 2]), torch.tensor([[1], [2], [0]])
    own, others = torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3, 1)
    bootstrap = Bootstrap(3, seed=0)
    assert bootstrap.auc(own, persons, others, targets) == Figure(1.0, 1.0, 1.0)
    assert bootstrap.auc(-own, persons, others, targets) == Figure(0.0, 0.0, 0.0)
    assert bootstrap.auc(own * 0, persons, others, targets) == Figure(0.5, 0.5, 0.5)
    assert bootstrap.auc(own, persons, torch.zeros(3, 0), torch.zeros(3, 0, dtype=torch.int64)) is NOTHING


@pytest.mark.parametrize("reconstruction,target", [(0.0, 0.0), (1.0, 1.0), (0.0, 3.0)])
def test_the_interval_of_chance_holds_a_half(reconstruction, target):
    """Scores that know nothing of whose photo it is, but differ by person, by output and by photo compared with."""
    people, photos, others, missed, tries = 12, 10, 11, 0, 100
    g = torch.Generator().manual_seed(11)
    persons = torch.arange(people).repeat_interleave(photos)
    place = torch.arange(people * photos) % photos
    targets = torch.stack([(persons + step) % people for step in range(1, others + 1)], 1)
    for number in range(tries):
        mine = torch.randn(people, generator=g)[persons] * reconstruction + torch.randn(len(persons), generator=g)
        theirs = target * (torch.randn(people, 1, generator=g) + torch.randn(people, photos, generator=g))
        own = mine + theirs[persons, place] + torch.randn(len(persons), generator=g)
        of_others = mine[:, None] + theirs[targets, (place[:, None] + 1) % photos]
        of_others = of_others + torch.randn(len(persons), others, generator=g)
        found = Bootstrap(people, number, draws=300).auc(own, persons, of_others, targets)
        missed += not found.holds(0.5)
        assert found.high - found.low < 0.2
        more = Bootstrap(people, number, draws=300).auc(own + 3, persons, of_others, targets)
        assert more.low > 0.5  # and it is found when it is there
    assert missed <= 0.1 * tries  # of 500 tries each, over several seeds: 0 to 6 %


def test_means_of_persons():
    values, persons = torch.tensor([0.0, 1.0, nan, 4.0]), torch.tensor([0, 0, 1, 1])
    found = Bootstrap(2, seed=0).mean(values, persons)
    assert found.value == pytest.approx(5 / 3) and found.low < found.value < found.high
    assert Bootstrap(2, seed=0).mean(values, persons) == found != Bootstrap(2, seed=1).mean(values, persons)
    assert math.isnan(Bootstrap(2, seed=0).mean(values * nan, persons).value)
    share = Bootstrap(2, seed=0).share(torch.tensor([0.0, 1.0]), torch.tensor([0, 1]))
    assert (share.value, share.low, share.high) == (0.5, 0.0, 1.0)  # of two people nothing is known
    assert Bootstrap(2, seed=0).mean(torch.ones(4), persons) == Figure(1.0, 1.0, 1.0)
    # A comparison has the weights of both: of these, one is of the same person twice over.
    pairs = Bootstrap(2, seed=0).mean(torch.tensor([0.0, 1.0]), torch.tensor([0, 1]), torch.tensor([1, 0]))
    assert (pairs.low, pairs.value, pairs.high) == (0.5, 0.5, 0.5)


def test_the_mean_misses_as_often_as_it_says():
    g = torch.Generator().manual_seed(0)
    missed = sum(
        not Bootstrap(8, k, draws=300).mean(torch.randn(8, generator=g), torch.arange(8)).holds(0) for k in range(300)
    )
    assert 0.02 <= missed / 300 <= 0.09


def test_intervals_that_hold_together_are_wider():
    values, persons = torch.linspace(0, 1, 12), torch.arange(12)
    targets = (persons[:, None] + 1) % 12
    one, many = Bootstrap(12, 0), Bootstrap(12, 0, looks=24)
    wider = stats.t.ppf(1 - 0.025 / 24, 11) / stats.t.ppf(0.975, 11)
    assert many.joint / one.joint == pytest.approx(wider, rel=0.01) and many.reach == one.reach == one.joint
    assert many.mean(values, persons) == one.mean(values, persons) and many.share(values, persons).low > 0
    narrow, wide = (b.auc(values + 0.2, persons, values[:, None], targets) for b in (one, many))
    assert (wide.value - wide.low) / (narrow.value - narrow.low) == pytest.approx(wider, rel=0.01)
    narrow, wide = (b.share(0.4 + 0.1 * values, persons, joint=True) for b in (one, many))
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(wider, rel=0.01)


def test_the_interval_by_hand():
    """The spread of weighted means, times Student's t, and a little for weights that vary less than draws of people."""
    values = torch.tensor([1.0, 2.0, 4.0, 3.0, 9.0, 5.0], dtype=torch.float64)
    bootstrap = Bootstrap(6, seed=3)
    drawn = bootstrap.weights[1:]
    spread = ((drawn @ values) / drawn.sum(1)).std().item()
    found = bootstrap.mean(values, torch.arange(6))
    assert bootstrap.weights.shape == (1001, 6) and abs(drawn.mean().item() - 1) < 0.05
    assert found.value == 4.0
    assert (found.high - 4) == pytest.approx(student(5) * (7 / 5) ** 0.5 * spread)
    assert (found.high - 4) == pytest.approx(stats.t.ppf(0.975, 5) * stats.sem(values.numpy()), rel=0.1)
    assert (
        Figure(0.5, 0.5, 0.6).holds(0.5) and Figure(0.5, 0.4, 0.5).holds(0.5) and not Figure(0.5, 0.4, 0.5).holds(0.51)
    )


def test_student():
    for degrees in (4, 7, 11, 50, 1000):
        assert student(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-3)
    for degrees in (7, 11, 50):
        assert student(degrees, 0.002) == pytest.approx(stats.t.ppf(0.999, degrees), rel=0.02)
    assert student(1) > 11 and math.isnan(student(0))
