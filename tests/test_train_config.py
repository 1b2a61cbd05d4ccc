"""What a training is told, and what each of its steps makes of it: rates, margins, order of photos, changes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import veilkern as vk
from veilkern.training.augment import augment, order_of, seed_of
from veilkern.training.config import Plan
from veilkern.training.schedule import SCHEDULES, share_of_margin, share_of_rate


@pytest.mark.parametrize("steps,warmup", [(40, 0.25), (100, 0.15), (7, 0.3)])
def test_one_cycle_is_torchs(steps, warmup):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, steps, pct_start=warmup, cycle_momentum=False)
    for step in range(steps):
        rate = 0.3 * share_of_rate("onecycle", step, steps, warmup)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6), step
        optimizer.step()
        if step < steps - 1:
            theirs.step()


@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_rises_and_falls_within_its_bounds(schedule, warmup, steps):
    rates = [share_of_rate(schedule, step, steps, warmup) for step in range(steps)]
    assert all(0 <= rate <= 1 for rate in rates) and max(rates) > 0
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    if steps == 1000:
        last = {"onecycle": 4e-6, "cosine": 1e-5, "step": 1e-3, "constant": 1.0}[schedule]
        assert max(rates) > 0.99 and rates[-1] == pytest.approx(last, abs=5e-4)
        assert abs(top - warmup * steps) <= 2


def test_steps_divide_the_rate_by_ten():
    rates = [share_of_rate("step", step, 100, 0.0) for step in range(100)]
    assert [rates[i] for i in (54, 55, 75, 90)] == pytest.approx([1.0, 0.1, 0.01, 0.001])


def test_the_margin_grows_from_none():
    shares = [share_of_margin(step, 100, 0.5) for step in range(100)]
    assert shares[0] == 0 and shares[25] == pytest.approx(0.5) and shares[50:] == [1.0] * 50
    assert share_of_margin(0, 100, 0.0) == 1.0


@pytest.mark.parametrize(
    "given,error,text",
    [
        ({"head": "triplet"}, ValueError, "head must be one of softmax, lmcl, arcface, got 'triplet'"),
        ({"optimizer": "lion"}, ValueError, "optimizer must be one of sgd, adamw"),
        ({"precision": "fp8"}, ValueError, "precision must be one of"),
        ({"schedule": "none"}, ValueError, "schedule must be one of onecycle"),
        ({"batch": 1}, ValueError, "batch must be 2 or more"),
        ({"batch": 2.0}, TypeError, "batch must be an integer, got float"),
        ({"seed": -1}, ValueError, "seed must be 0 or more"),
        ({"seed": True}, TypeError, "seed must be an integer, got bool"),
        ({"lr": 0.0}, ValueError, "lr must be above 0, got 0.0"),
        ({"lr": math.nan}, ValueError, "lr must be above 0"),
        ({"lr": "0.1"}, TypeError, "lr must be a number, got str"),
        ({"warmup": 1.0}, ValueError, "warmup must be 0 or more and below 1"),
        ({"epochs": 2, "steps": 3}, ValueError, "epochs or steps, not both, got 2 and 3"),
        ({"head": "softmax", "margin": 0.3}, ValueError, "softmax head has no margin"),
        ({"head": "softmax", "scale": 9.0}, ValueError, "softmax head has no margin and no scale"),
        ({"head": "lmcl", "margin": 1.0}, ValueError, "margin of lmcl must be a cosine below 1, got 1.0"),
        ({"head": "arcface", "margin": 28.6}, ValueError, "margin of arcface must be radians below pi / 2, got 28.6"),
        ({"held_out": 2.5}, ValueError, "held_out must be a share below 1 or a whole number"),
    ],
)
def test_wrong_options_are_named(given, error, text):
    with pytest.raises(error, match=text):
        vk.TrainConfig("iresnet18", **given)


def test_a_plan_resolves_what_is_left_open():
    plan = Plan.of(vk.TrainConfig("x"), 100, 1000, tuned=False)
    assert (plan.margin, plan.scale, plan.weight_decay) == (0.5, 24.0, 5e-4)
    assert plan.lr == pytest.approx(0.1 * 128 / 512) and plan.steps == math.ceil(20 * 1000 / 128)
    tuned = Plan.of(vk.TrainConfig("x", "lmcl", optimizer="adamw", batch=64, epochs=0.5), 20_000, 1000, tuned=True)
    assert (tuned.margin, tuned.scale, tuned.weight_decay) == (0.35, 64.0, 0.01)
    assert tuned.lr == pytest.approx(3e-3 / 2 / 10) and tuned.steps == 8
    given = Plan.of(vk.TrainConfig("x", margin=0.2, scale=7.0, lr=0.4, weight_decay=0.0, steps=5), 9, 90, tuned=True)
    assert (given.margin, given.scale, given.lr, given.weight_decay, given.steps) == (0.2, 7.0, 0.4, 0.0, 5)


@pytest.mark.parametrize(
    "held_out,identities,able,count",
    [(None, 100, 100, 5), (None, 20, 20, 2), (None, 3, 3, 0), (None, 10**6, 10**6, 500), (None, 100, 1, 0),
     (0, 9, 9, 0), (0.5, 9, 9, 5), (3, 9, 9, 3)],
)  # fmt: skip
def test_how_many_are_held_out(held_out, identities, able, count):
    assert vk.TrainConfig("x", held_out=held_out).held_out_of(identities, able) == count


@pytest.mark.parametrize("held_out", [1, 8, 0.9, 0.01])
def test_too_few_or_too_many_held_out(held_out):
    with pytest.raises(ValueError, match=r"held_out must be none or two identities at least, and leave two"):
        vk.TrainConfig("x", held_out=held_out).held_out_of(9, 9)


def images(count: int = 64, side: int = 9) -> torch.Tensor:
    return torch.randint(1, 200, (count, 3, side, side), dtype=torch.uint8)


def test_photos_are_mirrored_in_half_of_the_cases_and_otherwise_as_they_are():
    x = images(400)
    found = augment(x, 0, 3, slice(None), 400, shift=0, brightness=0.0)
    plain = (found == x.float() / 255).flatten(1).all(1)
    mirrored = (found == x.flip(3).float() / 255).flatten(1).all(1)
    assert (plain ^ mirrored).all() and 150 < plain.sum() < 250


def test_shifts_repeat_the_edge_and_go_in_every_direction():
    x = images(200)
    found = augment(x, 1, 0, slice(None), 200, shift=2, brightness=0.0) * 255
    padded = torch.nn.functional.pad(x.float(), (2, 2, 2, 2), mode="replicate")
    seen = set()
    for one, wide in zip(found, padded, strict=True):
        places = {
            (dy, dx, flip)
            for dy in range(5) for dx in range(5) for flip in (False, True)
            if torch.allclose(one, (wide.flip(2) if flip else wide)[:, dy : dy + 9, dx : dx + 9])
        }  # fmt: skip
        assert len(places) == 1
        seen |= {place[:2] for place in places}
    assert len(seen) == 25


def test_brightness_scales_and_cuts():
    x = images(300)
    found = augment(x, 2, 0, slice(None), 300, shift=0, brightness=0.4).flatten(1)
    means = found.mean(1) / (x.float() / 255).flatten(1).mean(1)
    assert 0.55 < means.min() < 0.7 and 1.3 < means.max() < 1.45 and found.max() <= 1


@pytest.mark.parametrize("ranks", [2, 3])
def test_what_is_done_hangs_on_seed_step_and_place_alone(ranks):
    x = images(12)
    options = {"shift": 3, "brightness": 0.2}
    whole = augment(x, 5, 7, slice(None), 12, **options)
    for rank in range(ranks):
        part = slice(rank, None, ranks)
        assert torch.equal(augment(x[part], 5, 7, part, 12, **options), whole[part])
    assert torch.equal(augment(x, 5, 7, slice(None), 12, **options), whole)
    for other in ((6, 7), (5, 8)):
        assert not torch.equal(augment(x, *other, slice(None), 12, **options), whole)


def test_orders_are_permutations_of_their_own():
    orders = [order_of(seed, epoch, 50) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4 and (order_of(0, 1, 50) == orders[1]).all()
    assert len({seed_of(s, t, r) for s in (0, 1) for t in (0, 1) for r in (0, 1)}) == 8
    assert all(0 <= seed_of(s, 0, 0) < 2**63 for s in range(100))
    np.testing.assert_array_equal(order_of(3, 0, 1), [0])
