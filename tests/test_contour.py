"""The residual contour: its blur against SciPy, its loss and slope against autograd, and what it does to a craft."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

import veilkern as vk
from veilkern.crafting import schemes
from veilkern.crafting.contour import ContourLoss, blur_matrix, contour
from veilkern.evaluate import metrics
from veilkern.reference.contour import contour as plain_contour
from veilkern.reference.contour import contour_loss

KEY = b"sixteen bytes at least"
DOUBLE = torch.zeros(0, dtype=torch.float64)


def some_people(height=24, width=31, counts=(1, 4, 3), seed=0):
    """uint8 photos with structure of every size, offsets, float64 veils."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(sum(counts), 3, 4, 4, generator=g)
    images = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    images = (200 * images + 55 * torch.rand(images.shape, generator=g)).to(torch.uint8)
    offsets = torch.tensor([0, *np.cumsum(counts)])
    return images, offsets, torch.rand(len(counts), 3, height, width, generator=g, dtype=torch.float64)


def alone(images, offsets, p):
    return images[offsets[p] : offsets[p + 1]], offsets[p : p + 2] - offsets[p]


@pytest.mark.parametrize("side,sigma", [(112, 2.0), (113, 4.0), (40, 1.0), (17, 2.0)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_blur_against_scipy(side, sigma, stride):
    values = np.random.default_rng(0).random((5, side))
    ours = torch.from_numpy(values) @ blur_matrix(side, sigma, stride, like=DOUBLE).T
    np.testing.assert_allclose(ours, gaussian_filter1d(values, sigma, mode="mirror")[:, ::stride], atol=1e-12)


@pytest.mark.parametrize("side", [1, 2, 3, 8])
def test_blur_of_few_pixels_keeps_a_flat_plane_flat(side):
    torch.testing.assert_close(blur_matrix(side, 2.0, like=DOUBLE).sum(1), torch.ones(side, dtype=torch.float64))


@pytest.mark.parametrize("side,sigma", [(1, 2.0), (2, 2.0), (3, 2.0), (8, 2.0), (9, 2.0), (10, 2.0), (12, 4.0)])
def test_blur_of_few_pixels_by_hand(side, sigma):
    """The window ends where the reflected plane does: side - 1 pixels to either side, and no further."""
    radius = min(round(4 * sigma), side - 1)
    weights = {d: np.exp(-(d**2) / (2 * sigma**2)) for d in range(-radius, radius + 1)}
    wanted = np.zeros((side, side))
    for i in range(side):
        for d, weight in weights.items():
            j = abs(i + d)
            wanted[i, j if j < side else 2 * (side - 1) - j] += weight / sum(weights.values())
    np.testing.assert_allclose(blur_matrix(side, sigma, like=DOUBLE), wanted, atol=1e-14)


@pytest.mark.parametrize("size", [(24, 31), (112, 112), (9, 40), (5, 6)])
@pytest.mark.parametrize("blend", [1, 51, 200])
def test_loss_and_slope_against_autograd(size, blend):
    images, offsets, veils = some_people(*size)
    wanted = contour_loss(images, veils.requires_grad_(), offsets, blend)
    (gradient,) = torch.autograd.grad(wanted.sum(), veils)
    gradient = gradient / (1 - blend / 255)  # with respect to x'
    for dtype, relative in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        loss, slope = ContourLoss(images, offsets, blend, dtype)(veils.detach().to(dtype))
        assert loss.dtype == slope.dtype == dtype and slope.shape == veils.shape
        torch.testing.assert_close(loss.double(), wanted.detach(), rtol=relative, atol=1e-9)
        for ours, theirs in zip(slope.double(), gradient, strict=True):
            assert (ours - theirs).norm() <= relative * theirs.norm() + 1e-10


@pytest.mark.thorough
def test_gradcheck():
    images, offsets, veils = some_people(12, 14, (2, 1))
    term = ContourLoss(images, offsets, 51, torch.float64)

    class Term(torch.autograd.Function):
        @staticmethod
        def forward(ctx, v):
            loss, slope = term(v)
            ctx.save_for_backward(slope)
            return loss

        @staticmethod
        def backward(ctx, upstream):
            return upstream.view(-1, 1, 1, 1) * ctx.saved_tensors[0] * (1 - 51 / 255)

    assert torch.autograd.gradcheck(Term.apply, veils.requires_grad_())
    assert torch.autograd.gradcheck(lambda v: contour_loss(images, v, offsets, 51), veils)


def test_the_slope_leads_down():
    images, offsets, veils = some_people()
    term = ContourLoss(images, offsets, 51, torch.float64)
    loss, slope = term(veils)
    for _ in range(200):
        veils = (veils - 2 / 255 * slope.sign()).clamp(0, 1)
        _, slope = term(veils)
    assert (term(veils)[0] < 0.1 * loss).all()


def test_what_shows_nothing_has_no_contour():
    images, offsets, veils = some_people(counts=(2, 2, 2))
    images[0] = 77  # a flat photo beside one that is not
    images[2:4] = 130
    veils[2] = 0.5
    for dtype in (torch.float64, torch.float32):
        loss, slope = ContourLoss(images, offsets, 51, dtype)(veils.to(dtype))
        assert loss.isfinite().all() and slope.isfinite().all()
        assert loss[0] > 0 and loss[1] == 0 and not slope[1].any()
        assert loss[2].item() == pytest.approx(2, rel=1e-4)  # a flat veil: x' is the photo, fainter
    for a, seed in itertools.product((51, 77, 100, 127), range(8)):
        images, offsets, _ = some_people(96, 112, (1,), seed)
        negative = (1 - images / 255.0) * (a / (255 - a))  # x' is the same everywhere but for what float32 rounds
        loss, slope = ContourLoss(images, offsets, a)(negative)
        assert loss.item() == 0 and not slope.any()
    photo = torch.full((1, 3, 32, 32), 0, dtype=torch.uint8)
    photo[:, :, 8:20, 4:30] = 255
    negative = (1 - photo / 255.0) * 0.25  # 0.2 x + 0.8 v is the same everywhere
    loss, slope = ContourLoss(photo, torch.tensor([0, 1]), 51)(negative)
    assert loss.item() == 0 and not slope.any()


def test_nobody_feels_the_others():
    images, offsets, veils = some_people(112, 112, (1, 7, 3, 12))
    veils = veils.float()
    threads = torch.get_num_threads()
    together = ContourLoss(images, offsets, 51)(veils)
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for p in range(4):
                loss, slope = ContourLoss(*alone(images, offsets, p), 51)(veils[p : p + 1])
                assert torch.equal(loss[0], together[0][p]) and torch.equal(slope[0], together[1][p])
    finally:
        torch.set_num_threads(threads)
    veils[1] = float("nan")
    loss, slope = ContourLoss(images, offsets, 51)(veils)
    for p in (0, 2, 3):
        assert torch.equal(loss[p], together[0][p]) and torch.equal(slope[p], together[1][p])


def test_contour_of_floats_and_of_photos_agree():
    images, _, veils = some_people()
    x, y = images[:3], (veils * 255).to(torch.uint8)
    for sigma in (2.0, 4.0):
        wanted = plain_contour(x.double() / 255, y.double() / 255, sigma)
        torch.testing.assert_close(contour(x.double() / 255, y.double() / 255, sigma), wanted)
        torch.testing.assert_close(metrics.contour(x, y, sigma), wanted)
        torch.testing.assert_close(contour(x / 255, y / 255, sigma), wanted.float(), atol=1e-4, rtol=0)


def test_craft_fades_the_contour(sample_model, people):
    crafting, unseen = people.split(2)
    seen = {}
    for nu in (0.0, vk.CraftConfig().nu):
        result = vk.craft(sample_model, crafting, vk.CraftConfig(nu=nu), key=KEY, progress=False)
        for part in (crafting, unseen):
            hidden = vk.protect(part.images, result.bank, part.rows)
            rho = metrics.contour(part.images, hidden, 2.0).abs().split(part.counts.tolist())
            seen.setdefault(nu, []).append([r.mean().item() for r in rho])
            if part is crafting:
                for record, own in zip(result.report, rho, strict=True):
                    assert record["contour"] == pytest.approx(own.mean().item(), abs=2e-3)
                    assert record["contour_worst"] == pytest.approx(own.max().item(), abs=2e-3)
    (before, before_unseen), (after, after_unseen) = seen.values()
    assert sum(after) < 0.5 * sum(before) and max(after) < 0.3 and sum(after) / len(after) < 0.15
    assert sum(after_unseen) < 0.75 * sum(before_unseen) and sum(after_unseen) / len(after_unseen) < 0.25


def test_without_nu_the_term_is_not_there(sample_model, people, monkeypatch):
    config = vk.CraftConfig(nu=0.0, steps=3)
    monkeypatch.setattr(
        schemes.ContourLoss, "__call__", lambda self, veils: (veils[:, 0, 0, 0] * 0, veils * float("nan"))
    )
    silent = vk.craft(sample_model, people, config, key=KEY, progress=False)
    assert all(not record["status"].startswith("failed") for record in silent.report)
    loud = vk.craft(sample_model, people, vk.CraftConfig(nu=1e-3, steps=3), key=KEY, progress=False)
    assert all(record["status"].startswith("failed: the gradient was not finite") for record in loud.report)


def test_nu_on_the_command_line(people, tmp_path):
    from typer.testing import CliRunner

    from veilkern.cli import app
    from veilkern.data.photos import write_png

    for image, file in zip(people.images[:8], people.files[:8], strict=True):
        (tmp_path / "faces" / file).parent.mkdir(parents=True, exist_ok=True)
        write_png(tmp_path / "faces" / file, image)
    base = ["craft", str(tmp_path / "faces"), "--model", "veilkern.samples:load_model", "--steps", "2", "--seed", "1"]
    for more, nu in (([], vk.CraftConfig().nu), (["--nu", "0"], 0.0), (["--nu", "0.25"], 0.25)):
        out = tmp_path / f"{nu}"
        done = CliRunner().invoke(app, [*base, "--out", str(out), *more])
        assert done.exit_code == 0, done.output
        bank = vk.VeilBank.load(out)
        assert bank.config["nu"] == nu
        assert all(0 <= record["contour"] <= record["contour_worst"] <= 1 for record in bank.records)
