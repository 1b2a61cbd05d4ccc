"""Measures and report: against independent code, on cases whose answer is known."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import io
import json
import math
import re

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from typer.testing import CliRunner

import veilkern as vk
from veilkern.cli import app
from veilkern.evaluate import contour, evaluate, identify, psnr, ranks_against, run, ssim, verdict
from veilkern.evaluate.metrics import blurred_luma
from veilkern.evaluate.report import FILES, format_number, worst_first, write_report
from veilkern.evaluate.verdict import LEVELS, QUESTIONS, THRESHOLDS, person_level
from veilkern.evaluate.views import blurred_views, contact_sheet, views, worst_photos
from veilkern.networks.input_spec import InputSpec

cli_evaluate, cli_info = (importlib.import_module(f"veilkern.cli.{name}") for name in ("evaluate", "info"))


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


@pytest.mark.parametrize(
    "height,width,window", [(5, 5, 5), (6, 20, 5), (9, 9, 9), (40, 10, 9), (11, 12, 11), (64, 13, 11), (1, 1, 1)]
)
def test_ssim_of_small_photos(height, width, window):
    """The largest odd window that fits, of the same sigma."""
    x, y = (t[:, :, :height, :width] for t in pair(2))
    side = torch.arange(window, dtype=torch.float64) - window // 2
    taps = torch.exp(-side.square() / (2 * 1.5**2))
    taps = (taps / taps.sum()).outer(taps / taps.sum()).expand(3, 1, -1, -1)

    def mean(z):
        return torch.nn.functional.conv2d(z, taps, groups=3)

    a, b = x.double(), y.double()
    var_a, var_b, both = mean(a * a) - mean(a) ** 2, mean(b * b) - mean(b) ** 2, mean(a * b) - mean(a) * mean(b)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mean(a) * mean(b) + c1) * (2 * both + c2)
    wanted = (top / ((mean(a) ** 2 + mean(b) ** 2 + c1) * (var_a + var_b + c2))).mean((1, 2, 3))
    torch.testing.assert_close(ssim(x, y), wanted, rtol=1e-9, atol=1e-9)


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
    assert html.count("data:image/png;base64,") == 14 * 5 + 4 * 4 * 5 and html.count("<svg") == 4
    assert html.count('<svg role="img" aria-label="') == 4  # for those who cannot see it
    assert html.count("<img") == html.count(' alt="') and not re.search(r'src="(?!data:)|url\((?!#)|@import', html)
    assert 'src="http' not in html and "href=" not in html.replace('xlink:href="#', "").replace('href="#', "")
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["overall"]["unseen"]["photos"] == 8 and "photo_ids" not in json.dumps(report)
    from PIL import Image

    assert Image.open(tmp_path / "report" / "contact_sheet.png").width == 4 * (4 * 112 + 8) + 8


def test_one_photo_has_no_rank(sample_model, people):
    single = people.take([0, 6, 7])
    bank = vk.craft(sample_model, single, vk.CraftConfig(steps=2, seed=0), progress=False).bank
    found = evaluate(sample_model, single, bank)
    row = next(r for r in found.as_dict()["persons"] if r["photos"] == 1)
    assert row["rank1"] is None and row["cosine"] is not None and json.dumps(found.as_dict(), allow_nan=False)


def test_numbers():
    assert format_number("max_error", 2.0) == "2" and format_number("psnr_protected", float("inf")) == "∞"
    assert format_number("rank1", float("nan")) == "–" and format_number("ssim_protected", 0.01234) == "0.0123"


class Known:
    """A network whose feature of each picture is stated: at this many degrees, NaN for none."""

    name, fingerprint, input = "known", "f", InputSpec((16, 16))

    def __init__(self):
        self.degrees = {}

    def say(self, images, degrees):
        for image, angle in zip(images, degrees, strict=True):
            self.degrees[image.numpy().tobytes()] = angle

    def features(self, images, *, batch=64, check=True):
        angles = torch.deg2rad(torch.tensor([self.degrees[image.numpy().tobytes()] for image in images]).double())
        found = torch.stack([angles.cos(), angles.sin()], 1)
        if check and not found.isfinite().all():
            raise vk.errors.ModelError("known: NaN")
        return found


@pytest.fixture
def known():
    """Persons a (3 photos) and b (2), their veils, a gallery of 8, and what the network says of each, in degrees."""
    g = torch.Generator().manual_seed(3)
    x, b0, b1 = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=g)
    a2 = 255 - x
    a2[0, 0, 0] ^= 128
    people = vk.People.from_images([torch.stack([x, 255 - x, a2]), torch.stack([b0, b1])], ["a", "b"])
    # Under a's veil, its photo 0 becomes its own negative and photo 1 stays what it is.
    bank = vk.VeilBank(torch.stack([255 - x, b0]), ["a", "b"], 51, [{"photo_ids": []}] * 2, {"fingerprint": "f"})
    gallery = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=g)
    # protect moves the stated pictures; one bit keeps a photo and its protected self apart where they are equal
    bank.veils[0, 0, 0, 1] ^= 128
    model = Known()
    model.say(people.images, [0, 10, 20, 90, 100])
    model.say(vk.protect(people.images, bank, bank.rows(people.names)[people.rows]), [5, 10, 60, 92, 98])
    model.say(gallery, [13, 14, 15, 16, 43, 44, 45, 58])
    return model, people, bank, gallery


def test_every_figure_by_hand(known, monkeypatch):
    model, people, bank, gallery = known

    def recovered(protected, *_):
        back = people.images.clone()
        if protected.dtype == torch.uint16:
            back[4, 0, 0, 0] ^= 1
        else:
            for photo, error in enumerate((1, 7, 3, 0, 2)):
                value = back[photo, 1, 2, 3]
                back[photo, 1, 2, 3] = value + error if value < 128 else value - error
        return back

    monkeypatch.setattr(run, "recover", recovered)
    found = evaluate(model, people, bank, gallery=gallery)
    a, b = found.persons
    assert (a["name"], a["set"], a["photos"]) == ("a", "unseen", 3) and found.gallery == 8
    # Ranks of (probe, template): (0, 1) 1; (0, 2), (1, 0), (1, 2) 5, behind 13 to 16 degrees; (2, 0), (2, 1) 10,
    # behind the whole gallery and one photo of b.
    assert [a[k] for k in ("rank1", "rank5", "rank10")] == pytest.approx([1 / 6, 4 / 6, 1])
    assert a["own_rank1"] == pytest.approx(2 / 3) and found.photos["unseen"]["rank1"] == [0.5, 0, 0, 1, 1]
    # Clean: (0, 1) is found first, all others fifth.
    assert [a[k] for k in ("clean_rank1", "clean_rank5", "clean_rank10")] == pytest.approx([1 / 6, 1, 1])
    assert all(b[k] == 1 for k in ("rank1", "rank5", "rank10", "own_rank1", "clean_rank1"))
    cosines = [math.cos(math.radians(t)) for t in (5, 0, 50)]
    assert a["cosine"] == pytest.approx(sum(cosines) / 3) and a["cosine_worst"] == pytest.approx(cosines[2])
    signs = found.photos["unseen"]["contour2"]
    assert signs[0] < -0.98 and signs[1] > 0.98 and signs[3] > 0.99 and a["contour2"] > 0.98
    assert a["contour2_worst"] == pytest.approx(max(map(abs, signs[:3])), abs=1e-6)
    assert (a["max_error"], b["max_error"], found.overall["unseen"]["max_error"]) == (7, 2, 7)
    for measure, sign in (("ssim_protected", 1), ("ssim_recovered", -1)):
        values = found.photos["unseen"][measure][:3]
        assert a[measure] == pytest.approx(sum(values) / 3, abs=1e-6)
        assert a[f"{measure}_worst"] == pytest.approx(sign * max(sign * v for v in values), abs=1e-6)
    assert not found.lossless_exact and any("lossless form: b/01.png" in n for n in found.notices)
    assert found.overall["unseen"]["rank1"] == pytest.approx((1 / 6 + 1) / 2)
    assert found.overall["unseen"]["worst"]["rank1"] == {"name": "a", "value": a["rank1"]}
    assert found.overall["unseen"]["worst"]["cosine"]["name"] == "a"


def test_the_gallery_counts(known):
    model, people, bank, gallery = known
    without = evaluate(model, people, bank)
    assert without.gallery == 0 and without.persons[0]["rank1"] == pytest.approx(4 / 6)
    assert evaluate(model, people, bank, gallery=gallery[:4]).persons[0]["rank1"] == pytest.approx(1 / 6)


def test_contour_by_chance_meets_other_people_only(known):
    _, people, _, _ = known
    seen = []

    def contour(x, y, sigma):
        seen.append(x)
        return torch.zeros(len(x))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.metrics, "contour", contour)
        run._contour_by_chance(people, people.images)
        for counts in ((5, 1), (1, 5), (2, 2, 9)):
            total = sum(counts)
            images = torch.arange(total, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
            some = vk.People.from_images(list(images.split(list(counts))))
            run._contour_by_chance(some, images)
            assert (some.rows[seen[-1][:, 0, 0, 0].long()] != some.rows).all()
    assert torch.equal(seen[0], people.images[[3, 4, 3, 0, 1]])
    alone = people.take([0, 1])
    assert run._contour_by_chance(alone, alone.images).isnan().all()


def test_a_photo_without_a_feature_is_listed(known):
    model, people, bank, gallery = known
    hidden = vk.protect(people.images, bank, bank.rows(people.names)[people.rows])
    model.say(people.images[1:2], [math.nan])
    model.say(hidden[2:3], [math.nan])
    model.say(gallery[7:], [math.nan])
    found = evaluate(model, people, bank, gallery=gallery)
    text = "\n".join(found.notices)
    assert "no feature of the clean photo, left out: a/01.png" in text and "not recognised: a/02.png" in text
    assert "no feature of 1 of 8 gallery photos" in text and found.gallery == 7
    a = found.persons[0]
    assert a["photos"] == 2 and a["rank10"] == 0.5 and a["own_rank1"] == 0.5
    assert a["cosine"] == pytest.approx(math.cos(math.radians(5)))  # the mean of 0 and 20 degrees is 10
    assert found.photos["unseen"]["file"] == ["a/00.png", "a/02.png", "b/00.png", "b/01.png"]
    assert found.photos["unseen"]["photo"] == [0, 2, 3, 4] and json.dumps(found.as_dict(), allow_nan=False)
    model.say(people.images, [math.nan] * 5)
    with pytest.raises(vk.errors.ModelError):
        evaluate(model, people, bank)


def test_pictures_of_the_people_in_the_gallery_are_left_out(known):
    model, people, bank, gallery = known
    mixed = torch.cat([people.images[3:5], gallery, people.images[:1]])
    found = evaluate(model, people, bank, gallery=mixed)
    assert found.gallery == 8 and any("3 of 11 gallery photos are pictures of the people" in n for n in found.notices)
    assert found.persons == evaluate(model, people, bank, gallery=gallery).persons
    assert evaluate(model, people, bank, gallery=people.images).gallery == 0


@pytest.mark.parametrize("records", [[], [{}, {}], [{"steps": 3}, {}]])
def test_a_bank_that_does_not_say_what_it_was_crafted_on(known, records):
    model, people, bank, _ = known
    silent = vk.VeilBank(bank.veils, bank.names, 51, records, bank.model)
    found = evaluate(model, people, silent)
    assert list(found.overall) == ["unrecorded"] and found.overall["unrecorded"]["photos"] == 5
    (unseen,) = [c for c in found.verdicts()[0].checks if c.label.startswith("Unseen photos tried")]
    assert (unseen.value, unseen.level) == (0, "watch")


def test_sizes_that_do_not_fit(known):
    model, people, bank, gallery = known
    other = vk.VeilBank(bank.veils[..., :12].contiguous(), bank.names, 51)
    with pytest.raises(ValueError, match="bank's veils are 16 x 12, the photos of people 16 x 16"):
        evaluate(model, people, other)
    for wrong in (gallery[..., :12], gallery.float(), gallery[0]):
        with pytest.raises(ValueError, match=r"gallery must be uint8 \[G, 3, 16, 16\]"):
            evaluate(model, people, bank, gallery=wrong)
    model.input = InputSpec((12, 16))
    with pytest.raises(ValueError, match="known reads photos of 12 x 16"):
        evaluate(model, people, bank)


def test_nobody_to_be_confused_with(known):
    model, people, bank, gallery = known
    alone = people.take([0, 1, 2])
    row = evaluate(model, alone, bank).persons[0]
    assert math.isnan(row["rank1"]) and math.isnan(row["own_rank1"]) and math.isnan(row["clean_rank1"])
    assert evaluate(model, alone, bank, gallery=gallery).persons[0]["own_rank1"] == pytest.approx(2 / 3)


GOOD = {
    "rank1": 0.99, "clean_rank1": 1.0, "ssim_protected": 0.012, "contour2": 0.2, "ssim_recovered": 0.99, "max_error": 2,
    "ssim_protected_worst": 0.02, "contour2_worst": 0.3, "ssim_recovered_worst": 0.98, "photos": 30,
}  # fmt: skip


def judged(*, gallery=200, exact=True, **changes):
    """The levels of recognised, hidden and recoverable where all is good but for `changes`."""
    row = GOOD | {k: v for k, v in changes.items() if not k.startswith("photo_")}
    photo = {"contour2": [0.1, -0.3], "ssim_protected": [0.01, 0.02], "ssim_recovered": [0.99, 0.98]}
    photo |= {
        k.removeprefix("photo_"): [v, *photo[k.removeprefix("photo_")]] for k, v in changes.items() if "photo_" in k
    }
    people = [{"name": "p", "set": "unseen", **row}, {"name": "q", "set": "unseen", **GOOD}]
    photos = {"unseen": photo | {"file": [f"p/{i}" for i in range(max(map(len, photo.values())))]}}
    for values in photos["unseen"].values():
        values += values[-1:] * (len(photos["unseen"]["file"]) - len(values))
    overall = {"unseen": row | {"people": 2}}
    found = run.Evaluation(people, overall, photos, exact, {"name": "n"}, {"blend": 51}, gallery)
    return [v.level for v in found.verdicts()], found


@pytest.mark.parametrize(
    "changes,levels",
    [
        ({}, "good good good"),
        ({"rank1": 0.92}, "watch good good"),
        ({"rank1": 0.85}, "bad good good"),
        ({"rank1": 0.75, "clean_rank1": 0.76}, "watch good good"),  # a weak network, not a weak veil
        ({"rank1": math.nan}, "watch good good"),
        ({"gallery": 50}, "watch good good"),
        ({"ssim_protected": 0.03}, "good watch good"),
        ({"ssim_protected": 0.06}, "good bad good"),
        ({"contour2": 0.30}, "good watch good"),
        ({"contour2": 0.36}, "good bad good"),
        ({"photo_contour2": -0.6}, "good watch good"),
        ({"photo_contour2": -0.7}, "good bad good"),
        ({"photo_ssim_protected": 0.2}, "good bad good"),
        ({"max_error": 3}, "good good bad"),
        ({"ssim_recovered": 0.97}, "good good watch"),
        ({"ssim_recovered": 0.94}, "good good bad"),
        ({"photo_ssim_recovered": 0.95}, "good good watch"),
        ({"exact": False}, "good good bad"),
    ],
)
def test_verdict(changes, levels):
    found, evaluation = judged(**changes)
    assert found == levels.split()
    for one in evaluation.verdicts():
        assert one.answer == QUESTIONS[one.question][1][one.level]
        assert one.level == max((c.level for c in one.checks), key=LEVELS.index)


def test_the_worst_person_decides_and_is_named():
    _, evaluation = judged(photo_contour2=-0.7)
    evaluation.persons[0]["contour2"] = 0.6
    evaluation.persons[1]["rank1"] = 0.5
    recognised, hidden, _ = evaluation.verdicts()
    assert (recognised.level, hidden.level) == ("bad", "bad")
    named = {c.label: (c.where, c.value) for c in [*recognised.checks, *hidden.checks]}
    assert named["MSR rank-1 lost against clean photos, worst person"] == ("q, unseen", 0.5)
    assert named["Residual |contour|, worst person"] == ("p, unseen", 0.6)
    assert named["Residual |contour|, worst photo"] == ("p/0", 0.7)
    assert person_level(evaluation.persons[0], "contour2") == "bad" and person_level(GOOD, "psnr_protected") is None


def test_every_threshold_is_measured_and_in_order():
    assert {t.figure for t in THRESHOLDS} == set(verdict._FIGURES) and {t.question for t in THRESHOLDS} == set(
        QUESTIONS
    )
    for t in THRESHOLDS:
        assert t.watch is None or (t.watch <= t.good if t.more_is_better else t.watch >= t.good)
        assert t.level(math.nan) == "watch" and t.level(t.good) == "good"


def test_nothing_secret_is_in_a_report(sample_model, people, small_bank, tmp_path):
    """Not the seed, from which the key follows, nor the key, photo ids, nor what is not known to be harmless."""
    secret = {"seed": 918273645, "stray": "S3CRET"}
    key = "5ec4e7" * 10
    bank = vk.VeilBank(
        small_bank.veils, small_bank.names, 51,
        [r | {"stray": "S3CRET", "held_out": {"rank1": 1.0, "stray": "S3CRET"}} for r in small_bank.records],
        small_bank.model | secret, small_bank.config | secret, "S3CRET", key, small_bank.version,
    )  # fmt: skip
    write_report(tmp_path, evaluate(sample_model, people, bank), people, bank)
    ids = [mark for record in bank.records for mark in record["photo_ids"]]
    for name in ("report.json", "report.html"):
        text = (tmp_path / name).read_text()
        assert not any(word in text for word in ("S3CRET", key, "918273645", "photo_ids", *ids))
        assert (tmp_path / name).stat().st_mode & 0o077 == 0  # a pair of photos gives the veil away
    about = json.loads((tmp_path / "report.json").read_text())["bank"]
    assert set(about["config"]) == set(vk.CraftConfig().as_dict()) - {"seed"} and about["records"][0]["held_out"]


def test_a_report_is_never_replaced_unasked(evaluation, people, small_bank, tmp_path):
    for name in FILES:
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(vk.errors.OutputError, match=f"holds a report already.*{name}"):
            write_report(folder, evaluation, people, small_bank)
        assert [p.read_text() for p in folder.iterdir()] == ["mine"]
        refused = CliRunner().invoke(
            app, ["evaluate", "FACES", "--model", "none", "--veils", "v", "--out", str(folder)]
        )
        assert "holds a report already" in str(refused.exception)  # before anything is read
    write_report(folder, evaluation, people, small_bank, overwrite=True)
    assert {p.name for p in folder.iterdir()} == set(FILES)


def test_nobody_is_named_where_all_are_alike(evaluation):
    """One person is the worst; several of the same figure are not."""
    record = evaluation.persons[0]
    for names, worst in ((["a"], "a"), (["a", "b"], None)):
        found = run._overall([{**record, "name": name} for name in names])
        assert {entry["name"] for entry in found["worst"].values()} == {worst}
    other = {**record, "name": "b", "contour2": record["contour2"] + 0.1}
    assert run._overall([{**record, "name": "a"}, other])["worst"]["contour2"]["name"] == "b"


def test_worst_photos_and_persons_come_first(evaluation):
    contours = sorted((abs(v) for p in evaluation.photos.values() for v in p["contour2"]), reverse=True)
    worst = worst_photos(evaluation, "contour2", 3)
    assert [abs(evaluation.photos[label]["contour2"][i]) for label, i in worst] == contours[:3]
    (label, i) = worst_photos(evaluation, "cosine", 1)[0]
    assert evaluation.photos[label]["cosine"][i] == min(v for p in evaluation.photos.values() for v in p["cosine"])
    order = [max(LEVELS.index(person_level(r, m) or "good") for m in r) for r in worst_first(evaluation)]
    assert order == sorted(order, reverse=True) and len(order) == len(evaluation.persons)
    one, other = (
        {**evaluation.persons[0], "name": name, "contour2": value} for name, value in (("a", 0.01), ("b", 0.02))
    )
    alike = dataclasses.replace(evaluation, persons=[one, other, {**other, "name": "c"}])
    assert [r["name"] for r in worst_first(alike)] == ["b", "c", "a"]  # of one level: the larger contour, then by name


def test_the_contact_sheet_names_kinds_and_persons(people, small_bank):
    shown = [views(people, small_bank, [0, 1]), views(people, small_bank, [6])]
    sheet = np.asarray(contact_sheet(shown))
    for block in range(4):
        left = 8 + block * (2 * 112 + 8)
        assert sheet[:18, left : left + 224].min() < 128  # the kind
        kind = ("original", "protected", "protected, blurred", "recovered")[block]
        for line, person in enumerate(shown):
            top = 18 + line * (112 + 14)
            assert (sheet[top : top + 14, left : left + 224].min() < 128) == (block == 0)  # the person, once a line
            for i, image in enumerate(person.images[kind].permute(0, 2, 3, 1).numpy()):
                np.testing.assert_array_equal(sheet[top + 14 : top + 126, left + i * 112 : left + (i + 1) * 112], image)


def test_blurred_views_show_a_negative_as_a_positive():
    x, _ = pair()
    blurred, leaked = blurred_views(x, 255 - x)
    assert blurred.shape == x.shape and blurred.dtype == torch.uint8
    assert (blurred.int() - leaked.int()).abs().max() <= 2 and blurred.min() == 0 and blurred.max() == 255
    # From the 1st to the 99th percentile to 0..255, however faint it is.
    faint = 100 + x // 16
    luma = blurred_luma(faint, 2.0)
    low, high = (np.quantile(luma.numpy(), q, axis=(1, 2), keepdims=True) for q in (0.01, 0.99))
    wanted = np.clip((luma.numpy() - low) / (high - low), 0, 1) * 255
    np.testing.assert_allclose(blurred_views(faint, faint)[0][:, 0].numpy(), wanted, atol=0.51)
    flat = torch.full_like(x, 9)
    assert blurred_views(x, flat)[1].shape == x.shape


def test_the_printed_table_fits_80_columns(evaluation, monkeypatch):
    evaluation = copy.deepcopy(evaluation)
    evaluation.overall["unseen"]["contour2"] = 0.4
    page = Console(width=80, record=True, file=io.StringIO())
    monkeypatch.setattr(cli_evaluate, "console", page)
    cli_evaluate.print_evaluation(evaluation)
    text = page.export_text()
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    assert all(label.strip() in text for label in run.MEASURES.values()) and "of clean photos" in text
    assert "Are the faces hidden from people? bad: No" in text and "0.4 (unseen)" in " ".join(text.split())
    for row in evaluation.overall.values():
        assert format_number("cosine", row["worst"]["cosine"]["value"]) in text


def test_info_at_80_columns(monkeypatch):
    page = Console(width=80, record=True, file=io.StringIO())
    monkeypatch.setattr(cli_info, "console", page)
    cli_info.info()
    text = " ".join(page.export_text().split())
    assert "…" not in text
    for backend in vk.list_backends():
        assert backend.name in text and (backend.reason or backend.detail) in text
    for fact in (vk.__version__, torch.__version__, f"{torch.get_num_threads()} of torch", "numpy", "launch tables"):
        assert fact in text
