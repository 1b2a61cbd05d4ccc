"""veil_step_: the gradient against autograd of the whole loss, the update written out, each person alone."""

from __future__ import annotations

import pytest
import torch

from veilkern import ops, reference

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
def test_one_step_is_the_formula(visual, form):
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
        blend=51,
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


def test_statistics_are_the_losses():
    veils, momentum, gradients, images, offsets = setting()
    start = veils.clone()
    statistics = ops.veil_step_(
        veils, momentum, gradients, images, offsets, blend=51, lam=0.05, mu=0.01, step=0.1, decay=1.0
    )
    for p in range(3):
        x = images[offsets[p] : offsets[p + 1]].double() / 255
        mixed = 0.2 * x + 0.8 * start[p]
        assert statistics[p, 1].item() == pytest.approx((x - mixed).flatten(1).norm(dim=1).mean().item(), rel=1e-9)
        assert statistics[p, 2].item() == pytest.approx(
            reference.block_variance(mixed.mean(0, keepdim=True)).item(), rel=1e-9
        )


def test_each_person_alone_and_given_means():
    veils, momentum, gradients, images, offsets = setting()
    together, m = veils.clone(), momentum.clone()
    options = {"blend": 51, "mu": 0.01, "step": 0.1, "decay": 1.0}
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


def test_active_and_not_finite_persons():
    veils, momentum, gradients, images, offsets = setting()
    before, m = veils.clone(), momentum.clone()
    gradients[3] = float("nan")  # person 1's only photo
    statistics = ops.veil_step_(
        veils,
        momentum,
        gradients,
        images,
        offsets,
        blend=51,
        lam=0.05,
        mu=0.01,
        step=0.1,
        decay=1.0,
        active=torch.tensor([True, True, False]),
    )
    assert not torch.equal(veils[0], before[0])
    assert torch.equal(veils[1:], before[1:]) and torch.equal(momentum[1:], m[1:])
    assert statistics[1, 0].isnan() and statistics[[0, 2], 0].isfinite().all()


def test_no_gradient_no_move_and_runs_repeat():
    veils, momentum, gradients, images, offsets = setting()
    before = veils.clone()
    ops.veil_step_(
        veils, momentum, torch.zeros_like(gradients), images, offsets, blend=51, lam=0.0, mu=0.0, step=0.1, decay=1.0
    )
    assert torch.equal(veils, before)
    results = []
    for _ in range(2):
        v, m, g, i, o = setting(torch.float32)
        ops.veil_step_(v, m, g, i, o, blend=51, lam=0.05, mu=0.01, step=0.1, decay=1.0)
        results.append(v)
    assert torch.equal(*results)


def test_gradient_rows_of_their_own():
    veils, momentum, gradients, images, offsets = setting()
    other, m = veils.clone(), momentum.clone()
    options = {"blend": 51, "lam": 0.05, "mu": 0.01, "step": 0.1, "decay": 1.0}
    ops.veil_step_(veils, momentum, gradients, images, offsets, **options)
    mean = torch.stack([gradients[offsets[p] : offsets[p + 1]].mean(0) for p in range(3)])
    ops.veil_step_(other, m, mean, images, offsets, gradient_offsets=torch.arange(4), **options)
    torch.testing.assert_close(m, momentum, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(
    "change,error,words",
    [
        ({"veils": torch.zeros(3, 3, 8, 8, dtype=torch.uint8)}, TypeError, "veils must be float32 or float64"),
        (
            {"momentum": torch.zeros(2, 3, 8, 8, dtype=torch.float64)},
            ValueError,
            "momentum must be float64 \\[3, 3, H, W\\]",
        ),
        ({"images": torch.zeros(8, 3, 9, 9, dtype=torch.uint8)}, ValueError, "images must hold photos like veils"),
        ({"gradients": torch.zeros(5, 3, 8, 8)}, ValueError, "gradient_offsets must rise from 0 to 5"),
        ({"offsets": torch.tensor([0, 8])}, ValueError, "offsets must have 4 entries"),
        ({"lam": torch.zeros(2)}, ValueError, "lam must be a number or \\[3\\]"),
        ({"visual": "l1"}, ValueError, "visual must be one of norm, mse"),
        ({"blend": 1.5}, TypeError, "a must be an integer"),
        ({"active": torch.ones(3)}, TypeError, "active must be bool"),
    ],
)
def test_wrong_arguments(change, error, words):
    veils, momentum, gradients, images, offsets = setting()
    arguments = {
        "veils": veils,
        "momentum": momentum,
        "gradients": gradients,
        "images": images,
        "offsets": offsets,
        "blend": 51,
        "lam": 0.1,
        "mu": 0.1,
        "step": 0.1,
        "decay": 1.0,
    }
    with pytest.raises(error, match=words):
        ops.veil_step_(**(arguments | change))
