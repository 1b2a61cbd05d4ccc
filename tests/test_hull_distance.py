"""hull_distance: the QP against an independent solver, closed forms, ragged people, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear, minimize

from veilkern import ops


def offsets_of(counts):
    return torch.tensor([0, *counts], dtype=torch.int64).cumsum(0)


def features(counts, clean_counts=None, d=16, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    clean_counts = counts if clean_counts is None else clean_counts

    def unit(n):
        return torch.nn.functional.normalize(torch.randn(n, d, generator=g, dtype=torch.float64) + 1.0)

    return unit(sum(counts)).to(dtype), unit(sum(clean_counts)).to(dtype), offsets_of(counts), offsets_of(clean_counts)


def best_on_simplex(hull, f):
    """SLSQP from scipy, to its own tolerance."""

    def value(w):
        return float(((w @ hull - f) ** 2).sum())

    def slope(w):
        return 2 * hull @ (w @ hull - f)

    n = len(hull)
    found = minimize(
        value,
        np.full(n, 1 / n),
        jac=slope,
        method="SLSQP",
        bounds=[(0, 1)] * n,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(n)},
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert found.success
    return found.fun


@pytest.mark.parametrize("dtype,tolerance", [(torch.float64, 1e-9), (torch.float32, 2e-6)])
def test_convex_is_the_optimum(dtype, tolerance):
    counts = (4, 1, 10, 2)
    f, clean, offsets, _ = features(counts, dtype=dtype)
    distance, weights, _ = ops.hull_distance(f, clean, offsets)
    for p in range(4):
        for i in range(int(offsets[p]), int(offsets[p + 1])):
            hull = clean[offsets[p] : offsets[p + 1]].double().numpy()
            assert distance[i].item() <= best_on_simplex(hull, f[i].double().numpy()) + tolerance
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones_like(distance))
    person = torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
    assert not weights[torch.arange(10)[None] >= torch.tensor(counts)[person][:, None]].any()


def test_span_is_least_squares_and_affine_in_between():
    f, clean, offsets, _ = features((5, 3))
    distance = {
        kind: ops.hull_distance(f, clean, offsets, kind=kind)[0] for kind in ("convex", "affine", "span", "centre")
    }
    for i in range(8):
        p = 0 if i < 5 else 1
        hull = clean[offsets[p] : offsets[p + 1]].numpy()
        assert distance["span"][i].item() == pytest.approx(2 * lsq_linear(hull.T, f[i].numpy()).cost, abs=1e-9)
        base, rest = hull[0], (hull[1:] - hull[0])  # sum w = 1: the first photo plus any mix of differences
        assert distance["affine"][i].item() == pytest.approx(2 * lsq_linear(rest.T, f[i].numpy() - base).cost, abs=1e-9)
        assert distance["centre"][i].item() == pytest.approx(
            float(((hull.mean(0) - f[i].numpy()) ** 2).sum()), abs=1e-12
        )
    assert (distance["span"] <= distance["affine"] + 1e-9).all() and (
        distance["affine"] <= distance["convex"] + 1e-9
    ).all()
    assert (distance["convex"] <= distance["centre"] + 1e-9).all()


@pytest.mark.parametrize("kind", ["affine", "span", "convex"])
def test_repeated_photos_are_solvable(kind):
    f, clean, offsets, _ = features((4,))
    clean[1:] = clean[0]
    distance, weights, _ = ops.hull_distance(f, clean, offsets, kind=kind)
    assert distance.isfinite().all() and weights.isfinite().all()
    if kind != "span":
        torch.testing.assert_close(distance, (f - clean[0]).square().sum(1), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ["convex", "affine", "span", "centre", "self"])
def test_gradient_is_the_envelope(kind):
    f, clean, offsets, _ = features((3, 2))
    distance, weights, gradient = ops.hull_distance(f, clean, offsets, kind=kind)
    person = [0, 0, 0, 1, 1]
    for i, p in enumerate(person):
        hull = clean[offsets[p] : offsets[p + 1]]
        residual = f[i] - weights[i, : len(hull)] @ hull
        torch.testing.assert_close(distance[i], residual.square().sum())
        torch.testing.assert_close(gradient[i], 2 * residual)
    assert torch.autograd.gradcheck(
        lambda x: ops.hull_distance(x, clean, offsets, kind=kind)[0], f.requires_grad_(), atol=1e-4
    )


def test_other_photo_counts_and_a_warm_start():
    f, clean, offsets, clean_offsets = features((2, 1, 0), (5, 3, 4))
    distance, weights, _ = ops.hull_distance(f, clean, offsets, clean_offsets=clean_offsets)
    again, _, _ = ops.hull_distance(f, clean, offsets, clean_offsets=clean_offsets, weights=weights)
    torch.testing.assert_close(again, distance, atol=1e-9, rtol=0)
    own = torch.tensor([4, 0, 2])
    found = ops.hull_distance(f, clean, offsets, clean_offsets=clean_offsets, kind="self", own=own)[0]
    torch.testing.assert_close(found, (f - clean[torch.tensor([4, 0, 7])]).square().sum(1))


def test_inside_the_hull_is_zero_and_empty_is_empty():
    _, clean, offsets, _ = features((6,))
    inside = torch.full((1, 6), 1 / 6, dtype=torch.float64) @ clean
    assert ops.hull_distance(inside, clean, offsets_of((1,)), clean_offsets=offsets)[0].item() < 1e-9
    none = ops.hull_distance(clean[:0], clean, offsets_of((0,)), clean_offsets=offsets)
    assert none[0].shape == (0,) and none[2].shape == (0, 16)


@pytest.mark.parametrize(
    "change,error,words",
    [
        ({"features": torch.zeros(3, 16, dtype=torch.int64)}, TypeError, "features must be float32 or float64"),
        ({"clean": torch.zeros(3, 8, dtype=torch.float64)}, ValueError, "clean must be float64 \\[M, 16\\]"),
        ({"offsets": torch.tensor([0, 5])}, ValueError, "offsets must rise from 0 to 3"),
        ({"kind": "cone"}, ValueError, "kind must be one of"),
        ({"clean": torch.zeros(4, 16, dtype=torch.float64)}, ValueError, "clean_offsets must be given"),
        ({"weights": torch.zeros(3, 9, dtype=torch.float64)}, ValueError, "weights must be"),
    ],
)
def test_wrong_arguments(change, error, words):
    f, clean, offsets, _ = features((3,))
    with pytest.raises(error, match=words):
        ops.hull_distance(**({"features": f, "clean": clean, "offsets": offsets} | change))
