"""What fails in a method, whom it costs, and what is said of it; wrong arguments."""

from __future__ import annotations

import pytest
import torch
from craft_cases import people_of
from method_cases import EVERY, SCOPES, SIDE, small_fit, small_model
from torch import nn

import veilkern as vk
from veilkern.errors import ModelError
from veilkern.methods import fit


class Poisoned(nn.Module):
    """Features are NaN for photos whose first pixel is of the purest magenta, which noise seldom is."""

    def __init__(self):
        super().__init__()
        self.net = small_model().module

    def forward(self, x):
        first = x[:, :, 0, 0] * x.new_tensor([1.0, -1.0, 1.0])
        return self.net(x) + torch.where(first.sum(1, keepdim=True) > 1.99, float("nan"), 0.0)


@EVERY
def test_who_fails_is_told_and_costs_the_others_nothing(method):
    people = people_of([2, 3, 2], side=SIDE)
    people.images[:, :, 0, 0] = 100
    people.images[3:5, :, 0, 0] = torch.tensor([255, 0, 255], dtype=torch.uint8)
    model = vk.FaceModel(Poisoned(), size=SIDE)
    fitted = small_fit(method, people, model=model)
    others = people.take([0, 1, 5, 6])
    assert fitted.protect(others).shape == others.images.shape
    if fitted.scope == "photo":
        assert fitted.failed == {}
        with pytest.raises(ModelError, match=r"person-1/01\.png"):
            fitted.protect(people)
        return
    assert list(fitted.failed) == ["person-1"] and "feature" in fitted.failed["person-1"]
    if method in ("opom", "uap"):
        assert fitted.failed["person-1"] == "the network has no feature of person-1/01.png"
    if method == "opom":
        assert not fitted.masks[1].any() and fitted.masks[[0, 2]].any()
    if fitted.scope == "person":
        for ask in (lambda: fitted.protect(people), lambda: fitted.recover(people, people.images)):
            with pytest.raises(ModelError, match="person-1 could not be fitted: .*feature"):
                ask()
    alone = small_fit(method, others, model=model)
    assert torch.equal(alone.protect(others), fitted.protect(others))


@EVERY
def test_a_network_of_nan_is_an_error_with_a_name(method):
    class Nothing(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :8] * float("nan")

    people = people_of([2, 1], side=SIDE)
    model = vk.FaceModel(Nothing(), size=SIDE)
    with pytest.raises(ModelError, match="person-0"):
        if SCOPES[method] == "photo":
            small_fit(method, people, model=model).protect(people)
        else:
            small_fit(method, people, model=model)


@EVERY
def test_a_network_whose_slope_is_no_number(method):
    class NoSlope(nn.Module):
        def forward(self, x):
            f = x.flatten(1)[:, :8]
            return f + torch.sqrt(f * 0)  # the value is right, its slope 0 / 0

    people = people_of([2, 1], side=SIDE)
    with pytest.raises(ModelError, match="(person-0|everybody|person-0/00.png).*gradient|gradient.*person-0"):
        small_fit(method, people, model=vk.FaceModel(NoSlope(), size=SIDE)).protect(people)


@EVERY
def test_a_network_without_gradient(method):
    class Closed(nn.Module):
        @torch.no_grad()
        def forward(self, x):
            return nn.functional.adaptive_avg_pool2d(x, 3).flatten(1)

    people = people_of([2, 1], side=SIDE)
    with pytest.raises(ModelError, match="passes no gradient to its input"):
        small_fit(method, people, model=vk.FaceModel(Closed(), size=SIDE)).protect(people)


@EVERY
def test_wrong_arguments(method):
    people, model = people_of([2, 1], side=SIDE), small_model()
    with pytest.raises(TypeError, match=f"{method} has no option epsilom"):
        fit(model, people, method, epsilom=1)
    for steps, error in ((0, ValueError), (2.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="steps must be"):
            fit(model, people, method, steps=steps)
    for seed, error in ((-1, ValueError), (2**64, ValueError), ("a", TypeError), (None, TypeError)):
        with pytest.raises(error, match="seed must"):
            fit(model, people, method, seed=seed)
    with pytest.raises(TypeError, match="model must be a FaceModel, got Linear"):
        fit(nn.Linear(1, 1), people, method)
    with pytest.raises(TypeError, match="people must be a People, got list"):
        fit(model, [1], method)
    with pytest.raises(ValueError, match="wants photos of"):
        fit(model, people_of([2], side=SIDE + 1), method)
    empty = vk.People(people.images[:1], torch.tensor([0, 1, 1]), ["a", "b"], ["f"])
    for nobody in (empty, people.take([])):
        with pytest.raises(ValueError, match="at least one photo each"):
            fit(model, nobody, method)
    fitted = small_fit(method, people, steps=1)
    hidden = fitted.protect(people)
    with pytest.raises(TypeError, match="people must be a People"):
        fitted.protect(people.images)
    with pytest.raises(ValueError, match="wants photos of"):
        fitted.protect(people_of([2, 1], side=SIDE + 1))
    for wrong in (hidden[:1], hidden.numpy(), None):
        with pytest.raises(ValueError, match="protected must be a tensor"):
            fitted.recover(people, wrong)


def test_an_unknown_method_is_told_the_known_ones():
    with pytest.raises(ValueError, match="method must be one of veil, sealed, v-uap, uap, ric, avih, opom, got 'vail'"):
        fit(small_model(), people_of([1], side=SIDE), "vail")


@pytest.mark.parametrize(
    "method,options,error",
    [
        ("avih", {"weight": -1}, ValueError),
        ("avih", {"weight": "1"}, TypeError),
        ("avih", {"step_size": 0}, ValueError),
        ("avih", {"decay": float("nan")}, ValueError),
        ("avih", {"start": "image"}, ValueError),
        ("opom", {"epsilon": 0.5 / 255}, ValueError),
        ("opom", {"epsilon": 1.5}, ValueError),
        ("opom", {"step_size": 0.0}, ValueError),
        ("opom", {"decay": True}, TypeError),
        ("opom", {"centre_steps": -1}, ValueError),
        ("opom", {"centre_steps": 1.0}, TypeError),
        ("veil", {"alpha": 2.0}, ValueError),
        ("sealed", {"lam": 0.1}, ValueError),
    ],
)
def test_values_that_mean_nothing(method, options, error):
    with pytest.raises(error, match=next(iter(options))):
        fit(small_model(), people_of([1], side=SIDE), method, **options)
