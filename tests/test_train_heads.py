"""Each head against its formula in float64."""

from __future__ import annotations

import math
import sys

import pytest
import torch
import torch.nn.functional as F

from veilkern.errors import ModelError
from veilkern.training.heads import HEADS, default_scale, make_head

IDENTITIES, EMBEDDING = 7, 12


def weights_of(head) -> torch.Tensor:
    """float64 [identities, d]."""
    return head.library_loss.W.detach().double().T


def cosines(embeddings: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return F.normalize(embeddings.double()) @ F.normalize(weights).T


def wanted(kind: str, cosine: torch.Tensor, labels: torch.Tensor, margin: float, scale: float) -> torch.Tensor:
    own = cosine[torch.arange(len(labels)), labels]
    angle = own.acos()
    if kind == "lmcl":
        changed = own - margin
    else:  # past pi - m the cosine would rise again: there the loss goes on as a straight line
        changed = torch.where(angle <= math.pi - margin, (angle + margin).cos(), own - margin * math.sin(margin))
    logits = cosine.clone()
    logits[torch.arange(len(labels)), labels] = changed
    return F.cross_entropy(scale * logits, labels)


def batch(weights: torch.Tensor, sign: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings about as near to their identity's weights as in training; sign -1: to the opposite."""
    labels = torch.arange(16) % IDENTITIES
    return (sign * weights[labels] + 0.3 * torch.randn(16, EMBEDDING)).float() * 5, labels


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["near", "opposite"])
@pytest.mark.parametrize("share", [1.0, 0.4, 0.0])
@pytest.mark.parametrize(
    "kind,margin,scale", [("lmcl", 0.35, 64.0), ("lmcl", 0.2, 24.0), ("arcface", 0.5, 64.0), ("arcface", 0.3, 16.0)]
)
def test_the_margin_is_that_of_the_formula(kind, margin, scale, share, sign):
    """s (cos t - m) and s cos(t + m): at the full margin, in its warm-up and without it."""
    head = make_head(kind, IDENTITIES, EMBEDDING, margin=margin, scale=scale)
    embeddings, labels = batch(weights_of(head), sign)
    head.set_margin(share)
    found = head(embeddings, labels)
    expected = wanted(kind, cosines(embeddings, weights_of(head)), labels, share * margin, scale)
    torch.testing.assert_close(found.double(), expected, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("kind,margin", [("lmcl", 0.35), ("arcface", 0.5)])
def test_the_papers_margins_are_the_defaults(kind, margin):
    assert HEADS[kind] == margin
    head = make_head(kind, IDENTITIES, EMBEDDING, margin=HEADS[kind], scale=1.0)
    target = torch.tensor([0.6])  # a cosine
    changed = head.library_loss.modify_cosine_of_target_classes(target)
    exact = 0.6 - 0.35 if kind == "lmcl" else math.cos(math.acos(0.6) + 0.5)
    assert changed.item() == pytest.approx(exact, abs=1e-6)


def test_softmax_is_plain_cross_entropy_over_linear_logits():
    head = make_head("softmax", IDENTITIES, EMBEDDING, margin=0.0, scale=64.0)
    embeddings, labels = torch.randn(9, EMBEDDING), torch.arange(9) % IDENTITIES
    weights, bias = (p.detach().double() for p in head.parameters())
    expected = F.cross_entropy(embeddings.double() @ weights.T + bias, labels)
    torch.testing.assert_close(head(embeddings, labels).double(), expected)
    head.set_margin(0.5)  # means nothing to it
    torch.testing.assert_close(head(embeddings, labels).double(), expected)


@pytest.mark.parametrize("kind", HEADS)
def test_gradients_reach_embeddings_and_weights_and_are_finite(kind):
    """Also where a feature lies on its identity's weights, where the arc cosine has no slope."""
    head = make_head(kind, IDENTITIES, EMBEDDING, margin=HEADS[kind], scale=24.0)
    weights = next(head.parameters())
    rows = weights.detach() if kind == "softmax" else weights.detach().T
    embeddings = torch.cat([rows[:3] * 4, -rows[:3], torch.randn(3, EMBEDDING)]).requires_grad_()
    head(embeddings, torch.tensor([0, 1, 2, 0, 1, 2, 3, 4, 5])).backward()
    for value in (embeddings, weights):
        assert value.grad.isfinite().all() and value.grad.abs().max() > 0


@pytest.mark.parametrize("kind", HEADS)
def test_heads_count_in_float32_whatever_the_network_does(kind):
    head = make_head(kind, IDENTITIES, EMBEDDING, margin=HEADS[kind], scale=64.0)
    embeddings, labels = torch.randn(8, EMBEDDING).bfloat16(), torch.arange(8) % IDENTITIES
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head(embeddings, labels)
    assert found.dtype == torch.float32 and torch.equal(found, head.loss(embeddings.float(), labels))


@pytest.mark.parametrize("kind", ["lmcl", "arcface"])
def test_fresh_weights_have_a_length_of_about_one(kind):
    torch.manual_seed(5)
    head = make_head(kind, 500, 128, margin=0.3, scale=24.0)
    lengths = weights_of(head).norm(dim=1)
    assert lengths.mean().item() == pytest.approx(1.0, abs=0.05)
    torch.manual_seed(5)
    assert torch.equal(weights_of(make_head(kind, 500, 128, margin=0.3, scale=24.0)), weights_of(head))


def test_the_scale_by_default():
    assert default_scale(10) == default_scale(9_999) == 24.0 and default_scale(10_000) == 64.0


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning.losses", None)
    with pytest.raises(ModelError, match=r"pip install veilkern\[train\]"):
        make_head("lmcl", 3, 8, margin=0.35, scale=24.0)
