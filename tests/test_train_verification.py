"""The figures of held-out identities, against slow and plain ways to get them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from train_cases import SIDE, TinyNet, people

import veilkern as vk
from veilkern.data.people import Problem
from veilkern.errors import PhotoError
from veilkern.training.data import Photos, Reading, open_source
from veilkern.training.verification import PHOTOS, Verification, _best_threshold, embed, read_held_out, verify


def features_of(identities: int, photos: int, spread: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(identities, 32, generator=made))
    rows = torch.arange(identities).repeat_interleave(photos)
    return F.normalize(centres[rows] + spread * torch.randn(len(rows), 32, generator=made)), rows


@pytest.mark.parametrize("spread", [0.05, 0.3, 0.6])
@pytest.mark.parametrize("identities,photos", [(12, 6), (40, 3)])
def test_against_the_plain_way(identities, photos, spread):
    features, rows = features_of(identities, photos, spread)
    found, f = verify(features, rows), features.double()
    first = {int(p): int((rows == p).nonzero()[0]) for p in rows.unique()}
    probes = [i for i in range(len(rows)) if i not in first.values()]
    right = [max(first, key=lambda p, i=i: float(f[i] @ f[first[p]])) == int(rows[i]) for i in probes]
    assert found.rank1 == pytest.approx(np.mean(right))
    pairs = [(float(f[i] @ f[j]), bool(rows[i] == rows[j])) for i, j in itertools.combinations(range(len(rows)), 2)]
    same = np.array([score for score, alike in pairs if alike])
    different = np.array(sorted((score for score, alike in pairs if not alike), reverse=True))
    assert (found.same_pairs, found.different_pairs) == (len(same), len(different)) and (
        found.identities,
        found.photos,
    ) == (identities, len(rows))
    threshold = different[len(different) // 1000]  # so many are above it: no more than one in 1000
    assert found.tar == pytest.approx((same > threshold).mean(), abs=1e-6)
    best = max(np.mean([(score >= t) == alike for score, alike in _balanced(pairs)]) for t in np.linspace(-1, 1, 400))
    assert found.accuracy == pytest.approx(best, abs=0.06)


def _balanced(pairs):
    same = [pair for pair in pairs if pair[1]]
    different = [pair for pair in pairs if not pair[1]]
    return same + different[:: max(1, len(different) // len(same))][: len(same)]


def test_the_ends_of_the_scale():
    apart = verify(*features_of(20, 5, 1e-4))
    assert (apart.rank1, apart.accuracy, apart.tar) == (1.0, 1.0, 1.0)
    noise = F.normalize(torch.randn(400, 64))
    chance = verify(noise, torch.arange(100).repeat_interleave(4))
    assert chance.rank1 < 0.06 and abs(chance.accuracy - 0.5) < 0.06 and chance.tar < 0.02


def test_thresholds_come_from_the_other_folds():
    """With so few pairs a fold's own best threshold would find something in noise."""
    rows = torch.arange(40).repeat_interleave(3)
    found = [verify(F.normalize(torch.randn(120, 64)), rows).accuracy for _ in range(5)]
    assert abs(np.mean(found) - 0.5) < 0.05


def test_equal_features_are_no_recognition():
    """A network that says the same of everybody: ties count against it."""
    constant = verify(F.normalize(torch.ones(100, 8)), torch.arange(20).repeat_interleave(5))
    assert constant.rank1 == 0.0 and constant.tar == 0.0 and constant.accuracy == pytest.approx(0.5)


def test_features_that_are_no_numbers_are_never_recognised():
    features, rows = features_of(20, 5, 1e-4)
    features[7] = torch.nan
    assert verify(features, rows).rank1 == pytest.approx(79 / 80)
    assert verify(torch.full_like(features, torch.nan), rows).rank1 == 0.0


def test_too_few_to_say():
    few = verify(*features_of(3, 3, 0.1))
    assert few.accuracy is None and few.tar is None and few.rank1 == 1.0
    assert str(few) == "rank-1 1.0000, accuracy –, TAR at FAR 1e-3 –"
    assert Verification(**few.as_dict()) == few


def test_thresholds_are_the_best_ones():
    made = np.random.default_rng(0)
    for _ in range(50):
        cosines, alike = made.choice([0.1, 0.2, 0.3, 0.4], 12), made.random(12) < 0.5
        found = ((cosines >= _best_threshold(cosines, alike)) == alike).sum()
        assert found == max(((cosines >= t) == alike).sum() for t in (0.0, 0.15, 0.25, 0.35, 0.9))


def test_each_verification_is_on_the_same_pairs():
    features, rows = features_of(30, 8, 0.5)
    assert verify(features, rows) == verify(features, rows)


def test_the_first_photos_that_can_be_used(monkeypatch):
    made = people(6, 14)
    some = made.take([i for i in range(84) if i < 70 or i == 70])  # the last one has one photo
    photos, problems = Photos.of(open_source(some, [], [])), []
    real = photos.source.read

    def read(number, how):
        if number in (0, 3, 15):
            raise PhotoError(f"{photos.source.where(number)}: damaged")
        return real(number, how)

    monkeypatch.setattr(photos.source, "read", read)
    held = read_held_out(photos, Reading((SIDE, SIDE)), problems)
    assert len(held) == 5 and held.rows.bincount().tolist() == [PHOTOS] * 5
    assert torch.equal(held.images[:2], some.images[[1, 2]])
    assert problems == [Problem(some.files[i], "damaged") for i in (0, 3, 15)]
    with pytest.raises(PhotoError, match="two identities with two photos each, got 0"):
        read_held_out(photos, Reading((9, 9)), [])


@pytest.mark.parametrize("bgr", [False, True])
def test_embed_is_what_face_model_says_and_leaves_the_network_training(bgr):
    net, images = TinyNet(16).train(), people().images[:40]
    spec = {"size": SIDE, "mean": (0.4, 0.5, 0.6), "std": (0.5, 0.4, 0.3), "bgr": bgr, "value_range": 1.0}
    before = {name: value.clone() for name, value in net.state_dict().items()}
    model = vk.FaceModel(net, **spec)
    mean, std = (torch.tensor(model.input.normalisation[name]).view(3, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(embed(net, images, mean, std, bgr), model.features(images))
    assert net.training and all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
