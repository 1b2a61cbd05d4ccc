"""craft: what it promises about bits, persons, failures, interruption and quality on the embedded default."""

from __future__ import annotations

import pytest
import torch
from craft_cases import FAST, KEY, linear_model, people_of
from torch import nn

import veilkern as vk
from veilkern import reference
from veilkern.crafting.config import SUBSPACES
from veilkern.crafting.held_out import HeldOut
from veilkern.errors import ModelError
from veilkern.evaluate import metrics
from veilkern.ops.hull_distance import SUBSPACES as SUBSPACES_OF_THE_OP
from veilkern.reference.contour import contour_loss


def test_quality_on_the_embedded_default(sample_model, people):
    crafting, unseen = people.split(2)
    result = vk.craft(sample_model, crafting, key=KEY, held_out=unseen, progress=False)
    assert result.bank.names == people.names and result.key is None
    for record in result.report:
        assert record["status"] == "converged" and 20 <= record["steps"] <= 40
        assert record["cosine"] > 0.9 and record["held_out"]["cosine"] > 0.85 and record["held_out"]["rank1"] == 1.0
    hidden = vk.protect(people.images, result.bank, result.bank.rows(people.names)[people.rows])
    assert metrics.ssim(people.images, hidden).mean() < 0.02
    back = vk.recover(hidden, result.bank, people.rows)
    assert (back.int() - people.images.int()).abs().max() <= 2


def test_the_recorded_losses_are_those_of_the_finished_veils(sample_model, people):
    result = vk.craft(sample_model, people, FAST, key=KEY, progress=False)
    for p, record in enumerate(result.report):
        x, veil = people.photos(p), result.bank.veils[p : p + 1]
        hidden = reference.blend(x, veil, torch.zeros(len(x), dtype=torch.int64), 51)
        features, clean = sample_model.features(hidden), sample_model.features(x)
        distance = (features - clean.mean(0)).square().sum(1).mean().item()
        assert record["feature_distance"] == pytest.approx(distance, abs=1e-4)
        mixed = 0.2 * x.double() / 255 + 0.8 * veil.double() / 255
        visual = (x.double() / 255 - mixed).flatten(1).norm(dim=1).mean().item()
        assert record["visual"] == pytest.approx(visual, rel=1e-4)
        veils, offsets = veil.double() / 255, torch.tensor([0, len(x)])
        total = distance - FAST.lam * visual + FAST.mu * reference.block_variance(mixed).mean().item()
        total += FAST.nu * contour_loss(x, veils, offsets, 51).item()
        assert record["total"] == pytest.approx(total, abs=1e-3)


def test_same_bits_again_and_other_bits_for_another_key(sample_model, people, tmp_path):
    paths = []
    for i, key in enumerate((KEY, KEY, b"another key of enough bytes")):
        bank = vk.craft(sample_model, people, FAST, key=key, progress=False).bank
        bank.save(tmp_path / f"{i}")
        paths.append((tmp_path / f"{i}").read_bytes())
    assert paths[0] == paths[1] != paths[2]
    assert KEY.hex().encode() not in paths[0] and KEY not in paths[0]


def test_keys_and_seeds(sample_model, people):
    fresh = vk.craft(sample_model, people, FAST, progress=False)
    assert len(fresh.key) == 32 and fresh.bank.key == fresh.key.hex()
    assert fresh.key.hex() not in repr(fresh) and repr(fresh.key) not in repr(fresh)  # veils are keys, keys are secrets
    again = vk.craft(sample_model, people, FAST, key=fresh.key, progress=False)
    assert (
        torch.equal(again.bank.veils, fresh.bank.veils)
        and again.bank.key == ""
        and again.bank.key_id == fresh.bank.key_id
    )
    seeded = [
        vk.craft(sample_model, people, vk.CraftConfig(steps=4, seed=s), progress=False).bank.veils for s in (1, 1, 2)
    ]
    assert torch.equal(seeded[0], seeded[1]) and not torch.equal(seeded[0], seeded[2])
    with pytest.raises(ValueError, match="not both"):
        vk.craft(sample_model, people, vk.CraftConfig(seed=1), key=KEY)
    with pytest.raises(ValueError, match="at least 16 bytes"):
        vk.craft(sample_model, people, FAST, key=b"short")


@pytest.mark.parametrize(
    "change",
    [
        {"subspace": "convex"},
        {"subspace": "affine"},
        {"subspace": "span"},
        {"subspace": "self", "mu": 0.0},
        {"visual": "mse", "lam": 3.0},
        {"block_form": "literal"},
        {"block": (4, 4), "block_stride": 4},
        {"schedule": "cosine"},
        {"schedule": "constant"},
        {"photos_per_step": 3},
        {"photos_per_step": 0},
        {"decay": 0.0},
        {"alpha": 102 / 255},
        {"lam": 0.0},
        {"mu": 0.0},
        {"nu": 0.0},
        {"nu": 5.0},
        {"step_size": 2 / 255},
    ],
)
def test_every_option_does_something_and_works(sample_model, people, change):
    few = people.split(3)[0]
    plain = vk.craft(sample_model, few, vk.CraftConfig(steps=6, seed=3), progress=False)
    other = vk.craft(sample_model, few, vk.CraftConfig(steps=6, seed=3, **change), progress=False)
    assert not torch.equal(plain.bank.veils, other.bank.veils)
    start = vk.craft(sample_model, few, vk.CraftConfig(steps=1, seed=3, **change), progress=False)
    mean = [sum(r["feature_distance"] for r in result.report) for result in (start, other)]
    assert mean[1] < mean[0] or change.get("step_size")


def test_ragged_people_one_photo_included(sample_model, people):
    ragged = people.take([0, 6, 7, 12, 13, 14, 15, 16, 17])
    result = vk.craft(sample_model, ragged, vk.CraftConfig(steps=5, photos_per_step=4), key=KEY, progress=False)
    assert [r["photos"] for r in result.report] == [1, 2, 6]
    assert all(not r["status"].startswith("failed") for r in result.report)


@pytest.mark.parametrize("seed,fine", [(0, True), (129, True), (2**64 - 1, True), (2**64, False), (-1, False)])
def test_seeds_are_numbers_of_eight_bytes(seed, fine):
    if fine:
        assert vk.CraftConfig(seed=seed).seed == seed
    else:
        with pytest.raises(ValueError, match=r"seed must lie in 0\.\.2\^64 - 1"):
            vk.CraftConfig(seed=seed)


def test_persons_keys_and_generations_have_veils_of_their_own():
    """The same photos, one step: the start alone tells the veils apart."""
    photos = people_of([3]).images
    twins, config = vk.People.from_images([photos, photos]), vk.CraftConfig(steps=1)
    runs = [
        vk.craft(linear_model(), twins, config, key=key, generation=generation, progress=False).bank
        for key, generation in ((KEY, 0), (b"another key of enough bytes", 0), (KEY, 1), (KEY, 2))
    ]
    veils = torch.cat([bank.veils for bank in runs]).double().flatten(1)
    likeness = torch.corrcoef(veils - veils.mean(1, keepdim=True)) - torch.eye(len(veils))
    assert likeness.abs().max() < 0.5
    assert [bank.generations for bank in runs] == [[0, 0], [0, 0], [1, 1], [2, 2]]
    mixed = vk.craft(linear_model(), twins, config, key=KEY, generation={"person-1": 1}, progress=False).bank
    assert torch.equal(mixed.veils, torch.stack([runs[0].veils[0], runs[2].veils[1]]))
    for wrong in (-1, True, 1.0):
        with pytest.raises(ValueError, match="generation must be an integer"):
            vk.craft(linear_model(), twins, config, generation=wrong)


def test_held_out_figures_by_hand(monkeypatch):
    """Person 0's unseen photo looks most like person 1, person 1's like herself."""
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.0, 1.0]])
    colours = torch.tensor([10, 80, 150, 220], dtype=torch.uint8)
    photos = colours.view(4, 1, 1, 1, 1).expand(4, 1, 3, 8, 8).contiguous()

    class Table(nn.Module):
        def forward(self, x):
            level = ((x[:, 0, 0, 0] * 255)[:, None] - colours).abs().argmin(1)
            return features[level] + 0 * x.flatten(1).sum(1, keepdim=True)

    monkeypatch.setattr("veilkern.ops.blend", lambda images, *_, **__: images)  # as if the veil changed nothing
    crafting, unseen = vk.People.from_images(list(photos[:2])), vk.People.from_images(list(photos[2:]))
    result = vk.craft(vk.FaceModel(Table(), size=8), crafting, vk.CraftConfig(steps=1), held_out=unseen, progress=False)
    held = [record["held_out"] for record in result.report]
    assert held == [{"photos": 1, "cosine": 0.6, "rank1": 0.0}, {"photos": 1, "cosine": 1.0, "rank1": 1.0}]


def test_threads_are_set_for_the_craft_alone():
    inside = []
    before = torch.get_num_threads()
    told = {"progress": lambda *_: inside.append(torch.get_num_threads())}
    vk.craft(linear_model(), people_of([1]), FAST, threads=before + 1, **told)
    assert set(inside) == {before + 1} and torch.get_num_threads() == before
    with pytest.raises(ValueError, match="threads must be a positive integer"):
        vk.craft(linear_model(), people_of([1]), FAST, threads=0)


def test_steps_in_bfloat16_craft_veils_as_good(sample_model, people):
    """The records are of the network as it is."""
    crafting, unseen = people.split(2)
    results = {
        precision: vk.craft(
            sample_model, crafting, vk.CraftConfig(precision=precision), key=KEY, held_out=unseen, progress=False
        )
        for precision in ("float32", "bfloat16", "bfloat16")
    }
    exact, coarse = results.values()
    assert not torch.equal(exact.bank.veils, coarse.bank.veils)
    for a, b in zip(exact.report, coarse.report, strict=True):
        assert b["status"] == "converged" and abs(a["cosine"] - b["cosine"]) < 0.02
        assert abs(a["held_out"]["cosine"] - b["held_out"]["cosine"]) < 0.02
    rows = coarse.bank.rows(crafting.names)[crafting.rows]
    hidden = sample_model.features(vk.protect(crafting.images, coarse.bank, rows))
    clean = sample_model.features(crafting.images)
    for p, record in enumerate(coarse.report):
        own = slice(int(crafting.offsets[p]), int(crafting.offsets[p + 1]))
        centre = nn.functional.normalize(clean[own].mean(0), dim=0)
        assert float((hidden[own] @ centre).mean()) == pytest.approx(record["cosine"], abs=1e-4)


def test_bfloat16_wants_the_engine(people):
    class Closed(nn.Module):
        def forward(self, x):
            if x.numel() == 0:  # a branch that torch.fx cannot follow
                return x
            return nn.functional.adaptive_avg_pool2d(x, 3).flatten(1)

    with pytest.raises(ModelError, match="config.precision bfloat16 wants a network that the engine runs"):
        vk.craft(vk.FaceModel(Closed()), people, vk.CraftConfig(precision="bfloat16"), key=KEY, progress=False)
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16, got 'float16'"):
        vk.CraftConfig(precision="float16")


def test_ctrl_c_while_the_held_out_photos_are_looked_at(sample_model, people, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(HeldOut, "see", stop)
    crafting, unseen = people.split(2)
    with pytest.raises(vk.CraftInterrupted) as caught:
        vk.craft(sample_model, crafting, FAST, key=KEY, held_out=unseen, progress=False)
    assert len(caught.value.result.bank) == 4


def test_ctrl_c_keeps_what_is_finished(sample_model, people):
    config = vk.CraftConfig(steps=4, photos_in_flight=2, early_stop=False)

    def stop(done, total):
        if done > 8 + 3:
            raise KeyboardInterrupt

    with pytest.raises(vk.CraftInterrupted) as caught:
        vk.craft(sample_model, people, config, key=KEY, progress=stop)
    result = caught.value.result
    assert isinstance(caught.value, KeyboardInterrupt) and result.bank.names == people.names[:2]
    assert [r["status"] for r in result.report[2:]] == ["failed: interrupted"] * 2
    whole = vk.craft(sample_model, people, config, key=KEY, progress=False)
    assert torch.equal(whole.bank.veils[:2], result.bank.veils)


def test_early_stop_and_statuses(sample_model, people):
    base = {"seed": 1, "steps": 60}
    eager = vk.craft(sample_model, people, vk.CraftConfig(**base, stop_improvement=0.5, patience=5), progress=False)
    assert all(r["steps"] < 60 and r["status"] == "converged" for r in eager.report)
    never = vk.craft(sample_model, people, vk.CraftConfig(**base, early_stop=False), progress=False)
    assert all(r["steps"] == 60 for r in never.report)
    strict = vk.craft(sample_model, people, vk.CraftConfig(seed=1, steps=3, stop_distance=0.0), progress=False)
    assert all(r["status"] == "step limit" and r["steps"] == 3 for r in strict.report)


def test_progress_is_told(sample_model, people):
    seen = []
    vk.craft(sample_model, people, FAST, key=KEY, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (16, 16) and seen == sorted(seen)


def test_wrong_arguments(sample_model, people):
    with pytest.raises(TypeError, match="model must be a FaceModel"):
        vk.craft(nn.Identity(), people)
    with pytest.raises(TypeError, match="config must be a CraftConfig"):
        vk.craft(sample_model, people, {"steps": 3})
    climber = vk.People(people.images[:6], torch.tensor([0, 6]), ["../up"], people.files[:6])
    with pytest.raises(ValueError, match="plain folder names"):
        vk.craft(sample_model, climber)
    small = vk.People.from_images([torch.zeros((2, 3, 50, 50), dtype=torch.uint8)])
    with pytest.raises(ValueError, match="the network wants photos of"):
        vk.craft(sample_model, small)
    with pytest.raises(ValueError, match="held_out must hold photos of the same persons"):
        vk.craft(sample_model, people.take(range(6)), held_out=people)


def test_config():
    assert set(SUBSPACES) == set(SUBSPACES_OF_THE_OP)
    assert vk.CraftConfig().blend == 51 and vk.CraftConfig(alpha=100 / 255).blend == 100
    assert [vk.CraftConfig(alpha=a / 255).blend for a in (1, 2, 253, 254)] == [1, 2, 253, 254]
    with pytest.warns(UserWarning, match="rounded to"):
        assert [vk.CraftConfig(alpha=alpha).blend for alpha in (1e-9, 1 - 1e-9)] == [1, 254]
    with pytest.warns(UserWarning, match="alpha 0.3 rounded to 76/255"):
        assert vk.CraftConfig(alpha=0.3).blend == 76
    config = vk.CraftConfig(block=[4, 5], steps=7)
    assert vk.CraftConfig(**config.as_dict()) == config
    steps = [vk.CraftConfig(steps=10, step_size=0.1, schedule=s) for s in ("linear", "cosine", "constant")]
    assert [round(c.step_at(5), 3) for c in steps] == [0.05, 0.05, 0.1]


@pytest.mark.parametrize(
    "change,error",
    [
        ({"alpha": 0.0}, ValueError),
        ({"alpha": 1}, ValueError),
        ({"alpha": "0.2"}, TypeError),
        ({"steps": 0}, ValueError),
        ({"steps": 1.5}, TypeError),
        ({"lam": -1.0}, ValueError),
        ({"mu": float("nan")}, ValueError),
        ({"nu": -0.5}, ValueError),
        ({"nu": float("inf")}, ValueError),
        ({"nu": "1"}, TypeError),
        ({"schedule": "x"}, ValueError),
        ({"subspace": "x"}, ValueError),
        ({"visual": "x"}, ValueError),
        ({"block_form": "x"}, ValueError),
        ({"block": (0, 3)}, ValueError),
        ({"block": 3}, TypeError),
        ({"seed": -1}, ValueError),
        ({"seed": 1.0}, TypeError),
        ({"photos_in_flight": 0}, ValueError),
        ({"step_size": 3.0}, ValueError),
        ({"early_stop": 1}, TypeError),
        ({"patience": True}, TypeError),
    ],
)
def test_config_refuses(change, error):
    with pytest.raises(error, match=f"CraftConfig: {next(iter(change))}"):
        vk.CraftConfig(**change)
