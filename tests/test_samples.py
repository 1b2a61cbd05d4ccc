"""The embedded default: the renderer repeats itself, the network recognises people it never saw."""

from __future__ import annotations

import pytest
import torch

from veilkern.samples import WEIGHTS, load_model, synthetic_people
from veilkern.samples.train import rank1, train


def test_people_are_the_same_for_the_same_numbers():
    one, two = synthetic_people(3, 4, seed=5), synthetic_people(3, 4, seed=5)
    assert torch.equal(one.images, two.images) and one.names == ["person-000", "person-001", "person-002"]
    assert torch.equal(synthetic_people(1, 4, seed=5).images, one.images[:4])
    assert not torch.equal(one.images, synthetic_people(3, 4, seed=6).images)
    assert len({image.numpy().tobytes() for image in one.images}) == 12


def test_photos_look_like_photos():
    images = synthetic_people(20, 2, seed=8).images.float() / 255
    assert 0.2 < images.mean() < 0.7 and images.flatten(1).std(1).min() > 0.08


@pytest.mark.thorough
def test_weights_are_small_and_the_network_tells_200_unseen_people_apart():
    assert WEIGHTS.stat().st_size < 2_000_000
    unseen = synthetic_people(200, 5, seed=77)  # neither trained on nor judged on during training
    model = load_model()
    features = model.features(unseen.images).view(200, 5, -1)
    right = (features[:, 1:] @ features[:, 0].T).argmax(2) == torch.arange(200)[:, None]
    assert right.double().mean() >= 0.98


def test_the_training_script_trains(tmp_path, capsys):
    train(4, 8, 1, tmp_path / "net.safetensors", batch=16, judged=5)
    assert (
        tmp_path / "net.safetensors"
    ).stat().st_size < 2_000_000 and "rank-1 on 5 unseen people" in capsys.readouterr().out
    assert callable(rank1)
