"""What fails in a craft, and whom it costs a veil: nobody but those it concerns."""

from __future__ import annotations

import pytest
import torch
from craft_cases import FAST, KEY, linear_model, people_of
from helpers import not_followed
from torch import nn

import veilkern as vk
from veilkern.errors import ModelError


class Trouble(nn.Module):
    """Raises `error` in its calls number `calls`, or for batches that `when` says."""

    def __init__(self, error, calls=(), when=lambda x: False):
        super().__init__()
        self.net = linear_model().module
        self.state = {"calls": 0, "error": error, "numbers": calls, "when": when}

    def __deepcopy__(self, _):
        return self

    def forward(self, x):
        not_followed(x)
        self.state["calls"] += 1
        if self.state["calls"] in self.state["numbers"] or self.state["when"](x):
            raise self.state["error"]
        return self.net(x)


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("oops"), KeyError(1)]
)
@pytest.mark.parametrize("call", [1, 2, 6, 14, 21])
def test_a_failure_once_costs_nothing(error, call):
    people, config = people_of([2] * 6), vk.CraftConfig(steps=4, photos_in_flight=4)
    whole = vk.craft(linear_model(), people, config, key=KEY, progress=False)
    seen = []
    model = vk.FaceModel(Trouble(error, [call]), size=8)
    result = vk.craft(model, people, config, key=KEY, progress=lambda done, total: seen.append((done, total)))
    assert torch.equal(result.bank.veils, whole.bank.veils) and result.bank.records == whole.bank.records
    assert not result.notices and seen[-1] == (24, 24)


def test_memory_for_two_photos_only():
    error = torch.OutOfMemoryError("CUDA out of memory")
    model = vk.FaceModel(Trouble(error, when=lambda x: len(x) > 2), size=8)
    result = vk.craft(model, people_of([2] * 6), FAST, key=KEY, progress=False)
    assert len(result.bank) == 6
    assert result.notices == ["out of memory: from here on 2 photos are in the network at a time"]
    model = vk.FaceModel(Trouble(MemoryError(), when=lambda x: True), size=8)
    result = vk.craft(model, people_of([2] * 3), FAST, key=KEY, progress=False)
    assert [r["status"] for r in result.report] == ["failed: out of memory"] * 3


@pytest.mark.parametrize("error", [ValueError("no such face"), MemoryError(), OSError("gone")])
def test_a_network_that_fails_on_one_persons_photos(error):
    people = people_of([2] * 5)
    people.images[:, :, 0, 0] = torch.tensor([0, 1, 255, 1, 0], dtype=torch.uint8).repeat_interleave(2)[:, None]

    def hers(x):
        return bool((x[:, 0, 0, 0] > 0.99).any())

    whole = vk.craft(linear_model(), people, FAST, key=KEY, progress=False).bank
    result = vk.craft(vk.FaceModel(Trouble(error, when=hers), size=8), people, FAST, key=KEY, progress=False)
    assert result.bank.names == [people.names[i] for i in (0, 1, 3, 4)]
    if not isinstance(error, MemoryError):  # then the others may have been crafted with fewer photos at a time
        assert torch.equal(result.bank.veils, whole.veils[[0, 1, 3, 4]])
        assert str(error) in result.report[2]["status"]


def test_held_out_photos_that_fail_cost_no_veil():
    people = people_of([2] * 3)
    model = vk.FaceModel(Trouble(MemoryError()), size=8)
    vk.craft(model, people, FAST, key=KEY, progress=False)
    calls = model.module.state["calls"]
    model.module.state["numbers"] = range(2 * calls + 1, 10**6)
    result = vk.craft(model, people, FAST, key=KEY, held_out=people, progress=False)
    assert len(result.bank) == 3 and "held_out" not in result.report[0]
    assert "the held-out photos could not be judged" in result.notices[0]


class Poisoned(nn.Module):
    """Features are NaN for photos whose first pixel is white."""

    def forward(self, x):
        f = nn.functional.adaptive_avg_pool2d(x, 3).flatten(1)
        return f + torch.where(x[:, 0, 0, 0] > 0.99, float("nan"), 0.0)[:, None]


def test_one_persons_failure_is_hers_alone(people):
    images = people.images.clone()
    images[:, 0, 0, 0] = 100
    images[6:12, 0, 0, 0] = 255
    marked = vk.People(images, people.offsets, people.names, people.files)
    result = vk.craft(vk.FaceModel(Poisoned()), marked, FAST, key=KEY, progress=False)
    assert [r["status"].startswith("failed: the network's features of the clean photos") for r in result.report] == [
        False,
        True,
        False,
        False,
    ]
    assert result.bank.names == [people.names[i] for i in (0, 2, 3)]
    alone = vk.craft(vk.FaceModel(Poisoned()), marked.take([*range(6), *range(12, 24)]), FAST, key=KEY, progress=False)
    assert torch.equal(alone.bank.veils, result.bank.veils)


def test_gradients_that_are_not_finite(people):
    class NoGradient(nn.Module):
        def forward(self, x):
            f = nn.functional.adaptive_avg_pool2d(x, 3).flatten(1)
            return f + torch.sqrt(f * 0)  # the value is right, its gradient 0 / 0

    result = vk.craft(vk.FaceModel(NoGradient()), people, FAST, key=KEY, progress=False)
    assert all(r["status"] == "failed: the gradient was not finite in step 1" for r in result.report)
    assert len(result.bank) == 0


def test_a_network_of_nan_is_an_error(people):
    class Nothing(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :8] * float("nan")

    with pytest.raises(ModelError, match="NaN, infinity or a zero vector"):
        vk.craft(vk.FaceModel(Nothing()), people, FAST, progress=False)


def test_a_network_that_breaks_down_later(people):
    calls = []

    class Tired(nn.Module):
        def forward(self, x):
            not_followed(x)
            calls.append(1)
            if len(calls) > 25:
                raise RuntimeError("out of breath")
            return nn.functional.adaptive_avg_pool2d(x, 3).flatten(1)

    result = vk.craft(
        vk.FaceModel(Tired()), people, vk.CraftConfig(steps=4, photos_in_flight=2), key=KEY, progress=False
    )
    assert result.bank.names == people.names[:2]
    assert all("out of breath" in r["status"] for r in result.report[2:])


def test_a_network_without_gradient(people):
    class Closed(nn.Module):
        @torch.no_grad()
        def forward(self, x):
            return nn.functional.adaptive_avg_pool2d(x, 3).flatten(1)

    result = vk.craft(vk.FaceModel(Closed()), people, FAST, key=KEY, progress=False)
    assert not len(result.bank) and all("passes no gradient to its input" in r["status"] for r in result.report)
