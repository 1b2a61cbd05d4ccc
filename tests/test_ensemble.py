"""Ensemble: several networks as one surrogate; its veils serve each of them."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from craft_cases import FAST, KEY, people_of
from helpers import not_followed
from torch import nn

import veilkern as vk
from veilkern.engine import Frozen, frozen
from veilkern.errors import ModelError
from veilkern.evaluate import evaluate

SIDE = 12


class Small(nn.Module):
    def __init__(self, width: int, seed: int, followed: bool = True):
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.act, self.linear = nn.Conv2d(3, 6, 3, 2), nn.PReLU(6), nn.Linear(150, width)
        self.followed = followed

    def forward(self, x):
        if not self.followed:
            not_followed(x)
        return self.linear(self.act(self.conv(x)).flatten(1))


def member(width=5, seed=0, followed=True, **spec) -> vk.FaceModel:
    return vk.FaceModel(Small(width, seed, followed), size=SIDE, name=f"small-{seed}", **spec)


def pair(weights=None, followed=True) -> vk.Ensemble:
    return vk.Ensemble(
        [member(5, 0), member(7, 1, followed, mean=[0.2, 0.5, 0.4], std=[0.5] * 3, bgr=True, value_range=255)], weights
    )


@pytest.fixture
def photos() -> vk.People:
    return people_of([3, 2, 1, 4], side=SIDE, seed=5)


def test_features_are_the_weighted_members_side_by_side(photos):
    both = pair([3, 1])
    assert both.weights == (0.75, 0.25)
    found = both.features(photos.images)
    alone = [m.features(photos.images) for m in both.members]
    assert found.shape == (10, 12) and found.norm(dim=1).sub(1).abs().max() < 1e-6
    torch.testing.assert_close(found, torch.cat([0.75**0.5 * alone[0], 0.25**0.5 * alone[1]], 1))
    cosines = [f @ f.T for f in (found, *alone)]
    torch.testing.assert_close(cosines[0], 0.75 * cosines[1] + 0.25 * cosines[2])
    torch.testing.assert_close(both.join([10 * alone[0], alone[1]]), found)
    assert list(both.by_network(found)) == ["small-0", "small-1"]
    for part, own in zip(both.by_network(found).values(), alone, strict=True):
        torch.testing.assert_close(part, own)
    assert member().by_network(alone[0]) == {}


def test_slopes_are_the_sum_of_the_members(photos):
    both = pair([1, 2])
    x = (photos.images[:4].double() / 255).float()
    target = F.normalize(torch.randn(4, 12, generator=torch.Generator().manual_seed(2)))

    def slope(model, wanted, scale):
        y = x.clone().requires_grad_()
        (scale * model.embed(y) * wanted).sum().backward()
        return y.grad

    parts = zip(both.members, target.split([5, 7], 1), both.weights, strict=True)
    torch.testing.assert_close(slope(both, target, 1), sum(slope(m, t, w**0.5) for m, t, w in parts))


def test_the_engine_runs_each_member_that_it_can(photos):
    fast, why = frozen(pair(), width=2)
    assert why == "" and all(isinstance(m.module, Frozen) for m in fast.members)
    torch.testing.assert_close(fast.features(photos.images), pair().features(photos.images), atol=1e-5, rtol=0)
    mixed, why = frozen(pair(followed=False), width=2)
    assert why.startswith("small-1: ") and "small-0" not in why
    assert [isinstance(m.module, Frozen) for m in mixed.members] == [True, False]


@pytest.mark.parametrize("scheme", ["blend", "sealed"])
def test_its_veils_serve_each_network_and_say_so(photos, scheme):
    both = pair()
    config = vk.CraftConfig(scheme=scheme, robust="none", steps=40, early_stop=False, block=(3, 3))
    crafting, unseen = photos.split(1)
    result = vk.craft(both, crafting, config, key=KEY, held_out=unseen, progress=False)
    for record in result.report:
        assert set(record["networks"]) == {"small-0", "small-1"}
        mean = sum(figures["cosine"] for figures in record["networks"].values()) / 2
        assert record["cosine"] == pytest.approx(mean, abs=0.02)  # not the same: each has a centre of its own
        if photos.counts[photos.names.index(record["name"])] > 1:
            assert set(record["held_out"]["networks"]["small-1"]) == {"cosine", "rank1"}
    members = result.bank.model["members"]
    assert [(m["name"], m["weight"]) for m in members] == [("small-0", 0.5), ("small-1", 0.5)]
    key = KEY if scheme == "sealed" else None
    for network in (*both.members, both):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = evaluate(network, photos, result.bank, key=key)
        assert found.bank["model"]["members"] == members
    with pytest.warns(UserWarning, match="another network"):
        evaluate(member(5, 9), photos, result.bank, key=key)


def test_nobodys_bits_depend_on_who_else_is_there(photos):
    whole = vk.craft(pair(), photos, FAST, key=KEY, progress=False).bank
    alone = vk.craft(pair(), people_of([3], side=SIDE, seed=5), FAST, key=KEY, progress=False).bank
    assert torch.equal(alone.veils[0], whole.veils[0])


def test_another_weight_is_another_network(photos, tmp_path):
    assert pair().fingerprint == pair([2, 2]).fingerprint != pair([1, 2]).fingerprint
    assert pair().fingerprint not in {m.fingerprint for m in pair().members}
    made = vk.craft(pair(), photos, FAST, key=KEY, progress=False, journal=tmp_path / "j")
    made.bank.save(tmp_path / "bank")
    assert vk.VeilBank.load(tmp_path / "bank").model == made.bank.model
    again = vk.craft(pair(), photos, FAST, key=KEY, progress=False, journal=tmp_path / "j", resume=True)
    assert torch.equal(again.bank.veils, made.bank.veils) and again.bank.model == made.bank.model
    with pytest.raises(ValueError, match="crafted with another network"):
        vk.craft(pair([1, 2]), photos, FAST, key=KEY, progress=False, journal=tmp_path / "j", resume=True)


def test_templates_of_each_network_make_the_same_sealed_veils(photos):
    both, config = pair(), vk.CraftConfig(scheme="sealed", steps=4, block=(3, 3))
    features = both.join([m.features(photos.images, batch=4) for m in both.members])
    names = [photos.names[p] for p in photos.rows.tolist()]
    made = vk.craft(both, None, config, features=features, names=names, key=KEY, progress=False)
    assert made.report[0]["networks"].keys() == {"small-0", "small-1"}
    assert made.bank.names == photos.names


def test_a_member_that_gives_nan_is_reported_and_never_hidden(photos):
    broken = member(5, 1)
    broken.module.linear.weight.data[0, 0] = float("nan")
    both = vk.Ensemble([member(5, 0), broken])
    with pytest.raises(ModelError, match="NaN"):
        vk.craft(both, photos, FAST, key=KEY, progress=False)


def test_a_member_that_tells_nobody_apart_does_not_hide_behind_the_others(sample_model, people):
    assert vk.Ensemble([sample_model, sample_model]).check(people).auc > 0.9
    torch.manual_seed(0)
    blind = vk.FaceModel(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), name="blind")
    with pytest.raises(ModelError, match="blind"):
        vk.Ensemble([sample_model, blind], [99, 1]).check(people)


def test_names_are_made_unique():
    both = vk.Ensemble([member(), member()])
    assert list(both.by_network(torch.eye(10)[:1])) == ["small-0", "small-0 (2)"]
    assert both.name == "small-0 + small-0"


@pytest.mark.parametrize(
    ("members", "weights", "error", "words"),
    [
        (lambda: member(), None, TypeError, "members must be a list of FaceModels, got FaceModel"),
        (lambda: [member(), nn.Flatten()], None, TypeError, "got Flatten"),
        (lambda: [member()], None, ValueError, "two at least, got 1"),
        (lambda: [member(), vk.FaceModel(nn.Flatten(), size=8)], None, ValueError, "one size, got"),
        (lambda: [member(), member()], [1], ValueError, "weights must be 2 numbers"),
        (lambda: [member(), member()], "12", TypeError, "weights must be numbers"),
        (lambda: [member(), member()], [1, 0], ValueError, "positive"),
        (lambda: [member(), member()], [1, float("nan")], ValueError, "positive"),
    ],
)
def test_wrong_arguments(members, weights, error, words):
    with pytest.raises(error, match=words):
        vk.Ensemble(members(), weights)


def test_wrong_features():
    with pytest.raises(ValueError, match=r"must be \[N, 12\], got \[1, 5\]"):
        pair().by_network(torch.ones(1, 5))
    for wrong in ([(1, 5), (2, 7)], [(1, 5)], [], [(1, 7), (1, 5)], [(5,), (7,)]):
        with pytest.raises(ValueError, match=r"must be \[N, 5\], \[N, 7\] of one N, got"):
            pair().join([torch.ones(shape) for shape in wrong])
    for kind, wrong in (("torch.uint8", torch.ones(1, 5, dtype=torch.uint8)), ("int", 3)):
        with pytest.raises(TypeError, match=f"tensors of floats, got {kind}"):
            pair().join([wrong, torch.ones(1, 7)])


NET = "veilkern.samples:load_model"


def test_the_command_takes_several_networks(tmp_path, people):
    from veilkern.data.photos import write_png

    for image, file in zip(people.images, people.files, strict=True):
        (tmp_path / "faces" / file).parent.mkdir(parents=True, exist_ok=True)
        write_png(tmp_path / "faces" / file, image)

    def craft(*options):
        command = [sys.executable, "-m", "veilkern", "craft", tmp_path / "faces", "--out", tmp_path / "veils", *options]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=200)
        return done.returncode, done.stdout, done.stderr

    two = ("--model", NET, "--model", NET, "--steps", 3, "--seed", 1)
    for wrong, status, words in (
        (("--model", NET, "--weight", 1), 2, "several networks"),
        ((*two, "--weight", 1), 1, "weights must be 2 numbers, one a member, got 1"),
        ((*two, "--weight", 1, "--weight", -1), 1, "positive"),
    ):
        code, _, text = craft(*wrong)
        assert code == status and words in " ".join(text.replace("│", " ").split()), text
    code, printed, text = craft(*two, "--weight", 3, "--weight", 1, "--held-out", 1, "--json")
    assert code == 0, text
    names = list(json.loads(printed)["people"][0]["held_out"]["networks"])
    assert names == ["veilkern sample network", "veilkern sample network (2)"]
    assert [m["weight"] for m in vk.VeilBank.load(tmp_path / "veils").model["members"]] == [0.75, 0.25]
    code, printed, text = craft(*two, "--weight", 3, "--weight", 1, "--held-out", 1, "--overwrite")
    assert code == 0 and printed.count("mean cosine") == 2 and printed.count("held out") == 2, text
