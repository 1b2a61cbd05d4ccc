"""veil_step_: the gradient against autograd of the whole loss, the update written out, each person alone."""

from __future__ import annotations

import pytest
import torch
from helpers import MANY, counts_with_empty, large, layouts
from hypothesis import given, settings
from hypothesis import strategies as st

import veilkern as vk
from veilkern import ops, reference
from veilkern.testing.making import offsets_of
from veilkern.testing.ops.veil_step import state
from veilkern.testing.table import TABLE

COUNTS = (3, 1, 4)


def setting(dtype=torch.float64, side=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *COUNTS]).cumsum(0)
    images = torch.randint(0, 256, (8, 3, side, side), dtype=torch.uint8, generator=g)
    veils = torch.rand(3, 3, side, side, generator=g, dtype=torch.float64).to(dtype)
    gradients = 0.01 * torch.randn(8, 3, side, side, generator=g, dtype=torch.float64).to(dtype)
    return veils, torch.zeros_like(veils), gradients, images, offsets


def gradient_by_autograd(veils, gradients, images, offsets, lam, mu, visual, form):
    """dL/dv of the written-out loss; L_fea enters as the linear form with the given gradients."""
    v = veils.clone().requires_grad_()
    alpha, total = 51 / 255, 0.0
    for p in range(len(veils)):
        x = images[offsets[p] : offsets[p + 1]].to(veils.dtype) / 255
        mixed = alpha * x + (1 - alpha) * v[p]
        vis = (x - mixed).flatten(1).norm(dim=1).mean() if visual == "norm" else (x - mixed).square().mean()
        fea = (mixed * gradients[offsets[p] : offsets[p + 1]]).flatten(1).sum(1).mean()
        total = total + fea - lam * vis + mu * reference.block_variance(mixed, form=form).mean()
    return torch.autograd.grad(total, v)[0]


@pytest.mark.parametrize("visual", ["norm", "mse"])
@pytest.mark.parametrize("form", ["consistent", "literal"])
def test_one_step_is_the_formula(path, visual, form):
    veils, momentum, gradients, images, offsets = setting()
    momentum += 0.3 * torch.randn(veils.shape, generator=torch.Generator().manual_seed(5), dtype=veils.dtype)
    g = gradient_by_autograd(veils, gradients, images, offsets, 0.05, 0.01, visual, form)
    size = g.abs().mean((1, 2, 3))
    m = 0.9 * momentum + g / size.view(-1, 1, 1, 1)
    wanted = (veils - 0.1 * m.sign()).clamp(0, 1)
    statistics = ops.veil_step_(
        veils,
        momentum,
        gradients,
        images,
        offsets,
        a=51,
        lam=0.05,
        mu=0.01,
        step=0.1,
        decay=0.9,
        visual=visual,
        form=form,
    )
    torch.testing.assert_close(momentum, m, atol=1e-10, rtol=1e-8)
    torch.testing.assert_close(veils, wanted, atol=1e-12, rtol=0)
    torch.testing.assert_close(statistics[:, 0], size, atol=1e-12, rtol=1e-9)
    assert veils.min() >= 0 and veils.max() <= 1


def test_statistics_are_the_losses(path):
    veils, momentum, gradients, images, offsets = setting()
    start = veils.clone()
    statistics = ops.veil_step_(
        veils, momentum, gradients, images, offsets, a=51, lam=0.05, mu=0.01, step=0.1, decay=1.0
    )
    for p in range(3):
        x = images[offsets[p] : offsets[p + 1]].double() / 255
        mixed = 0.2 * x + 0.8 * start[p]
        assert statistics[p, 1].item() == pytest.approx((x - mixed).flatten(1).norm(dim=1).mean().item(), rel=1e-9)
        assert statistics[p, 2].item() == pytest.approx(
            reference.block_variance(mixed.mean(0, keepdim=True)).item(), rel=1e-9
        )


def test_each_person_alone_and_given_means(path):
    veils, momentum, gradients, images, offsets = setting()
    together, m = veils.clone(), momentum.clone()
    options = {"a": 51, "mu": 0.01, "step": 0.1, "decay": 1.0}
    lam = torch.tensor([0.05, 0.0, 0.2], dtype=torch.float64)
    means = torch.stack([images[offsets[p] : offsets[p + 1]].double().mean(0) / 255 for p in range(3)])
    ops.veil_step_(together, m, gradients, images, offsets, lam=lam, mean_images=means, **options)
    for p in range(3):
        part, one = slice(int(offsets[p]), int(offsets[p + 1])), veils[p : p + 1].clone()
        ops.veil_step_(
            one,
            momentum[p : p + 1].clone(),
            gradients[part],
            images[part],
            torch.tensor([0, COUNTS[p]]),
            lam=lam[p].item(),
            **options,
        )
        assert torch.equal(one[0], together[p])


def test_active_and_not_finite_persons(path):
    veils, momentum, gradients, images, offsets = setting()
    before, m = veils.clone(), momentum.clone()
    gradients[3] = float("nan")  # person 1's only photo
    statistics = ops.veil_step_(
        veils,
        momentum,
        gradients,
        images,
        offsets,
        a=51,
        lam=0.05,
        mu=0.01,
        step=0.1,
        decay=1.0,
        active=torch.tensor([True, True, False]),
    )
    assert not torch.equal(veils[0], before[0])
    assert torch.equal(veils[1:], before[1:]) and torch.equal(momentum[1:], m[1:])
    assert statistics[1, 0].isnan() and statistics[0].isfinite().all() and not statistics[2].any()


def test_no_gradient_no_move_and_runs_repeat(path):
    veils, momentum, gradients, images, offsets = setting()
    before = veils.clone()
    ops.veil_step_(
        veils, momentum, torch.zeros_like(gradients), images, offsets, a=51, lam=0.0, mu=0.0, step=0.1, decay=1.0
    )
    assert torch.equal(veils, before)
    results = []
    for _ in range(2):
        v, m, g, i, o = setting(torch.float32)
        ops.veil_step_(v, m, g, i, o, a=51, lam=0.05, mu=0.01, step=0.1, decay=1.0)
        results.append(v)
    assert torch.equal(*results)


def test_gradient_rows_of_their_own(path):
    veils, momentum, gradients, images, offsets = setting()
    other, m = veils.clone(), momentum.clone()
    options = {"a": 51, "lam": 0.05, "mu": 0.01, "step": 0.1, "decay": 1.0}
    ops.veil_step_(veils, momentum, gradients, images, offsets, **options)
    mean = torch.stack([gradients[offsets[p] : offsets[p + 1]].mean(0) for p in range(3)])
    ops.veil_step_(other, m, mean, images, offsets, gradient_offsets=torch.arange(4), **options)
    torch.testing.assert_close(m, momentum, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("visual", ["norm", "mse"])
def test_a_person_without_photos_or_gradients_stays(path, visual):
    """Also where a gradient and a mean photo would be enough to go on."""
    veils, momentum, gradients, images, _ = setting()
    count = len(images)
    for photos, slopes in (([0, 0, 1, count], [0, 1, 2, count]), ([0, 1, 2, count], [0, 0, 1, count])):
        moved, m = veils.clone(), momentum.clone()
        statistics = ops.veil_step_(
            moved, m, gradients, images, torch.tensor(photos), gradient_offsets=torch.tensor(slopes), a=51,
            lam=0.05, mu=0.01, step=0.1, decay=1.0, mean_images=torch.rand_like(veils), visual=visual,
        )  # fmt: skip
        assert torch.equal(moved[0], veils[0]) and torch.equal(m[0], momentum[0]) and statistics[0].isnan().all()
        assert not torch.equal(moved[1], veils[1]) and statistics[1:].isfinite().all()


def test_a_veil_that_is_a_photo(path):
    """r = 0: ||v - x|| has no slope there, and takes no part; the other photos' parts are as they were."""
    veils, momentum, gradients, images, offsets = setting()
    veils[1] = images[3].double() / 255  # person 1's only photo
    veils[2] = images[5].double() / 255  # one of four
    start, m = veils.clone(), momentum.clone()
    rates = {"lam": 0.05, "mu": 0.01, "step": 0.1, "decay": 1.0}
    statistics = ops.veil_step_(veils, momentum, gradients, images, offsets, a=51, **rates)
    assert statistics.isfinite().all() and momentum.isfinite().all() and statistics[1, 1] == 0
    for p in (1, 2):
        x = images[offsets[p] : offsets[p + 1]].double() / 255
        v = start[p].clone().requires_grad_()
        far = [(1 - 0.2) * (v - one).norm() for one in x if not torch.equal(one, start[p])]
        vis = sum(far) / len(x) if far else v.sum() * 0
        fea = (0.8 * v * gradients[offsets[p] : offsets[p + 1]].mean(0)).sum()
        var = reference.block_variance((0.2 * x.mean(0) + 0.8 * v)[None]).sum()
        (g,) = torch.autograd.grad(fea - 0.05 * vis + 0.01 * var, v)
        torch.testing.assert_close(momentum[p], m[p] + g / g.abs().mean(), atol=1e-10, rtol=1e-8)


def test_it_is_the_mean_over_a_persons_photos(path):
    """Every photo and gradient twice: the same step, the same statistics."""
    veils, momentum, gradients, images, offsets = setting(side=4)
    twice, m = veils.clone(), momentum.clone()
    rates = {"a": 51, "lam": 0.05, "mu": 0.01, "step": 0.1, "decay": 1.0}
    for visual in ("norm", "mse"):
        one = ops.veil_step_(veils, momentum, gradients, images, offsets, visual=visual, **rates)
        two = ops.veil_step_(
            twice, m, gradients.repeat_interleave(2, 0), images.repeat_interleave(2, 0), 2 * offsets, visual=visual,
            **rates,
        )  # fmt: skip
        torch.testing.assert_close(two, one, atol=1e-12, rtol=1e-9)
        torch.testing.assert_close(m, momentum, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", ["lam", "mu", "step", "decay"])
def test_a_rate_for_all_or_for_each(path, name):
    """A number, a tensor of one and one a person are the same step; a number comes to the kernel as one."""
    results = []
    rates = {"lam": 0.05, "mu": 0.3, "step": 0.1, "decay": 0.7}
    for value in (
        rates[name],
        torch.tensor(rates[name], dtype=torch.float64),
        torch.full((3,), rates[name], dtype=torch.float64),
    ):
        veils, momentum, gradients, images, offsets = setting(side=4)
        momentum += 0.3
        found = ops.veil_step_(veils, momentum, gradients, images, offsets, a=51, **rates | {name: value})
        results.append((veils, momentum, found))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_numbers_make_no_tensors(monkeypatch):
    """On a GPU each would be a launch: they come to the backend as numbers."""
    given_rates = []
    with vk.use_backend("reference") as backend:
        plain = backend.ops["veil_step_"]
        monkeypatch.setitem(backend.ops, "veil_step_", lambda *a: given_rates.append(a[7:11]) or plain(*a))
        ops.veil_step_(*setting(), a=51, lam=0.05, mu=1, step=torch.ones(3), decay=1.0)
    (rates,) = given_rates
    assert rates[0] == 0.05 and rates[1] == 1.0 and rates[3] == 1.0 and rates[2].dtype == torch.float64
    assert [type(r) for r in rates] == [float, float, torch.Tensor, float]


@settings(max_examples=40, deadline=None)
@given(
    counts=counts_with_empty,
    h=st.integers(3, 12),
    w=st.integers(3, 40),
    layout=layouts,
    double=st.booleans(),
    one_gradient=st.booleans(),
    active=st.booleans(),
)
def test_any_people(counts, h, w, layout, double, one_gradient, active):
    """People without photos stay as they are, with NaN statistics; those not active too, with zeros."""
    entry, dtype = TABLE["veil_step_"], torch.float64 if double else torch.float32
    options = {"active": torch.arange(len(counts)) % 2 == 0} if active else {}
    gradient_counts = [1] * len(counts) if one_gradient else None
    made = state(counts, h, w, dtype=dtype, layout=layout, gradient_counts=gradient_counts, seed=h * w, **options)
    wanted = entry.truth(made)
    entry.require(entry.call(made), wanted, made)


def test_compiles_whole():
    start, momentum, gradients, images, offsets = setting(torch.float32)
    options = {"a": 51, "lam": 0.05, "mu": 0.01, "step": 0.1, "decay": 1.0}
    eager, traced = start.clone(), start.clone()
    wanted = ops.veil_step_(eager, momentum.clone(), gradients, images, offsets, **options)
    compiled = torch.compile(
        lambda v, m: ops.veil_step_(v, m, gradients, images, offsets, **options), fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(traced, momentum.clone()), wanted) and torch.equal(traced, eager)
    falling = torch.compile(
        lambda v, m, step: ops.veil_step_(v, m, gradients, images, offsets, **options | {"step": step}),
        fullgraph=True, backend="aot_eager",
    )  # fmt: skip
    for step in (0.1, 0.05, 0.02):
        eager, traced = start.clone(), start.clone()
        ops.veil_step_(eager, momentum.clone(), gradients, images, offsets, **options | {"step": step})
        falling(traced, momentum.clone(), step)
        assert torch.equal(traced, eager)


@pytest.mark.large
@large
def test_more_than_2_to_31_values(generator):
    """The second person's only gradient lies beyond the 2^31st value."""
    gradients = torch.randn(1, 3, 112, 112, generator=generator).expand(MANY, -1, -1, -1).contiguous()
    gradients[-1] *= -1
    images = torch.randint(0, 256, (2, 3, 112, 112), dtype=torch.uint8, generator=generator)
    veils, momentum = torch.rand(2, 3, 112, 112, generator=generator), torch.zeros(2, 3, 112, 112)
    alone, own = veils[1:].clone(), momentum[1:].clone()
    options = {"a": 51, "lam": 0.04, "mu": 0.01, "step": 0.1, "decay": 1.0}
    ops.veil_step_(
        veils, momentum, gradients, images, offsets_of((1, 1)), gradient_offsets=offsets_of((MANY - 1, 1)), **options
    )
    ops.veil_step_(alone, own, gradients[-1:], images[1:], offsets_of((1,)), **options)
    assert torch.equal(veils[1:], alone) and torch.equal(momentum[1:], own)


@pytest.mark.parametrize("name", ["offsets", "gradient_offsets"])
def test_each_of_the_two_offsets_is_checked(name):
    """Where they are not one and the same."""
    veils, momentum, gradients, images, offsets = setting()
    given = {"offsets": offsets, "gradient_offsets": offsets.clone()}
    given[name] = given[name].clone()
    given[name][-1] += 1
    before = veils.clone()
    with pytest.raises(ValueError, match=f"veil_step_: {name} must rise from 0 to"):
        ops.veil_step_(
            veils, momentum, gradients, images, given["offsets"], gradient_offsets=given["gradient_offsets"], a=51,
            lam=0.1, mu=0.1, step=0.1, decay=1.0,
        )  # fmt: skip
    assert torch.equal(veils, before)
