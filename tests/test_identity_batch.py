"""IdentityBatch: a step is down the slope, who has ended and when that is seen, photos in turn, persons apart."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from craft_cases import FAST, KEY, linear_model, one_batch, people_of
from torch import nn

import veilkern as vk
from veilkern import ops, reference
from veilkern.crafting.batch import IdentityBatch
from veilkern.crafting.batching import batches
from veilkern.crafting.feature_loss import FeatureLoss
from veilkern.crafting.sampler import PhotoSampler, draw
from veilkern.crafting.watch import Watch
from veilkern.progress import Progress
from veilkern.reference.contour import contour_loss


def test_photos_in_flight_bounds_the_batch(people):
    sizes = []

    class Watch(nn.Module):
        def forward(self, x):
            sizes.append(len(x))
            return nn.functional.adaptive_avg_pool2d(x, 3).flatten(1)

    model = vk.FaceModel(Watch())
    for flight, per_step in ((3, 1), (2, 5), (7, 0)):
        sizes.clear()
        vk.craft(
            model, people, vk.CraftConfig(steps=2, photos_in_flight=flight, photos_per_step=per_step), progress=False
        )
        assert max(sizes) <= flight
    assert batches(people, vk.CraftConfig(photos_in_flight=2)) == [(0, 2), (2, 4)]


def test_batches_bound_the_photos_of_a_step_and_those_held():
    config = vk.CraftConfig(photos_in_flight=4)
    assert batches(people_of([1] * 9), config) == [(0, 4), (4, 8), (8, 9)]
    assert batches(people_of([20, 20, 1, 39, 41, 1]), config) == [(0, 2), (2, 4), (4, 5), (5, 6)]
    every = vk.CraftConfig(photos_in_flight=4, photos_per_step=0)
    assert batches(people_of([2, 2, 1, 4, 9, 1]), every) == [(0, 2), (2, 3), (3, 4), (4, 5), (5, 6)]


def test_the_search_in_the_hull_goes_on_where_it_was(monkeypatch):
    """Each photo's first search starts at the hull's centre, every later one at the weights found before."""
    given, found, real = [], [], ops.hull_distance

    def watched(*arguments, **options):
        result = real(*arguments, **options)
        if options.get("weights") is not None:  # a step's, not that of a record
            given.append(options["weights"].clone())
            found.append(result[1].clone())
        return result

    monkeypatch.setattr(ops, "hull_distance", watched)
    config = vk.CraftConfig(steps=3, subspace="convex", photos_per_step=0, early_stop=False)
    vk.craft(linear_model(), people_of([1, 3]), config, key=KEY, progress=False)
    even = torch.tensor([[1, 0, 0], *[[1 / 3] * 3] * 3])
    torch.testing.assert_close(given[0], even)
    assert len(given) == 3 and torch.equal(given[1], found[0]) and torch.equal(given[2], found[1])
    assert not torch.equal(given[1], given[0])
    cut = vk.craft(linear_model(), people_of([1, 3]), vk.CraftConfig(steps=3), key=KEY, progress=False)
    assert len(given) == 3 and cut.report  # the centre has no weights to find


@pytest.mark.parametrize("change", [{}, {"photos_per_step": 0}, {"photos_per_step": 2, "lam": 0.5}, {"mu": 1.0}])
def test_a_step_is_down_the_slope_of_the_mean_loss(change):
    """The first step of each person against autograd of eq. 13 in float64, person by person. The third has ended."""
    config = (
        vk.CraftConfig(lam=0.3, **{"photos_per_step": 1, **change}) if "lam" not in change else vk.CraftConfig(**change)
    )
    model, people = linear_model(), people_of([1, 5, 3])
    batch = one_batch(model, people, config)
    start = batch.veils.clone()
    twin = one_batch(model, people, config)  # draws the same photos
    drawn = [draws.next() for draws in twin.samplers]
    batch.watch.ended[2] = 1
    batch._step(0, draw(batch.samplers, batch.running, batch.offsets, 1, 4, start.device), 0)
    found = batch.watch.history[0].view(2, 3).T
    assert torch.equal(batch.veils[2], start[2])
    net = model.module.double()
    for p in (0, 1):
        veil = start[p].double().requires_grad_()
        photos = people.photos(p)[drawn[p]].double() / 255
        mixed = 0.2 * photos + 0.8 * veil
        clean = nn.functional.normalize(net(people.photos(p).double() / 255)).mean(0)
        distance = (nn.functional.normalize(net(mixed)) - clean).square().sum(1).mean()
        visual = (photos - mixed).flatten(1).norm(dim=1).mean()
        mean = people.photos(p).double().mean(0, keepdim=True) / 255
        variance = reference.block_variance(0.2 * mean + 0.8 * veil).mean()
        loss = distance - config.lam * visual + config.mu * variance
        loss = loss + config.nu * contour_loss(people.photos(p), veil[None], torch.tensor([0, people.counts[p]]), 51)[0]
        (slope,) = torch.autograd.grad(loss, veil)
        wanted = (start[p] - config.step_size * slope.sign()).clamp(0, 1)
        assert ((batch.veils[p] - wanted).abs() < 1e-5).double().mean() > 0.99
        assert found[p].tolist() == pytest.approx([distance.item(), loss.item()], rel=1e-4)
    net.float()


def test_finished_veils_are_rounded():
    batch = one_batch(linear_model(), people_of([2]), FAST)
    levels = torch.arange(192).view(3, 8, 8)
    batch.veils[0] = (levels + 0.6) / 255
    assert torch.equal(batch.finished()[0], (levels + 1).to(torch.uint8))
    batch.veils[0] = (levels + 0.4) / 255
    assert torch.equal(batch.finished()[0], levels.to(torch.uint8))


def test_what_counts_as_settled():
    config = vk.CraftConfig(patience=2, stop_distance=0.4, stop_improvement=0.1)
    near, flat = [0.39, 1.0], [0.41, 1.0]  # distance and total, steadily
    falls, rises = [[0.3, -1.0]] * 2 + [[0.3, -1.2]] * 2, [[0.3, 1.0]] * 2 + [[0.3, 1.2]] * 2
    slow = [[0.3, -1.0]] * 2 + [[0.3, -1.05]] * 2
    history = [torch.tensor([near, flat, falls[i], rises[i], slow[i]]) for i in range(4)]
    assert ended_after(config, history[:3]) == [0] * 5  # too early
    assert ended_after(config, history) == [4, 0, 0, 4, 4]
    assert ended_after(dataclasses.replace(config, early_stop=False), history) == [0] * 5
    mostly_far = [torch.tensor([[d, 1.0]] * 5) for d in (0.1, 0.1, 0.1, 0.9)]
    assert ended_after(config, mostly_far) == [0] * 5


def ended_after(config, history, failed=()) -> list[int]:
    """What the watch says of persons whose steps gave this: [P, 2] each, distance and total."""
    watch = Watch(len(history[0]), failed, config, torch.device("cpu"))
    for step, figures in enumerate(history):
        watch.see(step, *figures.T)
    return watch.read()


def test_the_watch_keeps_the_first_step_in_which_a_person_ended():
    nan, inf = float("nan"), float("inf")
    config = vk.CraftConfig(patience=1, stop_distance=0.4, stop_improvement=0.0)
    told = [[0.1, 1.0], [0.1, nan], [inf, 1.0], [0.9, 1.0], [0.1, nan], [0.9, 1.0]]
    second = torch.tensor([*told[:3], [0.1, 0.9], *told[4:]])
    assert ended_after(config, [torch.tensor(told), second, torch.full((6, 2), nan)], [5]) == [2, -1, -1, -3, -1, 1]
    assert ended_after(config, [torch.tensor([[0.1, 1.0]] * 2)] * 4, [1]) == [2, 1]  # settled again and again


@pytest.mark.parametrize("look", [1, 7])
def test_who_stops_early_is_finished_at_the_next_look(sample_model, people, look):
    config = vk.CraftConfig(steps=60, stop_improvement=0.1, patience=5)
    batch = IdentityBatch(sample_model, people, config, KEY, [0] * 4, 4, look)
    bar, told, done = Progress(4 * 60, None), [], []
    step = batch._step
    batch._step = lambda *plan: (step(*plan), done.append(plan))
    for record, veil in batch.run(bar):
        told.append(record["steps"])
        assert record["steps"] < 60 and veil.dtype == torch.uint8
        assert 0 <= len(done) - record["steps"] < look and len(done) % look == 0
    assert len(told) == 4 and len(set(told)) > 1 and bar.done == 4 * 60


def crafted_when_the_host_looks(monkeypatch, look, model, people, config):
    monkeypatch.setattr("veilkern.crafting.run._LOOK", {"cpu": look})
    return vk.craft(model, people, config, key=KEY, progress=False)


@pytest.mark.parametrize("change", [{}, {"subspace": "convex", "photos_per_step": 2}, {"photos_per_step": 0}])
def test_when_the_host_looks_changes_no_bit(sample_model, people, monkeypatch, change):
    ragged = people.take([0, 6, 7, 12, 13, 14, 15, 16, 18, 19, 20])
    slow = {"steps": 40, "step_size": 8 / 255, "decay": 1.0, "stop_improvement": 0.1, "patience": 5}
    config = vk.CraftConfig(**(slow | change))
    first, *others = (
        crafted_when_the_host_looks(monkeypatch, look, sample_model, ragged, config) for look in (1, 3, 1000)
    )
    assert len({record["steps"] for record in first.report}) > 1  # they end in different steps
    for other in others:
        assert torch.equal(other.bank.veils, first.bank.veils) and other.report == first.report


def test_a_gradient_that_is_not_finite_is_reported_with_its_step_whenever_the_host_looks(monkeypatch):
    """The third photo of the second person has no gradient; who draws it when is up to the key."""
    people, config = people_of([2, 6, 3]), vk.CraftConfig(steps=12)
    real = FeatureLoss.__call__

    def poisoned(self, photos, veils, plan, turn):
        distances, gradients = real(self, photos, veils, plan, turn)
        if len(self.clean) == 11:  # not when the others are crafted without her
            gradients[plan.rows[turn, : len(gradients)] == 4] = float("nan")
        return distances, gradients

    monkeypatch.setattr(FeatureLoss, "__call__", poisoned)
    sampler = one_batch(linear_model(), people, config).samplers[1]
    step = next(i for i in range(1, 7) if sampler.next().tolist() == [2])
    others = vk.craft(linear_model(), people.take([0, 1, 8, 9, 10]), config, key=KEY, progress=False).bank
    for look in (1, 5, 12):
        found = crafted_when_the_host_looks(monkeypatch, look, linear_model(), people, config)
        assert found.report[1]["status"] == f"failed: the gradient was not finite in step {step}"
        assert found.report[1]["steps"] == step and found.bank.names == others.names
        assert torch.equal(found.bank.veils, others.veils) and found.bank.records == others.records


@pytest.mark.parametrize("per_step", [1, 3, 0])
@pytest.mark.parametrize("subspace", ["centre", "convex", "affine", "self"])
def test_a_veil_does_not_depend_on_who_else_is_crafted(sample_model, people, subspace, per_step):
    ragged = people.take([0, 6, 7, 12, 13, 14, 15, 16, 18, 19, 20])
    options = {"steps": 3, "subspace": subspace, "photos_per_step": per_step}
    whole = vk.craft(sample_model, ragged, vk.CraftConfig(**options), key=KEY, progress=False).bank
    few = vk.craft(sample_model, ragged, vk.CraftConfig(**options, photos_in_flight=5), key=KEY, progress=False).bank
    assert torch.equal(whole.veils, few.veils) and whole.records == few.records
    for p in range(4):
        own = ragged.take((ragged.rows == p).nonzero().flatten())
        alone = vk.craft(sample_model, own, vk.CraftConfig(**options), key=KEY, progress=False).bank
        assert torch.equal(alone.veils[0], whole.veils[p]) and alone.records[0] == whole.records[p]


def test_photos_are_drawn_without_replacement():
    from veilkern.veils import keyed

    draws = PhotoSampler(keyed.stream(KEY, "p", "photos"), 10, 3)
    drawn = [draws.next().tolist() for _ in range(40)]
    assert all(len(set(d)) == 3 for d in drawn)
    flat = [i for d in drawn for i in d]
    for start in range(0, 120, 10):
        assert len(set(flat[start : start + 10])) >= 8  # all ten, but for who stood aside to not come twice in a step
    assert all(11 <= flat.count(i) <= 13 for i in range(10))
