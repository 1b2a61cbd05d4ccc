"""hull_distance: the QP against an independent solver, closed forms, ragged people, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import gradcheck, large, native, person_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear, minimize

from veilkern import ops, reference
from veilkern.testing.making import offsets_of


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
def test_convex_is_the_optimum(path, dtype, tolerance):
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


def test_span_is_least_squares_and_affine_in_between(path):
    f, clean, offsets, _ = features((5, 3))
    distance = {
        subspace: ops.hull_distance(f, clean, offsets, subspace=subspace)[0]
        for subspace in ("convex", "affine", "span", "centre")
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


@pytest.mark.parametrize("subspace", ["affine", "span", "convex"])
def test_repeated_photos_are_solvable(path, subspace):
    f, clean, offsets, _ = features((4,))
    clean[1:] = clean[0]
    distance, weights, _ = ops.hull_distance(f, clean, offsets, subspace=subspace)
    assert distance.isfinite().all() and weights.isfinite().all()
    if subspace != "span":
        torch.testing.assert_close(distance, (f - clean[0]).square().sum(1), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("subspace", ["convex", "affine", "span", "centre", "self"])
def test_gradient_is_the_envelope(path, subspace):
    f, clean, offsets, _ = features((3, 2))
    distance, weights, gradient = ops.hull_distance(f, clean, offsets, subspace=subspace)
    person = [0, 0, 0, 1, 1]
    for i, p in enumerate(person):
        hull = clean[offsets[p] : offsets[p + 1]]
        residual = f[i] - weights[i, : len(hull)] @ hull
        torch.testing.assert_close(distance[i], residual.square().sum())
        torch.testing.assert_close(gradient[i], 2 * residual)
    assert gradcheck(
        path, lambda x: ops.hull_distance(x, clean, offsets, subspace=subspace)[0], f.requires_grad_(), atol=1e-4
    )


def test_other_photo_counts_and_a_warm_start(path):
    f, clean, offsets, clean_offsets = features((2, 1, 0), (5, 3, 4))
    distance, weights, _ = ops.hull_distance(f, clean, offsets, clean_offsets=clean_offsets)
    again, _, _ = ops.hull_distance(f, clean, offsets, clean_offsets=clean_offsets, weights=weights)
    torch.testing.assert_close(again, distance, atol=1e-9, rtol=0)
    own = torch.tensor([4, 0, 2])
    found = ops.hull_distance(f, clean, offsets, clean_offsets=clean_offsets, subspace="self", own=own)[0]
    torch.testing.assert_close(found, (f - clean[torch.tensor([4, 0, 7])]).square().sum(1))


def test_inside_the_hull_is_zero_and_empty_is_empty(path):
    _, clean, offsets, _ = features((6,))
    inside = torch.full((1, 6), 1 / 6, dtype=torch.float64) @ clean
    assert ops.hull_distance(inside, clean, offsets_of((1,)), clean_offsets=offsets)[0].item() < 1e-9
    none = ops.hull_distance(clean[:0], clean, offsets_of((0,)), clean_offsets=offsets)
    assert none[0].shape == (0,) and none[2].shape == (0, 16)


SUBSPACES = ["convex", "affine", "span", "centre", "self"]


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 20), min_size=1, max_size=4),
    d=st.integers(1, 40),
    subspace=st.sampled_from(SUBSPACES),
    double=st.booleans(),
    seed=st.integers(0, 100),
)
@example(counts=[0, 2, 11, 7], d=2, subspace="affine", double=False, seed=34)  # weights of 138 on a flat triangle
def test_any_people(counts, d, subspace, double, seed):
    """People without photos, with one, with more photos than dimensions or lanes."""
    clean_counts = counts if subspace == "self" else [max(1, c // 2) for c in counts]
    f, clean, offsets, clean_offsets = features(counts, clean_counts, d, seed)
    wanted = reference.hull_distance(f, clean, offsets, clean_offsets=clean_offsets, subspace=subspace)
    dtype = torch.float64 if double else torch.float32
    distance, weights, gradient = ops.hull_distance(
        f.to(dtype), clean.to(dtype), offsets, clean_offsets=clean_offsets, subspace=subspace
    )
    slack = torch.full_like(wanted[0], 1e-8 if double else 4e-6)
    if subspace in ("affine", "span") and not double:
        # The ridge, 1.2e-5, costs as much of the exact weights' squares at most; rounded Gram matrices, of those found.
        squares = torch.maximum(wanted[1].square().sum(1), weights.double().square().sum(1))
        slack = 2e-5 * (1 + squares)
    assert ((distance.double() - wanted[0]).abs() <= slack).all()
    person = person_of(counts)
    for i, p in enumerate(person.tolist()):  # whatever the weights, distance and gradient are those of them
        hull = clean[clean_offsets[p] : clean_offsets[p + 1]]
        residual = f[i] - weights[i, : len(hull)].double() @ hull
        torch.testing.assert_close(gradient[i].double(), 2 * residual, atol=1e-9 if double else 2e-4, rtol=1e-4)
        assert not weights[i, len(hull) :].any()


@native
def test_a_feature_does_not_depend_on_its_neighbours():
    """Lanes stop one by one: a photo's weights are the same alone and among others."""
    f, clean, offsets, clean_offsets = features((37,), (12,), 64, dtype=torch.float32)
    _, together, _ = ops.hull_distance(f, clean, offsets, clean_offsets=clean_offsets)
    for i in (0, 15, 16, 36):
        _, alone, _ = ops.hull_distance(f[i : i + 1], clean, offsets_of((1,)), clean_offsets=clean_offsets)
        assert torch.equal(alone[0], together[i])


def test_features_of_any_length_and_far_away(path):
    """Not normalised, or with a large common part: the gap is relative to what sets the photos apart."""
    f, clean, offsets, _ = features((6, 3))
    wanted = ops.hull_distance(f, clean, offsets)[0]
    torch.testing.assert_close(ops.hull_distance(100 * f, 100 * clean, offsets)[0], 1e4 * wanted, atol=1e-5, rtol=0)
    shift = torch.full((1, 16), 10.0, dtype=torch.float64)
    torch.testing.assert_close(ops.hull_distance(f + shift, clean + shift, offsets)[0], wanted, atol=1e-8, rtol=0)


def test_compiles_whole_with_its_gradient():
    f, clean, offsets, _ = features((3, 2), dtype=torch.float32)
    eager, traced = (f.clone().requires_grad_() for _ in range(2))
    compiled = torch.compile(
        lambda x: ops.hull_distance(x, clean, offsets, width=3)[0].sum(), fullgraph=True, backend="aot_eager"
    )
    compiled(traced).backward()
    distance, weights, gradient = ops.hull_distance(eager, clean, offsets)
    assert distance.requires_grad and not weights.requires_grad and not gradient.requires_grad
    distance.sum().backward()
    assert torch.equal(traced.grad, eager.grad)
    with pytest.raises(RuntimeError, match="hull_distance is differentiable once"):
        torch.autograd.grad(ops.hull_distance(eager, clean, offsets)[0].sum(), eager, create_graph=True)


@pytest.mark.parametrize("subspace", SUBSPACES)
def test_photos_without_a_clean_feature_are_refused(path, subspace):
    """Of any person, first or last; a person without photos needs none."""
    for counts, clean_counts in (((2, 1), (0, 3)), ((1, 2), (3, 0)), ((0, 1, 0), (2, 0, 2))):
        f, clean, offsets, clean_offsets = features(counts, clean_counts)
        with pytest.raises(ValueError, match="clean_offsets must give every person with photos at least one clean"):
            ops.hull_distance(
                f, clean, offsets, clean_offsets=clean_offsets, subspace=subspace, own=offsets.new_zeros(len(f))
            )
    f, clean, offsets, clean_offsets = features((2, 0), (3, 0))
    own = offsets.new_zeros(2)
    assert (
        ops.hull_distance(f, clean, offsets, clean_offsets=clean_offsets, subspace=subspace, own=own)[0]
        .isfinite()
        .all()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", [3, 58])
def test_a_flat_hull(path, dtype, seed):
    """Clean features that are all the same, so that a step over them is as long as rounding makes it, and starts far
    from the simplex: the weights still sum to 1. (With seed 58 they did not, by 0.6.)"""
    g = torch.Generator().manual_seed(seed)
    clean = torch.randn(1, 64, generator=g, dtype=dtype).expand(6, 64).contiguous()
    f, start = (torch.randn(6, n, generator=g, dtype=dtype) for n in (64, 6))
    offsets = offsets_of((6,))
    for weights in (None, start, 1e6 * start):
        distance, found, _ = ops.hull_distance(f, clean, offsets, weights=weights)
        assert (found >= 0).all()
        torch.testing.assert_close(found.sum(1), torch.ones_like(distance), rtol=0, atol=1e-5)
        torch.testing.assert_close(distance, (f - clean[0]).square().sum(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype,large", [(torch.float32, 1e30), (torch.float64, 1e200)])
def test_clean_features_whose_squares_overflow(path, dtype, large):
    """NaN for that person's photos, not an error of the solver's that costs the others."""
    f, clean, offsets, clean_offsets = features((2, 3), (2, 1))
    f, clean = f.to(dtype), clean.to(dtype)
    clean[2] = large
    distance, *_ = ops.hull_distance(f, clean, offsets, clean_offsets=clean_offsets, subspace="affine")
    assert distance[:2].isfinite().all() and not distance[2:].isfinite().any()


@pytest.mark.parametrize("subspace", SUBSPACES)
def test_features_that_are_not_finite(path, subspace):
    """NaN for that photo, not an error of the solver's."""
    f, clean, offsets, _ = features((3, 2))
    f[1, 0] = float("nan")
    distance, _, gradient = ops.hull_distance(f, clean, offsets, subspace=subspace)
    assert distance[1].isnan() and distance[[0, 2, 3, 4]].isfinite().all() and gradient[0].isfinite().all()


def test_width_is_room_for_weights():
    f, clean, offsets, _ = features((3, 2))
    narrow, wide = (ops.hull_distance(f, clean, offsets, width=w)[1] for w in (None, 7))
    assert narrow.shape == (5, 3) and torch.equal(wide[:, :3], narrow) and not wide[:, 3:].any()


@pytest.mark.large
@large
def test_more_than_2_to_31_values(generator):
    each, people, d = 65600, 64, 512  # 2^31 and a little
    features = torch.nn.functional.normalize(torch.randn(each, d, generator=generator)).repeat(people, 1)
    clean, clean_offsets = features[: 2 * people].clone(), 2 * torch.arange(people + 1)
    offsets = each * torch.arange(people + 1)
    distance, _, gradient = ops.hull_distance(features, clean, offsets, clean_offsets=clean_offsets, subspace="centre")
    for i, p in ((0, 0), (len(features) - 1, people - 1)):
        alone = ops.hull_distance(
            features[i : i + 1],
            clean[2 * p : 2 * p + 2],
            offsets_of((1,)),
            clean_offsets=offsets_of((2,)),
            subspace="centre",
        )
        assert torch.equal(distance[i : i + 1], alone[0]) and torch.equal(gradient[i : i + 1], alone[2])
