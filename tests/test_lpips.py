"""LPIPS: against the `lpips` package's own arithmetic on the same weights, and what it refuses."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import sys
import types

import pytest
import torch
from lpips_cases import SHAPES, alexnet, heads
from safetensors.torch import save_file
from torch import nn

import veilkern as vk
from veilkern.errors import ModelError
from veilkern.evaluate import evaluate, run
from veilkern.evaluate import lpips as module
from veilkern.evaluate.lpips import CHUNK, SMALLEST, Lpips
from veilkern.evaluate.report import remarks


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lpips")
    torch.save(alexnet(), folder / "alexnet.pth")
    torch.save(heads(), folder / "heads.pth")
    return folder / "alexnet.pth", folder / "heads.pth"


@pytest.fixture(scope="module")
def lpips(files):
    return Lpips.load(*files)


def photos(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=g)


@pytest.fixture(scope="module")
def package(files):
    """The `lpips` package's network with the same weights. It asks torchvision for AlexNet, for which a stand-in
    answers; without the package, or what it imports, its tests skip."""
    if importlib.util.find_spec("lpips") is None:
        pytest.skip("lpips is not installed: nothing to compare with")

    def network(**_):
        layers = [
            nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(),
            nn.MaxPool2d(3, 2), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(), nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
        ]  # fmt: skip
        features = nn.Sequential(*layers)
        features.load_state_dict({k.removeprefix("features."): v for k, v in alexnet().items() if "features" in k})
        return types.SimpleNamespace(features=features)

    with pytest.MonkeyPatch.context() as patch:
        top, models = types.ModuleType("torchvision"), types.ModuleType("torchvision.models")
        top.models, models.alexnet = models, network
        patch.setitem(sys.modules, "torchvision", top)
        patch.setitem(sys.modules, "torchvision.models", models)
        for name in [name for name in sys.modules if name.partition(".")[0] == "lpips"]:
            patch.delitem(sys.modules, name)
        try:
            theirs = importlib.import_module("lpips")
        except ImportError as error:
            pytest.skip(f"lpips cannot be imported: {error}")
        built = theirs.LPIPS(net="alex", version="0.1", model_path=str(files[1]), verbose=False)
        yield built
        for name in [name for name in sys.modules if name.partition(".")[0] == "lpips"]:
            del sys.modules[name]


@pytest.mark.parametrize("height,width", [(112, 112), (64, 64), (31, 31), (32, 45), (113, 47), (96, 35), (160, 160)])
def test_as_the_package_computes_it(lpips, package, height, width):
    x, y = photos(5, height, width), photos(5, height, width, seed=1)
    y[1] = (x[1] // 2 + 40).to(torch.uint8)  # alike
    y[2] = x[2]
    y[3] = 0
    with torch.no_grad():
        theirs = package(x / 255, y / 255, normalize=True).flatten().double()
    found = lpips(x, y)
    assert found.dtype == torch.float64 and found.shape == (5,)
    torch.testing.assert_close(found, theirs, rtol=2e-5, atol=1e-7)
    assert found[2] == 0 and found[0] > found[1] > 0  # noise from noise is further than what is alike
    torch.testing.assert_close(lpips(x / 255, y / 255), found, rtol=1e-6, atol=0)


def test_flat_photos_as_the_package_computes_them(lpips, package):
    """Layers that are zero throughout: divided by their norm of 0 and 1e-10."""
    bare = {k: (-torch.ones_like(v) if k.endswith("bias") else torch.zeros_like(v)) for k, v in alexnet().items()}
    bare["features.0.bias"][:5] = 1.0
    none = Lpips([(bare[f"features.{p}.weight"], bare[f"features.{p}.bias"]) for p in SHAPES], list(heads().values()))
    x = photos(2, 40, 40)
    assert none(x, 255 - x).tolist() == [0, 0]
    flat = torch.stack([torch.zeros(3, 64, 64), torch.ones(3, 64, 64)]).to(torch.float32)
    with torch.no_grad():
        theirs = package(flat, flat.flip(0), normalize=True).flatten().double()
    torch.testing.assert_close(lpips(flat, flat.flip(0)), theirs, rtol=2e-5, atol=1e-7)


def test_the_heads_of_the_package_are_found_by_path(files):
    """They are a GPU's tensors, read where there is none; the package is not imported for it."""
    if importlib.util.find_spec("lpips") is None:
        pytest.skip("lpips is not installed: no file of heads")
    before = set(sys.modules)
    found = Lpips.load(files[0])
    assert not {name for name in set(sys.modules) - before if name.partition(".")[0] in ("lpips", "torchvision")}
    assert [tuple(head.shape) for head in found.heads] == [(1, s[0], 1, 1) for s in SHAPES.values()]
    assert all(head.device.type == "cpu" and head.min() >= 0 and head.max() > 0 for head in found.heads)
    assert found.about["heads"] == "alex.pth" and found(photos(1, 64, 64), photos(1, 64, 64, 1)) > 0


@pytest.mark.parametrize("side", [64, 112])
def test_a_figure_depends_on_its_two_photos_alone(lpips, side):
    """Symmetric, 0 for equal ones; the same bits whatever else there is, in whatever order, however it is cut."""
    count = 2 * CHUNK + 3
    x, y = photos(count, side, side), photos(count, side, side, seed=1)
    found = lpips(x, y)
    assert torch.equal(found, lpips(y, x)) and (found > 0).all()
    assert lpips(x, x).tolist() == [0] * count
    order = torch.randperm(count, generator=torch.Generator().manual_seed(2))
    assert torch.equal(lpips(x[order], y[order]), found[order])
    for size in (1, 3, CHUNK, CHUNK + 1):
        parts = [lpips(a, b) for a, b in zip(x.split(size), y.split(size), strict=True)]
        assert torch.equal(torch.cat(parts), found)
    strided = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # how decoded photos lie in memory
    assert torch.equal(lpips(strided, y), found)


@pytest.mark.parametrize("per_photo", [0, 1, CHUNK - 1, CHUNK, CHUNK + 2, 2 * CHUNK + 2, 2 * CHUNK + 3, 99])
def test_a_reference_keeps_its_features_in_bounded_memory(lpips, per_photo, monkeypatch):
    count = 2 * CHUNK + 3
    x, y = photos(count, 64, 48), photos(count, 64, 48, seed=1)
    one = module._values(x)
    found = lpips.tower(x[:1]).kept
    assert sum(layer[0].numel() for layer in found) == one
    memory = per_photo * 4 * one
    reference = lpips.tower(x, memory=memory)
    kept = sum(layer.numel() * layer.element_size() for layer in reference.kept)
    assert kept <= memory and len(reference) == count
    assert (kept == count * 4 * one) if per_photo >= count else kept == memory // (4 * one) // CHUNK * CHUNK * 4 * one
    asked = []
    plain = Lpips._features
    monkeypatch.setattr(Lpips, "_features", lambda self, photos: asked.append(len(photos)) or plain(self, photos))
    assert torch.equal(lpips.distance(reference, y), lpips(x, y))
    kept_photos = kept // (4 * one)
    assert sum(asked) == (count - kept_photos + count) + 2 * count  # of the first distance, then of x and y anew


def test_empty(lpips):
    none = photos(0, 40, 40)
    assert lpips(none, none).shape == (0,) and lpips(none.float(), none.float()).dtype == torch.float64


@pytest.mark.parametrize("height,width", [(SMALLEST - 1, 64), (64, SMALLEST - 1), (8, 8)])
def test_too_small(lpips, height, width):
    x = photos(2, height, width)
    with pytest.raises(ValueError, match=f"sides of 31 pixels or more.*got {height} x {width}"):
        lpips(x, x)


@pytest.mark.parametrize(
    "change,error,words",
    [
        (lambda x: x.float(), ValueError, r"float in \[0, 1\]; its values go from .* to 255"),
        (lambda x: x / 127.5 - 1, ValueError, "values go from -1"),
        (lambda x: torch.full(x.shape, float("nan")), ValueError, "nan"),
        (lambda x: (x / 255).index_fill(0, torch.tensor([1]), 1.001), ValueError, "1.001"),
        (lambda x: x.int(), TypeError, r"uint8, or float in \[0, 1\], got torch.int32"),
        (lambda x: x[0], ValueError, r"must be photos \[N, 3, H, W\]"),
        (lambda x: x[:, :1], ValueError, r"must be photos \[N, 3, H, W\]"),
        (lambda x: x.numpy(), TypeError, "must be a tensor of photos, got ndarray"),
    ],
)
def test_what_are_no_photos(lpips, change, error, words):
    x = photos(2, 40, 40)
    x[0, 0, 0, 0], x[0, 0, 0, 1] = 0, 255
    for pair, name in (((change(x), x), "x"), ((x, change(x)), "y")):
        with pytest.raises(error, match=f"Lpips: {name} .*{words}"):
            lpips(*pair)


def test_other_photos_than_the_reference(lpips):
    for other in (photos(3, 40, 40), photos(2, 40, 41)):
        with pytest.raises(ValueError, match="Lpips: y must be "):
            lpips(photos(2, 40, 40), other)


def test_safetensors_and_half_precision(files, tmp_path, lpips):
    save_file(alexnet(), tmp_path / "a.safetensors")
    save_file(heads(), tmp_path / "h.safetensors")
    x, y = photos(2, 64, 64), photos(2, 64, 64, seed=1)
    assert torch.equal(Lpips.load(tmp_path / "a.safetensors", tmp_path / "h.safetensors")(x, y), lpips(x, y))
    torch.save({k: v.half() for k, v in alexnet().items()}, tmp_path / "half.pth")
    torch.testing.assert_close(Lpips.load(tmp_path / "half.pth", files[1])(x, y), lpips(x, y), rtol=1e-2, atol=1e-4)


def test_absent_weights_are_named(files, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match=r"nowhere.pth: no such file; .*torchvision.*alexnet-owt-7be5be79\.pth"):
        Lpips.load(tmp_path / "nowhere.pth", files[1])
    with pytest.raises(ModelError, match=r"heads.pth: no such file; .*weights/v0.1/alex.pth of `lpips`"):
        Lpips.load(files[0], tmp_path / "heads.pth")
    for spec in (None, types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])):
        monkeypatch.setattr(module.importlib.util, "find_spec", lambda name, spec=spec: spec)
        with pytest.raises(ModelError, match=r"weights/v0.1/alex.pth of the package `lpips`.*not installed"):
            Lpips.load(files[0])


def damaged():
    """Every tensor that is needed: absent, of another shape, not a tensor, of integers, not finite."""
    names = [f"features.{place}.{kind}" for place in SHAPES for kind in ("weight", "bias")]
    kinds = {
        "absent": (None, "no tensor {}"),
        "shape": (lambda v: v[..., :-1], "{} must be float"),
        "text": (lambda v: "text", "no tensor {}"),
        "integers": (lambda v: v.int(), "{} must be float"),
        "nan": (lambda v: v.index_fill(0, torch.tensor([0]), float("nan")), "{} has values that are not finite"),
        "infinity": (lambda v: v.index_fill(0, torch.tensor([0]), float("inf")), "{} has values that are not finite"),
    }
    for (number, name), (kind, (change, words)) in itertools.product(enumerate([*names, *heads()]), kinds.items()):
        if kind in ("absent", "nan") or number % len(kinds) == list(kinds).index(kind):
            yield pytest.param(name, change, words.format(name.replace(".", r"\.")), id=f"{name}-{kind}")


@pytest.mark.parametrize("name,change,words", list(damaged()))
def test_weights_that_are_not_alexnets(tmp_path, name, change, words):
    states = {"alexnet.pth": alexnet(), "heads.pth": heads()}
    state = next(state for state in states.values() if name in state)
    if change is None:
        del state[name]
    else:
        state[name] = change(state[name])
    for file, values in states.items():
        torch.save(values, tmp_path / file)
    with pytest.raises(ModelError, match=words) as caught:
        Lpips.load(tmp_path / "alexnet.pth", tmp_path / "heads.pth")
    assert str(tmp_path / ("heads.pth" if name.startswith("lin") else "alexnet.pth")) in str(caught.value)


class Malice:
    """Runs code where a pickle is trusted."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('code of a checkpoint ran')",))


@pytest.mark.parametrize("content", [b"", b"no checkpoint", [1, 2], Malice()])
def test_files_that_are_no_state_dicts(files, tmp_path, content):
    path = tmp_path / "odd.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    for pair in ((path, files[1]), (files[0], path)):
        with pytest.raises(ModelError, match=r"odd.pth: (cannot be read|not a state dict)"):
            Lpips.load(*pair)


def test_whether_the_weights_are_the_published_ones(files, monkeypatch, lpips):
    digest = hashlib.sha256(files[0].read_bytes()).hexdigest()
    assert lpips.about["alexnet_sha256"] == digest and lpips.about["published"] is False
    monkeypatch.setattr(module, "_PUBLISHED", digest[:8])
    found = Lpips.load(*files).about
    assert found["published"] is True and found["alexnet"] == "alexnet.pth"
    assert found["heads_sha256"] == hashlib.sha256(files[1].read_bytes()).hexdigest()


def test_evaluate_measures_it_where_it_is_given(lpips, sample_model, people, small_bank):
    found = evaluate(sample_model, people, small_bank, lpips=lpips)
    rows = small_bank.rows(people.names)[people.rows]
    hidden = vk.protect(people.images, small_bank, rows)
    back = vk.recover(hidden, small_bank, rows)
    for measure, other in (("lpips_protected", hidden), ("lpips_recovered", back)):
        wanted = lpips(people.images, other)
        for label in found.photos:
            values = wanted[found.photos[label]["photo"]]
            assert found.photos[label][measure] == pytest.approx(values.tolist(), abs=1e-6)
            records = [r for r in found.persons if r["set"] == label]
            means = [sum(part.tolist()) / len(part) for part in values.split([r["photos"] for r in records])]
            assert [r[measure] for r in records] == pytest.approx(means)
            assert found.overall[label][measure] == pytest.approx(sum(means) / len(means))
            worst = max(means) if measure == "lpips_recovered" else min(means)
            assert found.overall[label]["worst"][measure]["value"] == pytest.approx(worst)
    assert found.measures == run.MEASURES | run.LPIPS and found.as_dict()["lpips"]["published"] is False
    assert any("not by the weights that torchvision publishes" in remark for remark in remarks(found))
    without = evaluate(sample_model, people, small_bank)
    assert without.measures == run.MEASURES and not set(run.LPIPS) & set(without.overall["unseen"])
    assert any("LPIPS: not measured" in remark for remark in remarks(without))
    others = [{k: v for k, v in r.items() if k not in run.LPIPS} for r in found.as_dict()["persons"]]
    assert without.as_dict()["persons"] == others


def test_evaluate_refuses_photos_that_are_too_small_for_it(lpips):
    people = vk.People.from_images([photos(2, 16, 16)])
    model = vk.FaceModel(nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), size=16)
    bank = vk.VeilBank(photos(1, 16, 16), people.names, 51)
    with pytest.raises(ValueError, match="lpips takes photos of 31 x 31 or more, people has 16 x 16"):
        evaluate(model, people, bank, lpips=lpips)
