"""craft of sealed veils: without a photo in the loop, from photos or templates, keyed, resumed; what is recorded."""

from __future__ import annotations

import dataclasses
import json
import stat

import pytest
import torch
from craft_cases import KEY, linear_model, one_batch, people_of
from torch import nn

import veilkern as vk
from veilkern import ops, reference
from veilkern.crafting.batch import IdentityBatch
from veilkern.crafting.features import fixed_features
from veilkern.crafting.journal import Journal
from veilkern.crafting.noise import keys_of, nonces_of
from veilkern.crafting.sampler import TurnSampler, draw
from veilkern.evaluate import metrics
from veilkern.veils import keyed
from veilkern.veils.compatibility import differences

SIDE = 8
FAST = vk.CraftConfig(scheme="sealed", robust="none", steps=4, block=(3, 3))
ROBUST = vk.CraftConfig(scheme="sealed", steps=4, block=(3, 3))
SEALED_NET = linear_model(SIDE)


def sealed(bank, people, levels=64):
    """Photos of these people under the bank's veils, fresh keys and nonces."""
    keys, nonces = (
        torch.randint(0, 256, (n, k), dtype=torch.uint8) for n, k in ((len(bank), 32), (len(people.images), 12))
    )
    return ops.seal(people.images, bank.veils, bank.rows(people.names)[people.rows], keys, nonces, levels=levels)


def test_quality_on_the_embedded_default(sample_model, people):
    crafting, unseen = people.split(2)
    config = vk.CraftConfig(scheme="sealed", robust="none")
    result = vk.craft(sample_model, crafting, config, key=KEY, held_out=unseen, progress=False)
    bank = result.bank
    assert (bank.scheme, bank.levels, bank.rounds, bank.blend, bank.key) == ("sealed", 64, 20, 0, "")
    assert bank.key_id == keyed.key_id(KEY) and int(bank.veils.max()) <= 192 and int(bank.veils.min()) == 0
    for record in result.report:
        assert record["status"] == "converged" and record["steps"] <= 16 and record["cosine"] > 0.9
        assert record["held_out"]["cosine"] > 0.9 and record["held_out"]["rank1"] == 1.0
        assert not {"visual", "contour", "contour_worst"} & set(record) and len(record["photo_ids"]) == 4
    hidden = sealed(bank, people)
    own, others = metrics.ssim(people.images, hidden), metrics.ssim(people.images.roll(6, 0), hidden)
    assert own.mean() < 0.02 and abs(own.mean() - others.mean()) < 0.004


@pytest.mark.parametrize("levels", [16, 32, 64, 128])
@pytest.mark.parametrize("rounds", [12, 20])
def test_the_recorded_figures_are_those_of_the_finished_veils(levels, rounds):
    """Four black photos sealed under the person's noise key, by the reference."""
    config, people = dataclasses.replace(FAST, levels=levels, rounds=rounds), people_of([2, 3])
    bank = vk.craft(SEALED_NET, people, config, key=KEY, progress=False).bank
    assert int(bank.veils.max()) <= 256 - levels and (bank.levels, bank.rounds) == (levels, rounds)
    for p, (name, record) in enumerate(zip(people.names, bank.records, strict=True)):
        keys, sample = keys_of([(KEY, name, 0)], "noise"), torch.arange(4)
        black = torch.zeros(4, 3, SIDE, SIDE, dtype=torch.uint8)
        hidden = reference.seal(
            black, bank.veils[p : p + 1], 0 * sample, keys, nonces_of(0, sample, 1), levels=levels, rounds=rounds
        )
        features, clean = SEALED_NET.features(hidden), SEALED_NET.features(people.photos(p))
        distance = (features - clean.mean(0)).square().sum(1).mean().item()
        variance = reference.block_variance(bank.veils[p : p + 1].double() / 255).item()
        assert record["feature_distance"] == pytest.approx(distance, abs=1e-4)
        assert record["variance"] == pytest.approx(variance, rel=1e-4)
        assert record["total"] == pytest.approx(distance + 0.01 * variance, abs=1e-4)
        assert record["photos"] == len(clean)


@pytest.mark.parametrize("change", [{}, {"photos_per_step": 0}, {"photos_per_step": 2, "mu": 1.0}, {"levels": 128}])
@pytest.mark.parametrize("spec", [{}, {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7), "bgr": True}])
def test_a_step_is_down_the_slope_of_the_mean_loss(change, spec):
    """Against autograd in float64 on noise by the reference; the third person has ended."""
    config, people = dataclasses.replace(FAST, steps=20, **change), people_of([1, 5, 3])
    model = vk.FaceModel(linear_model(SIDE).module, size=SIDE, **spec)
    batch = one_batch(model, people, config)
    start = batch.veils.clone()
    batch.watch.ended[2] = 1
    plan = draw(batch.samplers, [0, 1, 2], batch.offsets, 2, 4, start.device, first=7)
    batch._step(8, plan, 1)
    found = batch.watch.history[8].view(2, 3).T
    assert torch.equal(batch.veils[2], start[2])
    for p in (0, 1):
        veil, count = start[p].double().requires_grad_(), batch.samplers[p].per_step
        keys = keys_of([(KEY, people.names[p], 0)], "noise")
        black = torch.zeros(count, 3, SIDE, SIDE, dtype=torch.uint8)
        noise = reference.seal(
            black, black[:1], torch.zeros(count, dtype=torch.int64), keys, nonces_of(8, torch.arange(count), 0),
            levels=config.levels,
        )  # fmt: skip
        mixed = (veil * (256 - config.levels) + noise.double()) / 255
        clean = model.features(people.photos(p)).double().mean(0)
        distance = (model.embed(mixed.float()).double() - clean).square().sum(1).mean()
        share = (256 - config.levels) / 255
        variance = reference.block_variance(veil[None] * share).mean()
        loss = distance + config.mu * variance
        (slope,) = torch.autograd.grad(loss, veil)
        wanted = (start[p] - config.step_at(8) * slope.sign()).clamp(0, 1)
        assert ((batch.veils[p] - wanted).abs() < 1e-5).double().mean() > 0.99
        assert found[p].tolist() == pytest.approx([distance.item(), loss.item()], rel=1e-4)


def test_no_photo_is_in_the_loop():
    """Other photos of the same features give the same veils, and so do these features alone: bit for bit."""

    class Corner(nn.Module):
        """Sees the left half of a photo."""

        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE // 2, 6))

        def forward(self, x):
            return self.net(x[..., : SIDE // 2])

    torch.manual_seed(3)
    model, people = vk.FaceModel(Corner(), size=SIDE), people_of([2, 1, 4])
    other = people.images.clone()
    other[..., SIDE // 2 :] = 255 - other[..., SIDE // 2 :]
    twins = vk.People(other, people.offsets, people.names, people.files)
    features = fixed_features(model, people.images, 4)
    names = [people.names[p] for p in people.rows.tolist()]
    for config in (FAST, ROBUST):
        plain, others = (vk.craft(model, p, config, key=KEY, progress=False).bank for p in (people, twins))
        templates = vk.craft(model, config=config, features=features, names=names, key=KEY, progress=False).bank
        assert torch.equal(plain.veils, others.veils) and torch.equal(plain.veils, templates.veils)
        assert (templates.names, templates.config, templates.key_id) == (plain.names, plain.config, plain.key_id)
        for a, b in zip(plain.records, templates.records, strict=True):
            assert b["templates"] == a["photos"] == len(b["template_ids"]) == len(set(b["template_ids"]))
            own = ("photos", "photo_ids", "templates", "template_ids")
            assert {k: v for k, v in a.items() if k not in own} == {k: v for k, v in b.items() if k not in own}


def test_templates_come_in_any_order_length_and_dtype():
    people = people_of([2, 1, 3])
    features = SEALED_NET.features(people.images)
    names = [people.names[p] for p in people.rows.tolist()]
    plain = vk.craft(SEALED_NET, config=FAST, features=features, names=names, key=KEY, progress=False).bank
    order = [2, 3, 0, 4, 1, 5]  # of each person the same order
    mixed = features[order] * torch.tensor([1.0, 2.0, 0.5, 4.0, 1.0, 8.0])[:, None]  # exact in binary
    others = vk.craft(
        SEALED_NET, config=FAST, features=mixed, names=[names[i] for i in order], key=KEY, progress=False
    ).bank
    assert others.names == [people.names[1], people.names[2], people.names[0]]
    # What was normalised again may differ in its last bit, and signs of slopes near zero with it.
    same = (others.take(plain.names).veils == plain.veils).double().mean()
    assert same > 0.99
    double = vk.craft(SEALED_NET, config=FAST, features=features.double(), names=names, key=KEY, progress=False).bank
    assert torch.equal(double.veils, plain.veils) and double.records == plain.records


FEATURES = torch.eye(6)[:3]


@pytest.mark.parametrize(
    "given,error,words",
    [
        ({"features": FEATURES[:, :5], "names": list("abc")}, ValueError, r"features must be \[N, 6\], as .* \[3, 5\]"),
        ({"features": FEATURES * float("nan"), "names": list("abc")}, ValueError, "3 that are not .first: number 0"),
        ({"features": FEATURES * torch.tensor([[1.0], [0.0], [1.0]]), "names": list("abc")}, ValueError, "number 1"),
        ({"features": FEATURES.long(), "names": list("abc")}, TypeError, "floats"),
        ({"features": FEATURES.tolist(), "names": list("abc")}, TypeError, "must be a tensor of floats"),
        ({"features": FEATURES[0], "names": ["a"]}, ValueError, r"must be \[N, d\]"),
        ({"features": FEATURES[:0], "names": []}, ValueError, "at least one"),
        ({"features": FEATURES, "names": ["a", "b"]}, ValueError, "names must have 3 entries"),
        ({"features": FEATURES, "names": "abc"}, TypeError, "names must be a list of text"),
        ({"features": FEATURES, "names": ["a", "b", 3]}, TypeError, "names must be a list of text"),
        ({"features": FEATURES, "names": ["a", "b", "../c"]}, ValueError, "plain folder names"),
        ({"features": FEATURES}, ValueError, "names must be given too"),
        ({"names": ["a"]}, ValueError, "features must be given too"),
        ({"features": FEATURES.to_sparse(), "names": list("abc")}, TypeError, "features must be a dense tensor"),
        ({"features": FEATURES.to("meta"), "names": list("abc")}, TypeError, "features must be a dense tensor"),
        ({"features": FEATURES, "names": list("abc"), "people": people_of([1])}, ValueError, "not both"),
        ({"features": FEATURES, "names": list("abc"), "config": vk.CraftConfig()}, ValueError, "must be sealed"),
        ({"features": FEATURES, "names": list("abc"), "config": None}, ValueError, "must be sealed"),
        ({"features": FEATURES, "names": list("abc"), "config": {}}, TypeError, "config must be a CraftConfig"),
        ({}, TypeError, "people must be a People, got NoneType"),
    ],
)
def test_templates_that_are_none(given, error, words):
    with pytest.raises(error, match=f"craft: .*{words}"):
        vk.craft(SEALED_NET, **{"config": FAST, "progress": False, **given})


@pytest.mark.parametrize("per_step", [1, 3, 0])
@pytest.mark.parametrize("subspace", ["centre", "convex"])
@pytest.mark.parametrize("robustness", ["none", "strong"])
def test_a_veil_does_not_depend_on_who_else_is_crafted(subspace, per_step, robustness):
    ragged = people_of([1, 5, 3, 2])
    config = dataclasses.replace(FAST, subspace=subspace, photos_per_step=per_step, robust=robustness)
    whole = vk.craft(SEALED_NET, ragged, config, key=KEY, progress=False).bank
    few = vk.craft(SEALED_NET, ragged, dataclasses.replace(config, photos_in_flight=5), key=KEY, progress=False).bank
    assert torch.equal(whole.veils, few.veils) and whole.records == few.records
    for p in range(4):
        own = ragged.take((ragged.rows == p).nonzero().flatten())
        alone = vk.craft(SEALED_NET, own, config, key=KEY, progress=False).bank
        assert torch.equal(alone.veils[0], whole.veils[p]) and alone.records[0] == whole.records[p]


@pytest.mark.parametrize("scheme", ["blend", "sealed"])
@pytest.mark.parametrize("robustness", ["none", "mild"])
def test_when_the_host_looks_changes_no_bit(monkeypatch, scheme, robustness):
    """Draws of several steps at once are those of step after step."""
    config = vk.CraftConfig(
        scheme=scheme, robust=robustness, steps=12, early_stop=True, patience=2, stop_distance=9.0, block=(3, 3)
    )
    found = []
    for look in (1, 5, 100):
        monkeypatch.setattr("veilkern.crafting.run._LOOK", {"cpu": look})
        found.append(vk.craft(SEALED_NET, people_of([1, 5, 3]), config, key=KEY, progress=False))
    assert len({record["steps"] for record in found[0].report}) > 1 or robustness == "none"
    for other in found[1:]:
        assert torch.equal(other.bank.veils, found[0].bank.veils) and other.report == found[0].report


def test_veils_differ_by_key_generation_and_option():
    people = people_of([3])
    plain = vk.craft(SEALED_NET, people, FAST, key=KEY, progress=False).bank
    changes = [
        {"levels": 32},
        {"rounds": 12},
        {"robust": "mild"},
        {"robust": "strong"},
        {"photos_per_step": 2},
        {"mu": 1.0},
        {"mu": 0.1, "block": (5, 5)},
        {"mu": 1.0, "block_form": "literal"},
        {"mu": 1.0, "block_stride": 3},
        {"subspace": "affine"},
        {"subspace": "span"},
        {"decay": 0.0},
        {"schedule": "constant"},
        {"step_size": 2 / 255},
    ]
    others = [
        vk.craft(SEALED_NET, people, dataclasses.replace(FAST, **c), key=KEY, progress=False).bank for c in changes
    ]
    others.append(vk.craft(SEALED_NET, people, FAST, key=KEY[::-1], progress=False).bank)
    others.append(vk.craft(SEALED_NET, people, FAST, key=KEY, generation=1, progress=False).bank)
    for change, other in zip([*changes, "key", "generation"], others, strict=True):
        assert not torch.equal(other.veils, plain.veils), change
    again = vk.craft(SEALED_NET, people, FAST, key=KEY, progress=False).bank
    assert torch.equal(again.veils, plain.veils) and again.records == plain.records


def test_no_two_drawings_of_a_persons_noise_share_a_nonce():
    sample = torch.arange(5)
    made = torch.cat([nonces_of(step, sample, use) for step in (0, 1, 255, 256, 70_000) for use in (0, 1, 2)])
    assert made.shape == (75, 12) and made.dtype == torch.uint8 and len(made.unique(dim=0)) == 75
    assert nonces_of(258, torch.tensor([3]), 2).tolist() == [[2, 1, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0]]
    keys = keys_of([(KEY, "a", 0), (KEY, "b", 0), (KEY, "a", 1)], "noise")
    assert len(keys.unique(dim=0)) == 3 and keys[0].numpy().tobytes() == keyed.derived(KEY, "noise", "a")
    assert keys[0].numpy().tobytes() != keyed.derived(KEY, "seal", "a")  # photos are sealed with another


def test_samples_take_turns():
    assert TurnSampler(3, 1).next().tolist() == [0]
    assert TurnSampler(3, 0).next().tolist() == [0, 1, 2]
    assert TurnSampler(2, 5).next().tolist() == [0, 0, 0, 1, 1]
    assert TurnSampler(2, 5).per_step == 5


def test_keys_and_seeds():
    people = people_of([2])
    fresh = vk.craft(SEALED_NET, people, FAST, progress=False)
    assert len(fresh.key) == 32 and fresh.bank.key == "" and fresh.bank.keys == {}
    assert fresh.bank.key_id == keyed.key_id(fresh.key) and fresh.key.hex() not in repr(fresh)
    again = vk.craft(SEALED_NET, people, FAST, key=fresh.key, progress=False)
    assert torch.equal(again.bank.veils, fresh.bank.veils) and again.key is None
    seeded = vk.craft(SEALED_NET, people, dataclasses.replace(FAST, seed=3), progress=False)
    assert keyed.key_id(seeded.key) == seeded.bank.key_id  # nothing could be sealed without it
    assert vk.craft(SEALED_NET, people, vk.CraftConfig(steps=1, seed=3), progress=False).key is None


def stop_after(count):
    def progress(done, total):
        if done > count:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("templates", [False, True])
@pytest.mark.parametrize("config", [FAST, ROBUST], ids=["none", "mild"])
def test_an_interrupted_craft_goes_on_with_the_same_bits(tmp_path, templates, config):
    people, path = people_of([2] * 6), tmp_path / "j"
    config = dataclasses.replace(config, photos_in_flight=2)
    given = {"people": people}
    if templates:
        names = [people.names[p] for p in people.rows.tolist()]
        given = {"features": SEALED_NET.features(people.images), "names": names}
    with pytest.raises(vk.CraftInterrupted):
        vk.craft(SEALED_NET, config=config, key=KEY, journal=path, progress=stop_after(10), **given)
    assert len(Journal.open(path).entries) == 2
    assert KEY.hex().encode() not in path.read_bytes() and Journal.open(path).header["key"] == ""
    calls = []
    told = {"key": KEY, "progress": lambda done, total: calls.append(done)}
    resumed = vk.craft(SEALED_NET, config=config, journal=path, resume=True, **told, **given)
    whole = vk.craft(SEALED_NET, config=config, key=KEY, progress=False, **given)
    assert calls[0] == 8 and not resumed.notices
    assert torch.equal(resumed.bank.veils, whole.bank.veils) and resumed.bank.records == whole.bank.records
    with pytest.raises(ValueError, match=r"crafted with another .*robust \w+ \(now strong\)"):
        vk.craft(
            SEALED_NET, config=dataclasses.replace(config, robust="strong"), journal=path, resume=True, **told, **given
        )
    if templates:
        given["features"] = given["features"].roll(1, 1)
        assert (
            "other templates than those"
            in vk.craft(SEALED_NET, config=config, journal=path, resume=True, **told, **given).notices[0]
        )


def test_a_fresh_key_is_in_the_journal_alone(tmp_path):
    path, config = tmp_path / "j", dataclasses.replace(FAST, photos_in_flight=2)
    with pytest.raises(vk.CraftInterrupted) as caught:
        vk.craft(SEALED_NET, people_of([2] * 6), config, journal=path, progress=stop_after(10))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    resumed = vk.craft(SEALED_NET, people_of([2] * 6), config, journal=path, resume=True, progress=False)
    assert resumed.key == caught.value.result.key and resumed.bank.key == "" and len(resumed.bank) == 6


def test_who_fails_fails_alone():
    """A network whose slope is not finite for one person's noise, and one of NaN features of clean photos."""

    class Poisoned(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = linear_model(SIDE).module

        def forward(self, x):
            return self.net(x) + torch.where(x[:, 0, 0, 0] > 0.999, float("nan"), 0.0)[:, None]

    people = people_of([2] * 3)
    people.images[:, :, 0, 0] = 7
    people.images[2, :, 0, 0] = 255
    result = vk.craft(vk.FaceModel(Poisoned(), size=SIDE), people, FAST, key=KEY, progress=False)
    assert [r["status"].startswith("failed: the network's features of the clean") for r in result.report] == [
        False,
        True,
        False,
    ]
    names = [people.names[i] for i in (0, 2)]
    assert result.bank.names == names
    others = vk.craft(
        vk.FaceModel(Poisoned(), size=SIDE), people.take([0, 1, 4, 5]), FAST, key=KEY, progress=False
    ).bank
    assert torch.equal(others.veils, result.bank.veils)


def test_photos_too_small_to_be_sealed():
    tiny = vk.FaceModel(nn.Sequential(nn.Flatten(), nn.Linear(75, 4)), size=5)
    with pytest.raises(ValueError, match="craft: photos of 96 values at least can be sealed, the network's have 75"):
        vk.craft(tiny, people_of([1], 5), FAST, progress=False)


def test_defaults_of_both_schemes():
    blend, sealed = vk.CraftConfig(), vk.CraftConfig(scheme="sealed")
    names = ("alpha", "lam", "mu", "nu", "block", "robust", "steps", "early_stop", "blend")
    assert [getattr(blend, n) for n in names] == [0.2, 0.06, 0.03, 1.5, (3, 3), "none", 40, True, 51]
    assert [getattr(sealed, n) for n in names] == [0.0, 0.0, 0.01, 0.0, (9, 9), "mild", 80, False, 0]
    made = {
        (scheme, robust): vk.CraftConfig(scheme=scheme, robust=robust)
        for scheme in ("blend", "sealed")
        for robust in ("none", "mild", "strong")
    }
    assert [c.steps for c in made.values()] == [40, 80, 200, 16, 80, 200]
    assert [round(255 * c.step_size) for c in made.values()] == [16, 16, 16, 32, 16, 16]
    assert [c.decay for c in made.values()] == [0.9, 1, 1, 0.8, 1, 1]
    assert [c.lam for c in made.values()] == [0.06, 0.06, 0.03, 0, 0, 0]
    for config in (
        blend,
        sealed,
        vk.CraftConfig(scheme="sealed", levels=16, rounds=12, mu=0.0, steps=7, early_stop=True, block=(4, 4)),
        vk.CraftConfig(robust="strong", steps=9, lam=0.0, alpha=102 / 255),
    ):
        assert vk.CraftConfig(**json.loads(json.dumps(config.as_dict()))) == config
        assert not any(value is None for name, value in config.as_dict().items() if name != "seed")


@pytest.mark.parametrize(
    "change",
    [
        {"scheme": "sealed", "alpha": 0.2},
        {"scheme": "sealed", "lam": 0.06},
        {"scheme": "sealed", "nu": 1.5},
        {"scheme": "sealed", "visual": "mse"},
        {"scheme": "sealed", "subspace": "self"},
        {"scheme": "sealed", "levels": 48},
        {"scheme": "sealed", "levels": 256},
        {"scheme": "sealed", "rounds": 8},
        {"scheme": "sealed", "mu": -1.0},
        {"scheme": "sealed", "robust": "weak"},
        {"scheme": "other"},
        {"scheme": None},
        {"levels": 32},
        {"rounds": 12},
    ],
)
def test_config_refuses_what_a_scheme_has_not(change):
    name = list(change)[-1]
    with pytest.raises(ValueError, match=f"CraftConfig: {name} must be"):
        vk.CraftConfig(**change)


@pytest.mark.parametrize(
    "change", [{"levels": 64.0}, {"rounds": "20"}, {"steps": True}, {"early_stop": 1}, {"mu": "1"}]
)
def test_config_refuses_other_types(change):
    with pytest.raises((TypeError, ValueError), match=f"CraftConfig: {next(iter(change))} must be"):
        vk.CraftConfig(scheme="sealed", **change)


def test_configurations_of_before_are_blends():
    """A bank or journal that knows neither scheme nor robust."""
    blend, before = vk.CraftConfig().as_dict(), vk.CraftConfig().as_dict()
    for name in ("scheme", "levels", "rounds", "robust", "precision"):
        del before[name]
    assert differences(before, blend) == [] == differences(blend, before)
    assert vk.CraftConfig(**before) == vk.CraftConfig()
    before["variance"] = before.pop("block_form")  # as it was called
    assert differences(before, blend) == [] == differences(blend, before)
    assert differences(before, blend | {"block_form": "literal"}) == ["block_form consistent (now literal)"]
    same = {name: blend[name] for name in ("steps", "step_size", "decay")}
    now = vk.CraftConfig(robust="mild", **same).as_dict()
    assert differences(before, now) == ["robust none (now mild)"]
    assert "scheme blend (now sealed)" in differences(before, vk.CraftConfig(scheme="sealed").as_dict())


def test_the_batch_of_templates_holds_no_photo():
    from veilkern.crafting.templates import Templates

    templates = Templates.of(torch.eye(6), list("aabbbc"))
    assert templates.counts.tolist() == [2, 3, 1] and templates.rows.tolist() == [0, 0, 1, 1, 1, 2]
    assert repr(templates) == "Templates(3 persons, 6 features of 6 numbers)"
    batch = IdentityBatch(SEALED_NET, templates, FAST, KEY, [0] * 3, 4, 1)
    plan = draw(batch.samplers, [0, 1, 2], batch.offsets, 1, 4, batch.veils.device)
    assert not batch.scheme.photos(plan, 0).any() and torch.equal(batch.clean, torch.eye(6))
