"""The embedded default: the renderer repeats itself, the network recognises people it never saw."""

from __future__ import annotations

import os
import shutil

import pytest
import torch

import veilkern as vk
from veilkern.errors import OutputError
from veilkern.samples import WEIGHTS, load_model, synthetic_people
from veilkern.samples.demo import MADE, run_demo
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
    said = capsys.readouterr().out
    assert (tmp_path / "net.safetensors").stat().st_size < 2_000_000 and "rank-1 on 5 unseen people" in said


def test_rank1():
    images = torch.eye(4).repeat_interleave(3, 0) * 255  # 4 people, 3 photos each, alike to the last bit

    def net(batch):
        return batch + 1

    assert rank1(net, images, 4) == 1.0
    images[[4, 9]] = images[[9, 4]]  # one photo of person 1 for one of person 3: as template it costs that one all
    assert rank1(net, images, 4) == 5 / 8


def small_demo(out):
    """The demo in seconds."""
    with pytest.MonkeyPatch.context() as patch:
        for name, number in (("PHOTOS", 3), ("HELD_OUT", 1), ("GALLERY", 2)):
            patch.setattr(f"veilkern.samples.demo.{name}", number)
        return run_demo(out, 2, people=2, progress=False)


def contents(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != MADE and not p.name.startswith(".veils")
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "made"
    small_demo(out)
    return out


def test_a_demo_follows_a_demo(made, tmp_path):
    shutil.copytree(made, tmp_path / "demo")
    (tmp_path / "demo" / "report.json").unlink()  # what is gone does no harm
    (tmp_path / "demo" / ".DS_Store").write_bytes(b"the desktop's")
    small_demo(tmp_path / "demo")
    assert contents(tmp_path / "demo").keys() - {".DS_Store"} == contents(made).keys()


@pytest.mark.parametrize(
    "place", ["veils.safetensors", "report.html", "notes.txt", "faces/person-000/00.png", "protected/new/photo.png"]
)
@pytest.mark.parametrize("after_a_demo", [False, True])
def test_the_demo_replaces_nothing_that_it_did_not_make(made, tmp_path, place, after_a_demo, monkeypatch):
    out = tmp_path / "demo"
    if after_a_demo:
        shutil.copytree(made, out)
    (out / place).parent.mkdir(parents=True, exist_ok=True)
    (out / place).write_bytes(b"mine")
    before = contents(out)
    monkeypatch.setattr("veilkern.samples.demo.load_model", lambda: pytest.fail("the work began"))
    with pytest.raises(OutputError, match=f"{place} not as a demo made it; name another folder"):
        small_demo(out)
    assert contents(out) == before


def test_the_demo_follows_no_link_and_trusts_no_broken_list(made, tmp_path, monkeypatch):
    monkeypatch.setattr("veilkern.samples.demo.load_model", lambda: pytest.fail("the work began"))
    for number, place in enumerate(("veils.safetensors", "faces", MADE)):
        out = tmp_path / str(number)
        out.mkdir()
        (out / place).symlink_to(made / place)
        with pytest.raises(OutputError, match="not as a demo made it"):
            small_demo(out)
    for number, text in enumerate(("", "[]", "null", "{")):
        out = tmp_path / f"list-{number}"
        out.mkdir()
        (out / MADE).write_text(text)
        with pytest.raises(OutputError, match="not as a demo made it"):
            small_demo(out)
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(OutputError, match="cannot be written"):
            small_demo(tmp_path / "locked")


def test_a_demo_that_is_interrupted_can_be_repeated(tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("veilkern.samples.demo.craft", interrupted)
        with pytest.raises(KeyboardInterrupt):
            small_demo(tmp_path / "demo")
    assert len(contents(tmp_path / "demo")) == 6
    assert small_demo(tmp_path / "demo").blend.report.exists()
