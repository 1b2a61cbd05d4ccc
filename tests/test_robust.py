"""What is done to photos in a robust craft: hand cases, Pillow's JPEG, slopes, keyed draws; and veils that bear it."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from craft_cases import KEY, linear_model, one_batch, people_of
from PIL import Image

import veilkern as vk
from veilkern import ops
from veilkern.crafting import robust
from veilkern.crafting.noise import keys_of
from veilkern.crafting.robust import BLURS, QUALITIES, SHIFT, SIDES, STRENGTHS, ChangeDraws, Changes, Jpeg
from veilkern.crafting.sampler import Plan
from veilkern.veils import keyed

EXACT = torch.empty(0, dtype=torch.float64)
NONE = (0, 0, 0, 0)


def draws_of(person: str, strength="strong", generation=0) -> ChangeDraws:
    return ChangeDraws(keyed.stream(KEY, person, "robust", generation), STRENGTHS[strength])


def photos_of(count: int, size=(32, 32), seed=0) -> torch.Tensor:
    """Smooth photos, float64 [N, 3, H, W], far from 0 and 1."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 5, generator=g, dtype=torch.float64)
    return 0.3 + 0.4 * F.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)


def plan_of(changes, person=None, sample=None, first=0) -> Plan:
    """A plan of one step of these photos."""
    count, nothing = len(changes), torch.zeros(0, dtype=torch.int64)
    person = torch.arange(count) if person is None else torch.tensor(person)
    sample = torch.zeros(count, dtype=torch.int64) if sample is None else torch.tensor(sample)
    made = torch.tensor(changes, dtype=torch.int64)[None]
    return Plan(first, nothing, person, nothing, nothing, nothing, sample, made)


def changed(photos, changes, persons=("a", "b", "c", "d"), **plan) -> torch.Tensor:
    keys = keys_of([(KEY, name, 0) for name in persons], "robust noise")
    change = Changes(tuple(photos.shape[2:]), keys, photos)
    return change(photos, plan_of(changes, **plan), 0, slice(0, len(photos)))


@pytest.mark.parametrize("strength", ["mild", "strong"])
def test_a_photo_meets_one_change_as_often_as_is_said(strength):
    drawn = draws_of("p", strength).next(4000, 3).view(-1, 4)
    row, column, sigma, quality = drawn.T
    wanted, matrices = STRENGTHS[strength], 1 + 2 * SHIFT + 1 + len(BLURS) + 2 * len(SIDES)
    first_blur = 1 + 2 * SHIFT + 1
    first_side = first_blur + len(BLURS)
    shifts, blurs, sides = ((row > 0) & (row < first_blur), (row >= first_blur) & (row < first_side), row >= first_side)
    found = {"noise": sigma > 0, "resize": sides, "blur": blurs, "jpeg": quality > 0, "shift": shifts}
    for name, met in found.items():
        share = getattr(wanted, name)
        assert abs(met.double().mean() - share) < 4 * math.sqrt(share / len(drawn)), name
    assert int(torch.stack(list(found.values())).sum(0).max()) == 1
    assert torch.equal(row[sides | blurs], column[sides | blurs]) and bool((column[shifts] < first_blur).all())
    assert int(row.max()) == matrices - 1 and set(quality[quality > 0].tolist()) <= set(QUALITIES)
    assert {QUALITIES[0], QUALITIES[-1]} <= set(quality.tolist())
    largest = wanted.sigma * robust.SIGMA_STEPS
    assert 0.98 * largest < int(sigma.max()) < largest
    mean = sigma[sigma > 0].double().mean().item() / largest  # drawn evenly by sigma, or by its square
    assert mean == pytest.approx(2 / 3 if wanted.by_power else 1 / 2, abs=0.03)


def test_draws_are_the_persons_own_however_many_steps_are_drawn_at_once():
    whole, parts = draws_of("p").next(6, 2), draws_of("p")
    assert torch.equal(torch.cat([parts.next(1, 2), parts.next(3, 2), parts.next(2, 2)]), whole)
    assert not torch.equal(draws_of("q").next(6, 2), whole)
    assert not torch.equal(draws_of("p", generation=1).next(6, 2), whole)


def test_what_meets_nothing_stays():
    photos = photos_of(2)
    assert torch.equal(changed(photos, [NONE, NONE]), photos)


def test_shifts_by_hand():
    """A matrix of the rows and one of the columns: up to four pixels, the border repeated."""
    photos = torch.arange(3 * 16 * 16, dtype=torch.float64).view(1, 3, 16, 16) / 768
    for down, right in ((-4, 3), (4, -1), (0, 2), (1, 0)):
        found = changed(photos, [(1 + SHIFT + down, 1 + SHIFT + right, 0, 0)])
        y, x = ((torch.arange(16) + by).clamp(0, 15) for by in (down, right))
        assert torch.equal(found, photos[:, :, y][:, :, :, x])


def area(values: torch.Tensor, target: int) -> torch.Tensor:
    """The last axis smaller: each value cut in `target` parts, of which each target value is a mean of as many as there
    are values."""
    return values.repeat_interleave(target, -1).unflatten(-1, (target, -1)).mean(-1)


@pytest.mark.parametrize("side", range(len(SIDES)))
def test_sizes_by_area_and_by_bilinear_reading(side):
    photos = photos_of(1, (112, 112))
    small = round(SIDES[side] * 112)
    first = 1 + 2 * SHIFT + 1 + len(BLURS)
    by_area = area(area(photos, small).mT, small).mT
    read = F.interpolate(photos, size=(small, small), mode="bilinear")
    for place, down in ((first + side, by_area), (first + len(SIDES) + side, read)):
        wanted = F.interpolate(down, size=(112, 112), mode="bilinear")
        torch.testing.assert_close(changed(photos, [(place, place, 0, 0)]), wanted, rtol=0, atol=1e-12)
    assert [round(share * 112) for share in (SIDES[0], SIDES[-1])] == [48, 100]


@pytest.mark.parametrize("size", [(16, 16), (13, 21), (8, 8), (1, 40)])
def test_flat_photos_stay_flat_whatever_their_size(size):
    """Every matrix keeps means: borders are not darkened, nothing is left out."""
    flat = torch.full((1, 3, *size), 0.4, dtype=torch.float64)
    flat[:, 1] = 0.7
    for place in range(1 + 2 * SHIFT + 1 + len(BLURS) + 2 * len(SIDES)):
        torch.testing.assert_close(changed(flat, [(place, place, 0, 0)]), flat, rtol=0, atol=1e-12)
    for quality in (30, 95):  # but for the rounding of the one coefficient
        assert (changed(flat, [(0, 0, 0, quality)]) - flat).abs().max() < 0.03


def by_pillow(photo: torch.Tensor, quality: int) -> torch.Tensor:
    file = io.BytesIO()
    Image.fromarray(photo.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)


@pytest.mark.parametrize("quality", [30, 50, 75, 95])
@pytest.mark.parametrize("size", [(48, 32), (40, 24), (23, 37)])
def test_jpeg_is_pillows(size, quality):
    """Grey: but for the few coefficients that lie just between two steps. Colour, which is rounded to whole levels too:
    nearly; two side by side, compared where they do not meet, since Pillow smooths colour on its way back."""
    noise = 12 * torch.randn(size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grey = (120 + noise).round().expand(3, *size)
    tints = torch.tensor([[40, -20, -30], [-35, 10, 45]], dtype=torch.float64)
    colour = grey + tints[(torch.arange(size[1]) >= 16).long()].T[:, None]
    apart = (torch.arange(size[1]) - 15.5).abs() > 3
    for photo, most in ((grey, 1.0), (colour, 2.5)):
        given = photo.clamp(0, 255).to(torch.uint8)
        found = (Jpeg(size, EXACT)(given[None].double() / 255, torch.tensor([quality]))[0] * 255).round().clamp(0, 255)
        wanted = by_pillow(given, quality).double()
        gap, lost = ((one - wanted)[:, :, apart].abs().mean() for one in (found, given))
        assert gap < most and gap < 0.5 * lost


def test_the_slope_of_jpeg_is_that_without_rounding():
    size, quality = (16, 24), torch.tensor([40])
    photos = photos_of(1, size).requires_grad_()
    weights = torch.randn(1, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    jpeg = Jpeg(size, EXACT)
    (slope,) = torch.autograd.grad((jpeg(photos, quality) * weights).sum(), photos)
    jpeg.luma_steps, jpeg.colour_steps = jpeg.luma_steps * 1e-9, jpeg.colour_steps * 1e-9  # nothing is rounded
    x = photos.detach()
    for way in torch.randn(5, 1, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(3)):
        ahead, behind = ((jpeg(x + step * way, quality) * weights).sum() for step in (1e-3, -1e-3))
        assert float((slope * way).sum()) == pytest.approx(float(ahead - behind) / 2e-3, rel=1e-6)


def test_slopes_of_the_changes():
    """torch's gradcheck of a photo shifted, one blurred, one smaller for a while, one with noise."""
    photos = photos_of(4, (9, 8)).requires_grad_()
    first = 1 + 2 * SHIFT + 1
    sigma = robust.SIGMA_STEPS // 40
    changes = [(2, 7, 0, 0), (first + 1, first + 1, 0, 0), (first + 6, first + 6, 0, 0), (0, 0, sigma, 0)]
    assert torch.autograd.gradcheck(lambda x: changed(x, changes), photos, fast_mode=True)


def test_noise_is_of_its_sigma_and_another_each_time():
    grey = torch.full((4, 3, 64, 64), 0.5, dtype=torch.float64)
    sigma = robust.SIGMA_STEPS // 16
    quarter = [(0, 0, sigma, 0)] * 4

    def noise(**plan):
        return (changed(grey, quarter, **plan) - 0.5) * 16

    one = noise()
    assert abs(one.mean()) < 0.02 and abs(one.std() - 1) < 0.01 and one.abs().max() < 3.45
    assert abs((one.abs() < 1).double().mean() - 0.683) < 0.02  # as a normal distribution has it
    others = [noise(first=1), noise(sample=[1] * 4)]
    every = torch.cat([one, *others]).flatten(1)
    assert (torch.corrcoef(every) - torch.eye(12)).abs().max() < 0.05
    assert torch.equal(noise(), one)
    white = changed(torch.ones(1, 3, 16, 16, dtype=torch.float64), [(0, 0, robust.SIGMA_STEPS // 2, 0)])
    assert white.max() == 1.0 and white.min() >= 0.0


def test_a_photo_is_changed_the_same_whoever_else_is():
    photos, drawn = photos_of(4).float(), draws_of("p").next(40, 4)
    for changes in drawn:
        whole = changed(photos, changes.tolist(), person=[0, 2, 2, 3], sample=[0, 0, 1, 0])
        others = torch.cat([photos[2:3], photos[[1, 1, 0]]])
        alone = changed(others, changes[[2, 0, 1, 3]].tolist(), ("c",), person=[0] * 4, sample=[1, 5, 6, 7])
        assert torch.equal(whole[2], alone[0])


@pytest.mark.parametrize("robustness", ["mild", "strong"])
@pytest.mark.parametrize("scheme", ["blend", "sealed"])
def test_a_robust_step_is_down_the_slope_seen_through_the_changes(scheme, robustness):
    """What the network sees is the protected photo, changed as drawn; autograd in float64 gives the slope of that."""
    config = vk.CraftConfig(scheme=scheme, robust=robustness, photos_per_step=2)
    model, people = linear_model(16), people_of([3, 4], 16)
    model = vk.FaceModel(model.module, size=16, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), bgr=True)
    batch = one_batch(model, people, config)
    from veilkern.crafting.sampler import draw

    plan = draw(batch.samplers, [0, 1], batch.offsets, 3, 4, batch.veils.device, first=5, changes=batch.draws)
    assert plan.changes.shape == (3, 4, 4) and plan.changes.any()
    for turn in range(3):
        photos = batch.scheme.photos(plan, turn)
        distances, found = batch.feature_loss(photos, batch.veils, plan, turn)
        pixels = batch.scheme.network_input(
            photos, batch.veils, plan, turn, slice(0, 4), mean=[0.0] * 3, std=[1.0] * 3, bgr=False
        )
        pixels = pixels.detach().double().requires_grad_()
        change = Changes((16, 16), keys_of([(KEY, n, 0) for n in people.names], "robust noise"), EXACT)
        seen = change(pixels, plan, turn, slice(0, 4)).flip(1)
        mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (model.input.mean, model.input.std))
        module = model.module.double()
        features = F.normalize(module((seen - mean) / std))
        module.float()
        centres = torch.stack([part.double().mean(0) for part in batch.clean.split([3, 4])])
        wanted = (features - centres[plan.person]).square().sum(1)
        (slope,) = torch.autograd.grad(wanted.sum(), pixels)
        torch.testing.assert_close(distances, wanted.detach().float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found, slope.float(), rtol=1e-3, atol=1e-4 * float(slope.abs().max()))


@pytest.mark.thorough
@pytest.mark.parametrize("scheme", ["blend", "sealed"])
def test_a_robust_veil_bears_more(sample_model, people, scheme):
    """Under noise of sigma 140 it is nearer to its person than a veil that was crafted without."""
    few, cosine = people.split(4)[0], {}
    g = torch.Generator().manual_seed(0)
    for robustness in ("none", "strong"):
        config = vk.CraftConfig(scheme=scheme, robust=robustness, steps=60, early_stop=False)
        bank = vk.craft(sample_model, few, config, key=KEY, progress=False).bank
        rows = bank.rows(people.names)[people.rows]
        if scheme == "blend":
            hidden = ops.blend(people.images, bank.veils, rows, bank.blend)
        else:
            keys, nonces = (torch.randint(0, 256, (n, k), dtype=torch.uint8) for n, k in ((4, 32), (24, 12)))
            hidden = ops.seal(people.images, bank.veils, rows, keys, nonces)
        noisy = (hidden + 140 * torch.randn(hidden.shape, generator=g)).clamp(0, 255).to(torch.uint8)
        clean = sample_model.features(people.images)
        own = torch.stack([F.normalize(part.mean(0), dim=0) for part in clean.split(6)])[people.rows]
        cosine[robustness] = (sample_model.features(noisy) * own).sum(1).mean()
    assert cosine["strong"] > cosine["none"] + 0.05
