"""Galleries in files: what is embedded once says the same ever after, and nothing else is taken for it."""

from __future__ import annotations

import importlib.util
import json
import stat

import numpy as np
import pytest
import torch
from lpips_cases import alexnet
from safetensors.numpy import load_file, save_file
from torch import nn
from typer.testing import CliRunner

import veilkern as vk
from veilkern.cli import app
from veilkern.data.photos import photo_id, write_png
from veilkern.errors import ModelError, OutputError, PhotoError
from veilkern.evaluate import Gallery, build_gallery, evaluate, ranks_against
from veilkern.evaluate import gallery as module


class Eye(nn.Module):
    """A network of 16 x 16 photos that has no feature of a black one."""

    def __init__(self, seed: int):
        super().__init__()
        self.linear = nn.Linear(768, 12, bias=False)
        self.linear.weight.data = torch.randn(12, 768, generator=torch.Generator().manual_seed(seed))

    def forward(self, x):
        return self.linear((x - x.mean((1, 2, 3), keepdim=True)).flatten(1))


@pytest.fixture
def model():
    return vk.FaceModel(Eye(0), size=16, name="eye")


def photos(count: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=g)


@pytest.fixture
def built(model, tmp_path):
    return build_gallery(model, [photos(50)], tmp_path / "g.safetensors")


@pytest.mark.parametrize("precision,kind", [("float32", np.float32), ("float16", np.float16)])
@pytest.mark.parametrize("cut", ["one", "several", "single"])
def test_templates_are_the_features(model, tmp_path, precision, kind, cut):
    images = photos(70)
    parts = {"one": [images], "several": images.split([0, 33, 1, 36]), "single": list(images)}[cut]
    path = tmp_path / "g.safetensors"
    made = build_gallery(model, iter(parts), path, precision=precision, batch=16)
    for found in (made, Gallery.load(path), Gallery.load(str(path), check=False)):
        assert isinstance(found.templates, np.memmap) and found.templates.dtype == kind
        wanted = torch.cat([model.features(part) for part in images.split(16)]).numpy().astype(kind)
        np.testing.assert_array_equal(found.templates, wanted)
        np.testing.assert_array_equal(found[3:7], wanted[3:7])
        assert [bytes(mark).hex() for mark in found.photo_ids] == [photo_id(image) for image in images]
        assert (found.shape, len(found), found.left_out) == ((70, 12), 70, 0)
        assert (found.name, found.fingerprint) == ("eye", model.fingerprint)
        assert repr(found) == "Gallery(g.safetensors, 70 templates of 12 values by eye)"
        found.require(model)
        probes = model.features(photos(9, seed=1))
        assert torch.equal(
            ranks_against(probes, probes[:2], found, block=9), ranks_against(probes, probes[:2], torch.tensor(wanted))
        )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and [p.name for p in tmp_path.iterdir()] == ["g.safetensors"]
    assert load_file(path)["templates"].shape == (70, 12)  # any reader of safetensors can
    with pytest.raises((ValueError, OSError)):
        made.templates[0] = 0  # read-only


@pytest.mark.parametrize("piece", [1, 100, 1 << 20])
def test_the_file_in_pieces_of_any_length(model, tmp_path, monkeypatch, built, piece):
    monkeypatch.setattr(module, "_PIECE", piece)
    again = build_gallery(model, photos(50), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == built.path.read_bytes()
    assert len(Gallery.load(built.path)) == 50
    assert again.templates.offset % 64 == 0  # where every value lies on its own boundary


def test_no_more_than_a_batch_is_asked_for(model, tmp_path, monkeypatch):
    asked, seen = [], []

    def stream():
        for number, image in enumerate(photos(40)):
            asked.append(number)
            yield image

    plain = vk.FaceModel.features
    monkeypatch.setattr(
        vk.FaceModel, "features", lambda self, x, **k: seen.append((len(x), len(asked))) or plain(self, x, **k)
    )
    build_gallery(model, stream(), tmp_path / "g", batch=16)
    assert seen == [(16, 16), (16, 32), (8, 40)]


def test_photos_without_a_feature_are_left_out_and_counted(model, tmp_path):
    images = photos(20)
    images[[2, 19]] = 0
    found = build_gallery(model, [images], tmp_path / "g", batch=7)
    assert (len(found), found.left_out, Gallery.load(tmp_path / "g").left_out) == (18, 2, 2)
    assert bytes(found.photo_ids[2]).hex() == photo_id(images[3])
    with pytest.raises(ModelError, match="NaN, infinity or a zero vector for all 2 gallery photos"):
        build_gallery(model, [images[[2, 19]]], tmp_path / "h")
    with pytest.raises(ValueError, match="photos must hold at least one photo, got none"):
        build_gallery(model, [], tmp_path / "h")
    assert [p.name for p in tmp_path.iterdir()] == ["g"]


@pytest.mark.parametrize("wrong", [photos(2).float(), photos(2)[:, :2], photos(2)[0, 0], photos(2)[None], "photo"])
def test_what_are_no_photos(model, tmp_path, wrong):
    with pytest.raises(ValueError, match=r"photos must be uint8 \[n, 3, H, W\] or \[3, H, W\], got "):
        build_gallery(model, [photos(1), wrong], tmp_path / "g")
    with pytest.raises(ValueError, match="precision must be 'float32' or 'float16', got 'bfloat16'"):
        build_gallery(model, [photos(1)], tmp_path / "g", precision="bfloat16")
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_kept(model, built, tmp_path):
    before = built.path.read_bytes()

    def never():
        raise AssertionError("the work began")
        yield

    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path in (built.path, tmp_path / "link"):
        with pytest.raises(OutputError, match="there already; kept"):
            build_gallery(model, never(), path)
    assert built.path.read_bytes() == before
    again = build_gallery(model, [photos(3, seed=5)], built.path, overwrite=True)
    assert len(again) == 3 and len(Gallery.load(built.path)) == 3
    before = np.frombuffer(before, "<f4", 600, offset=len(before) - 50 * (12 * 4 + 8))
    np.testing.assert_array_equal(built.templates, before.reshape(50, 12))  # who has it open reads on

    def meanwhile():
        yield photos(2)
        (tmp_path / "late").write_text("another's")

    with pytest.raises(OutputError, match="late: there already; kept"):
        build_gallery(model, meanwhile(), tmp_path / "late")
    assert (tmp_path / "late").read_text() == "another's"


def test_where_nothing_can_be_written(model, tmp_path, monkeypatch):
    with pytest.raises(OutputError, match="nowhere/g: cannot be written: No such file or directory"):
        build_gallery(model, [photos(2)], tmp_path / "nowhere" / "g")

    class Full:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            raise OSError(28, "No space left on device")

    plain = module.tempfile.TemporaryFile
    monkeypatch.setattr(module.tempfile, "TemporaryFile", lambda **options: Full(plain(**options)))
    with pytest.raises(OutputError, match="g: cannot be written: No space left on device"):
        build_gallery(model, [photos(2)], tmp_path / "g")
    assert not list(tmp_path.iterdir())

    def unreadable():
        raise FileNotFoundError(2, "a photo is gone")
        yield

    monkeypatch.undo()
    with pytest.raises(FileNotFoundError, match="a photo is gone"):  # not an error of the output
        build_gallery(model, unreadable(), tmp_path / "g")


def test_another_networks_gallery_is_refused(built):
    other = vk.FaceModel(Eye(1), size=16, name="other eye")
    people = vk.People.from_images([photos(2, seed=7), photos(2, seed=8)], ["a", "b"])
    bank = vk.VeilBank(photos(2, seed=9), people.names, 51, [], other.about())
    for call in (lambda: built.require(other), lambda: evaluate(other, people, bank, gallery=built)):
        with pytest.raises(ModelError, match="templates of another network .eye, .* than other eye"):
            call()


def same(one, other) -> bool:
    return json.dumps(one.as_dict()) == json.dumps(other.as_dict())


def test_evaluation_is_that_of_the_photos(model, tmp_path):
    """With the people's own pictures left out, and those without a feature."""
    people = vk.People.from_images([photos(4, seed=7), photos(3, seed=8)], ["a", "b"])
    bank = vk.VeilBank(photos(2, seed=9), people.names, 200, [], model.about())
    others = photos(60, seed=10)
    others[::13], others[5] = people.images[[0, 1, 2, 3, 4]], 0
    found = build_gallery(model, [others], tmp_path / "g")
    one, other = (evaluate(model, people, bank, gallery=g) for g in (others, found))
    assert one.gallery == other.gallery == 54 and one.persons[0]["rank1"] not in (0, 1)
    assert {"5 of 60 gallery photos are pictures of the people themselves, left out"} < set(other.notices)
    # Which of two pictures' absence is told first, and whether the black one is counted before, may differ.
    one.notices = other.notices = []
    assert same(one, other)
    alone = evaluate(model, people, bank, gallery=build_gallery(model, [people.images], tmp_path / "h"))
    assert alone.gallery == 0
    alone.notices = []
    assert same(alone, evaluate(model, people, bank))


def test_without_copies_nothing_and_keeps_the_order(model, built, monkeypatch):
    marks = [photo_id(image) for image in photos(50)[[0, 7, 8, 49]]]
    kept = built.without([*marks, "00" * 8])
    assert kept.shape == (46, 12) and len(kept) == 46
    wanted = np.delete(np.asarray(built.templates), [0, 7, 8, 49], axis=0)
    np.testing.assert_array_equal(kept[0:46], wanted)
    np.testing.assert_array_equal(kept[5:9], wanted[5:9])
    assert built.without([]) is built and built.without(["00" * 8]) is built
    probes = model.features(photos(9, seed=1))
    ranks = [ranks_against(probes, probes[:2], g, block=b) for g in (kept, torch.tensor(wanted)) for b in (4, 999)]
    assert all(torch.equal(r, ranks[0]) for r in ranks)


@pytest.mark.parametrize("place", [0, 4, 8, 20, 100, -1, -400, -401, -1500])
def test_damage_is_noticed(built, place):
    """A bit anywhere: in the length, the description, the templates, the ids."""
    content = bytearray(built.path.read_bytes())
    content[place] ^= 1
    built.path.write_bytes(content)
    with pytest.raises(PhotoError, match="g.safetensors: "):
        Gallery.load(built.path)


@pytest.mark.parametrize("keep", [0, 7, 8, 100, -1, -1000])
def test_a_file_that_was_cut_off(built, keep):
    content = built.path.read_bytes()
    built.path.write_bytes(content[:keep])
    for check in (True, False):
        with pytest.raises(PhotoError, match="not a gallery file, or truncated"):
            Gallery.load(built.path, check=check)


def rewritten(built, change, **meta):
    """The gallery's file with other tensors or another description."""
    tensors = dict(load_file(built.path))
    content = built.path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    about = json.loads(header["__metadata__"][module.FORMAT]) | meta
    about = {k: v for k, v in about.items() if v is not ...}
    save_file(change(tensors), built.path, {module.FORMAT: json.dumps(about)})


@pytest.mark.parametrize(
    "change,meta,words",
    [
        (lambda t: t, {"version": 2}, "gallery format 2; this veilkern reads 1"),
        (lambda t: t, {"version": "1"}, "damaged description: wanted version, name"),
        (lambda t: t, {"fingerprint": ...}, "damaged description"),
        (lambda t: t, {"left_out": "2"}, "damaged description"),
        (lambda t: t | {"more": t["photo_ids"]}, {}, "not the parts of a gallery"),
        (lambda t: {"templates": t["templates"]}, {}, "not the parts of a gallery"),
        (lambda t: t | {"templates": t["templates"].astype(np.float64)}, {}, "not the parts of a gallery"),
        (lambda t: t | {"templates": t["templates"][:, 0].copy()}, {}, "not the parts of a gallery"),
        (lambda t: t | {"templates": t["templates"][:49].copy()}, {}, "not the parts of a gallery"),
        (lambda t: t | {"templates": t["templates"][:, :0].copy()}, {}, "not the parts of a gallery"),
        (lambda t: t | {"photo_ids": t["photo_ids"].astype(np.int8)}, {}, "not the parts of a gallery"),
        (lambda t: {k: v[:0].copy() for k, v in t.items()}, {}, "not the parts of a gallery"),
        (lambda t: t | {"templates": t["templates"] * 2}, {}, "does not match its checksum"),
    ],
)
def test_files_that_are_no_galleries(built, change, meta, words):
    rewritten(built, change, **meta)
    with pytest.raises(PhotoError, match=f"g.safetensors: .*{words}"):
        Gallery.load(built.path)
    if "checksum" in words:
        assert len(Gallery.load(built.path, check=False)) == 50


def test_other_files(built, tmp_path, small_bank):
    rewritten(built, lambda t: t)  # as it was: other places of the tensors are no fault
    assert len(Gallery.load(built.path)) == 50
    small_bank.save(tmp_path / "bank")
    with pytest.raises(PhotoError, match="bank: a safetensors file, but not a gallery"):
        Gallery.load(tmp_path / "bank")
    for text in ("[1]", "{", "[" * 100_000):
        save_file({"x": np.zeros(3)}, tmp_path / "odd", {module.FORMAT: text})
        with pytest.raises(PhotoError, match="odd: "):
            Gallery.load(tmp_path / "odd")
    for nothing in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(PhotoError, match="no such gallery file"):
            Gallery.load(nothing)


NET = "veilkern.samples:load_model"


@pytest.fixture(scope="module")
def folders(people, small_bank, tmp_path_factory):
    """Faces, a bank, and a gallery: photos beside each other and in folders, one of a person of the faces."""
    root = tmp_path_factory.mktemp("gallery")
    for image, file in zip(people.images[:12], people.files[:12], strict=True):
        (root / "faces" / file).parent.mkdir(parents=True, exist_ok=True)
        write_png(root / "faces" / file, image)
    (root / "others" / "more").mkdir(parents=True)
    for number, image in enumerate(people.images[11:]):
        write_png(root / "others" / ("more" if number % 2 else "") / f"{number}.png", image)
    (root / "others" / "more" / "bad.png").write_bytes(b"no photo")
    small_bank.save(root / "bank")
    return root


def run(root, *arguments):
    common = ["evaluate", str(root / "faces"), "--model", NET, "--veils", str(root / "bank")]
    return CliRunner().invoke(app, [*common, *map(str, arguments)])


@pytest.mark.thorough
def test_the_command_keeps_a_gallery_and_takes_it_again(folders, tmp_path):
    """Bad photos of it are listed; LPIPS is measured where its weights are given, and said to be missing elsewhere."""
    if importlib.util.find_spec("lpips") is None:
        pytest.skip("lpips is not installed: no file of heads")
    kept, reports = tmp_path / "kept", []
    torch.save(alexnet(), tmp_path / "alexnet.pth")
    for options, code, words in (
        (
            ("--gallery", folders / "others", "--save-gallery", kept),
            1,
            ("1 left out", "bad.png", "LPIPS: not measured"),
        ),
        (
            ("--gallery", kept, "--lpips", tmp_path / "alexnet.pth"),
            0,
            ("LPIPS protected", "LPIPS recovered", "not by the weights that torchvision publishes"),
        ),
    ):
        out = tmp_path / str(code)
        done = run(folders, "--out", out, *options)
        assert done.exit_code == code, done.output
        text = " ".join(done.output.split())
        assert all(word in text for word in (*words, "TAR at FAR 1e-3: too few impostor pairs"))
        page = " ".join((out / "report.html").read_text().split())
        assert all(word in page for word in words if "LPIPS" in word)
        report = json.loads((out / "report.json").read_text())
        assert report["gallery"] == 12 and "1 of 13 gallery photos are pictures of the people" in str(report["notices"])
        reports.append(report)
    one, other = reports
    for label, row in one["overall"].items():
        assert other["overall"][label]["lpips_protected"] > 10 * other["overall"][label]["lpips_recovered"] > 0
        assert {k: v for k, v in other["overall"][label].items() if k in row and k != "worst"} == {
            k: v for k, v in row.items() if k != "worst"
        }
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and len(Gallery.load(kept)) == 13


def test_what_the_command_refuses(folders, tmp_path, built):
    out = ("--out", tmp_path / "again")
    done = run(folders, *out, "--gallery", folders / "others", "--save-gallery", built.path)
    assert isinstance(done.exception, OutputError) and "there already; kept" in str(done.exception)
    for wrong in ((), ("--gallery", built.path)):
        done = run(folders, *out, *wrong, "--save-gallery", tmp_path / "new")
        assert done.exit_code == 2 and "--save-gallery is for a folder of --gallery" in " ".join(done.output.split())
    (tmp_path / "empty").mkdir()
    for folder, words in (("empty", "no usable gallery photo"), ("none", "not a folder of gallery")):
        done = run(folders, *out, "--gallery", tmp_path / folder, "--save-gallery", tmp_path / "new")
        assert isinstance(done.exception, PhotoError) and words in str(done.exception)
    done = run(folders, *out, "--gallery", built.path)
    assert isinstance(done.exception, ModelError) and "templates of another network" in str(done.exception)
    done = run(folders, *out, "--lpips", tmp_path / "alexnet.pth")
    assert isinstance(done.exception, ModelError) and "alexnet-owt-7be5be79.pth" in str(done.exception)
    assert not (tmp_path / "again").exists() and not (tmp_path / "new").exists()
