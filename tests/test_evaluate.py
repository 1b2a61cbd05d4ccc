"""Measures and report: against independent code, on cases whose answer is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import veilkern as vk
from veilkern.evaluate import contour, evaluate, identify, psnr, ranks_against, ssim
from veilkern.evaluate.report import format_number, write_report


def pair(n=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.interpolate(torch.rand(n, 3, 14, 14, generator=g), size=112, mode="bilinear")
    y = (x + 0.2 * torch.randn(x.shape, generator=g)).clamp(0, 1)
    return (x * 255).to(torch.uint8), (y * 255).to(torch.uint8)


def test_ssim_and_psnr_against_scikit_image():
    x, y = pair(70)
    for i in (0, 69):
        a, b = x[i].numpy(), y[i].numpy()
        wanted = structural_similarity(
            a, b, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )
        assert ssim(x, y)[i].item() == pytest.approx(wanted, abs=1e-9)
        assert psnr(x, y)[i].item() == pytest.approx(peak_signal_noise_ratio(a, b, data_range=255), abs=1e-9)
    assert psnr(x, x).isinf().all()


@pytest.mark.parametrize("sigma", [2.0, 4.0])
def test_contour_against_scipy(sigma):
    x, y = pair()
    for i in range(3):
        a, b = (
            gaussian_filter(np.tensordot([0.299, 0.587, 0.114], t[i].numpy().astype(float), 1), sigma, mode="mirror")
            for t in (x, y)
        )
        assert contour(x, y, sigma)[i].item() == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], abs=1e-6)
    torch.testing.assert_close(contour(x, 255 - x, sigma), -torch.ones(3, dtype=torch.float64))
    assert contour(x, torch.full_like(x, 9), sigma).abs().max() == 0


def test_ranks_by_hand():
    unit = torch.nn.functional.normalize(torch.tensor([[1, 0], [1, 0.1], [1, 0.5], [1, 1], [0, 1.0]]))
    probe, template, distractors = unit[:1], unit[2:3], unit[[1, 3, 4]]
    assert ranks_against(probe, template, distractors).tolist() == [[2]]
    assert ranks_against(probe, unit[1:2], distractors).tolist() == [[2]]  # a tie counts against
    assert ranks_against(probe, unit[:1], distractors).tolist() == [[1]]
    assert ranks_against(probe * float("nan"), template, distractors).tolist() == [[4]]


def test_identification_protocol_by_loops():
    g = torch.Generator().manual_seed(0)
    counts = (3, 1, 4)
    people = vk.People.from_images([torch.zeros((n, 3, 4, 4), dtype=torch.uint8) for n in counts])
    clean, hidden, gallery = (torch.nn.functional.normalize(torch.randn(n, 3, generator=g)) for n in (8, 8, 6))
    found = identify(hidden, clean, people, gallery)
    starts = people.offsets.tolist()
    for p, n in enumerate(counts):
        ranks, own = [], []
        for i in range(n):
            for j in range(n):
                rivals = [clean[starts[q] + j % counts[q]] for q in range(3) if q != p] + list(gallery)
                score = hidden[starts[p] + i] @ clean[starts[p] + j]
                rank = 1 + sum(float(hidden[starts[p] + i] @ r) >= float(score) for r in rivals)
                (own if i == j else ranks).append(rank)
        assert found[p].pairs == n * (n - 1)
        if ranks:
            assert found[p].rank1 == pytest.approx(np.mean([r == 1 for r in ranks]))
            assert found[p].rank5 == pytest.approx(np.mean([r <= 5 for r in ranks]))
        else:
            assert np.isnan(found[p].rank1)
        assert found[p].own_rank1 == pytest.approx(np.mean([r == 1 for r in own]))


@pytest.fixture(scope="module")
def evaluation(sample_model, people, small_bank):
    return evaluate(sample_model, people, small_bank, gallery=people.photos(0)[:0])


def test_crafting_and_unseen_apart(evaluation, people):
    assert {(r["name"], r["set"]): r["photos"] for r in evaluation.persons} == {
        (n, s): c for n in people.names for s, c in (("crafting", 4), ("unseen", 2))
    }
    assert evaluation.overall["crafting"]["photos"] == 16 and evaluation.overall["unseen"]["photos"] == 8
    assert evaluation.lossless_exact and evaluation.notices == []
    for row in evaluation.overall.values():
        assert (
            row["max_error"] <= 2
            and row["ssim_recovered"] > 0.97
            and row["ssim_protected"] < 0.1
            and row["rank1"] > 0.9
        )


def test_another_network_warns(sample_model, people, small_bank):
    other = vk.FaceModel(sample_model.module, mean=(0.4,) * 3, std=(0.5,) * 3, name="another")
    with pytest.warns(UserWarning, match="crafted for another network"):
        found = evaluate(other, people, small_bank)
    assert "another network" in found.notices[0]


def test_people_without_veils(sample_model, people, small_bank):
    strangers = vk.People(people.images, people.offsets, ["x", *people.names[1:]], people.files)
    found = evaluate(sample_model, strangers, small_bank)
    assert any("no veil, left out: x" in n for n in found.notices) and any(
        "no photos here: person-000" in n for n in found.notices
    )
    nobody = vk.People.from_images([people.photos(0)], ["nobody"])
    with pytest.raises(ValueError, match="nobody in people has a veil"):
        evaluate(sample_model, nobody, small_bank)


def test_report_files(evaluation, people, small_bank, tmp_path):
    path = write_report(tmp_path / "report", evaluation, people, small_bank, title="<b>test</b>")
    html = path.read_text()
    assert "&lt;b&gt;test" in html and "<b>test" not in html
    assert html.count("data:image/png;base64,") == 4 * 4 * 3 and html.count("<svg") == 4
    assert 'src="http' not in html and "href=" not in html.replace('xlink:href="#', "").replace('href="#', "")
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["overall"]["unseen"]["photos"] == 8 and "photo_ids" not in json.dumps(report)
    from PIL import Image

    assert Image.open(tmp_path / "report" / "contact_sheet.png").width == 3 * (4 * 112 + 8) + 8


def test_one_photo_has_no_rank(sample_model, people):
    single = people.take([0, 6, 7])
    bank = vk.craft(sample_model, single, vk.CraftConfig(steps=2, seed=0), progress=False).bank
    found = evaluate(sample_model, single, bank)
    row = next(r for r in found.as_dict()["persons"] if r["photos"] == 1)
    assert row["rank1"] is None and row["cosine"] is not None and json.dumps(found.as_dict(), allow_nan=False)


def test_numbers():
    assert format_number("max_error", 2.0) == "2" and format_number("psnr_protected", float("inf")) == "∞"
    assert format_number("rank1", float("nan")) == "–" and format_number("ssim_protected", 0.01234) == "0.0123"
