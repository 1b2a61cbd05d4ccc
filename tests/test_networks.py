"""FaceModel: its input, its output, what is wrong with a network, and every way to load one."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import sys
import types

import pytest
import torch
from torch import nn

import veilkern as vk
from veilkern.errors import ModelError
from veilkern.networks import IR, loading
from veilkern.networks.diagnosis import _alternatives
from veilkern.networks.input_spec import InputSpec


class Net(nn.Module):
    """Small enough for any test: mean colours of 4 x 4 places, mixed."""

    def __init__(self, size=16):
        super().__init__()
        self.mix = nn.Linear(48, size)

    def forward(self, x):
        return self.mix(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))


class Returns(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, x):
        return self.what(x)


X = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))


def test_features_are_normalised_and_the_callers_network_is_left_alone():
    net = Net().train()
    model = vk.FaceModel(net)
    with pytest.raises(TypeError, match="x must be float in .0, 1., got torch.uint8: `features` takes uint8 photos"):
        model.embed((255 * X).to(torch.uint8))
    features = model.embed(X.clone().requires_grad_())
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))
    (gradient,) = torch.autograd.grad(model.embed(x := X.clone().requires_grad_())[0, 0], x)
    assert gradient[0].any() and not gradient[1].any()
    assert net.training and all(p.requires_grad for p in net.parameters())
    assert not any(p.requires_grad for p in model.module.parameters())


@pytest.mark.parametrize("batch,seen", [(None, [8, 8, 3]), (10, [10, 9]), (64, [19])])
def test_features_batch_by_batch(batch, seen):
    """Few at a time on the CPU unless one says otherwise; the features are the same."""
    model, sizes = vk.FaceModel(Net()), []
    model.module.register_forward_hook(lambda module, given, out: sizes.append(len(out)))
    photos = torch.randint(0, 256, (19, 3, 112, 112), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = model.features(photos) if batch is None else model.features(photos, batch=batch)
    assert sizes == seen
    torch.testing.assert_close(found, torch.cat([model.features(photo[None]) for photo in photos]))


def test_input_spec():
    seen = {}
    net = Returns(lambda x: seen.setdefault("x", x).flatten(1)[:, :5] + 1)
    vk.FaceModel(net, mean=(1, 2, 3), std=(2, 4, 5), bgr=True, value_range=255).embed(X)
    wanted = (X.flip(1) * 255 - torch.tensor([1, 2, 3.0]).view(3, 1, 1)) / torch.tensor([2, 4, 5.0]).view(3, 1, 1)
    torch.testing.assert_close(seen["x"], wanted)


def test_photos_that_are_normalised_already(sample_model):
    """What blend_normalize writes for a network's input, at alpha = 1 and with veils, gives what `embed` gives."""
    photos = (X * 255).to(torch.uint8)
    for spec in ({}, {"mean": (1, 2, 3), "std": (2, 4, 5), "bgr": True, "value_range": 255}):
        model = vk.FaceModel(sample_model.module, **spec)
        for a in (255, 51):
            ready = vk.ops.blend_normalize(photos, X.flip(0), torch.arange(2), a, **model.input.normalisation)
            wanted = model.embed(a / 255 * (photos / 255) + (1 - a / 255) * X.flip(0))
            torch.testing.assert_close(model.embed_normalised(ready.requires_grad_()), wanted, atol=1e-5, rtol=1e-4)
            assert torch.autograd.grad(model.embed_normalised(ready).sum(), ready)[0].any()
    with pytest.raises(
        ValueError, match=r"FaceModel.embed_normalised: x must be \[N, 3, 112, 112\], got \[2, 3, 112, 9"
    ):
        sample_model.embed_normalised(X[..., :9])


@pytest.mark.parametrize("spec", [{}, {"std": (2, 2, 2)}, {"std": (1, 1, 2)}, {"mean": (0, 0, 1)}, {"value_range": 2}])
def test_each_part_of_the_input_alone(spec):
    """What is not stated changes nothing; each part counts without the others."""
    seen = {}
    model = vk.FaceModel(Returns(lambda x: seen.setdefault("x", x).flatten(1)[:, :5] + 1), **spec)
    model.embed(X)
    mean, std = (torch.tensor(spec.get(k, (d,) * 3)).float().view(3, 1, 1) for k, d in (("mean", 0), ("std", 1)))
    assert torch.equal(seen["x"], (X * spec.get("value_range", 1) - mean) / std)
    assert vk.FaceModel(Net()).input == InputSpec() == InputSpec((112, 112), (0.0,) * 3, (1.0,) * 3, False, 1.0)
    assert InputSpec((1, 1)).size == (1, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.input.bgr = True


def test_the_usual_mistakes_by_hand():
    spec = InputSpec((8, 9), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), False, 7.0)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    inputs = {
        "values to be normalised to [-1, 1] (mean 0.5, std 0.5)": ((0.5,) * 3, (0.5,) * 3, 1.0),
        "values in [0, 1] without normalisation": ((0.0,) * 3, (1.0,) * 3, 1.0),
        "values in 0..255": ((0.0,) * 3, (1.0,) * 3, 255.0),
        "ImageNet mean and std": (mean, std, 1.0),
    }
    wanted = {"BGR channel order": InputSpec((8, 9), (0.3, 0.2, 0.1), (0.6, 0.5, 0.4), True, 7.0)}
    for label, (m, s, value_range) in inputs.items():
        wanted[label] = InputSpec((8, 9), m, s, False, value_range)
        wanted[f"BGR channel order and {label}"] = InputSpec((8, 9), m, s, True, value_range)
    assert _alternatives(spec) == wanted
    assert "values in [0, 1] without normalisation" not in _alternatives(InputSpec())


@pytest.mark.parametrize(
    "what,words",
    [
        (lambda x: x, r"float tensor \[2, d\]"),
        (lambda x: (x, x), "must return a tensor"),
        (lambda x: x.flatten(1)[:1], r"one row a photo"),
        (lambda x: x.flatten(1).long(), "float tensor"),
        (lambda x: x.flatten(1)[:, :1], "float tensor"),
        (lambda x: x @ torch.zeros(7, 7), "the network failed on"),
    ],
)
def test_wrong_outputs(what, words):
    with pytest.raises(ModelError, match=words):
        vk.FaceModel(Returns(what)).embed(X)


@pytest.mark.parametrize("what", [lambda x: x.flatten(1)[:, :4] * float("nan"), lambda x: x.flatten(1)[:, :4] * 0])
def test_nan_and_zero_features(what):
    images = torch.zeros(3, 3, 112, 112, dtype=torch.uint8) + 9
    with pytest.raises(ModelError, match="NaN, infinity or a zero vector for 3 of 3 photos"):
        vk.FaceModel(Returns(what)).features(images)


def test_un_normalised_and_4d_outputs_are_taken():
    long = vk.FaceModel(Returns(lambda x: 1000 * x.flatten(1)[:, :8, None, None]))
    torch.testing.assert_close(long.embed(X).norm(dim=1), torch.ones(2))


@pytest.mark.parametrize(
    "change,error",
    [
        ({"size": (1, 2, 3)}, ValueError),
        ({"std": (0, 1, 1)}, ValueError),
        ({"mean": (1,)}, ValueError),
        ({"std": (1, 1)}, ValueError),
        ({"std": (1, 1, -0.5)}, ValueError),
        ({"size": 0}, ValueError),
        ({"size": (5, 0)}, ValueError),
        ({"value_range": 0}, ValueError),
        ({"value_range": -0.5}, ValueError),
        ({"module": 3}, TypeError),
    ],
)
def test_wrong_arguments(change, error):
    with pytest.raises(error):
        vk.FaceModel(**({"module": Net()} | change))
    with pytest.raises(ValueError, match="x must be"):
        vk.FaceModel(Net()).embed(torch.zeros(1, 3, 64, 64))


def test_a_loaded_network_is_loaded_as_it_is_or_restated():
    model = vk.FaceModel(Net(), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), name="mine")
    assert vk.FaceModel.load(model) is model
    other = vk.FaceModel.load(model, bgr=True, value_range=255)
    assert other.input == InputSpec(model.input.size, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), True, 255.0)
    assert other.name == "mine" and model.input.bgr is False


def test_fingerprint():
    net = Net()
    one = vk.FaceModel(net).fingerprint
    assert one == vk.FaceModel(net).fingerprint
    assert one != vk.FaceModel(net, bgr=True).fingerprint
    with torch.no_grad():
        net.mix.bias[3] += 1e-6
    assert one != vk.FaceModel(net).fingerprint


def test_the_fingerprint_covers_every_tensor_its_name_and_kind():
    def net():
        made = nn.Sequential(Net(), nn.BatchNorm1d(16))
        made.register_buffer("kept", torch.zeros(3))
        made.register_buffer("passing", torch.zeros(3), persistent=False)
        return made

    torch.manual_seed(0)
    made = net()
    one = vk.FaceModel(made).fingerprint
    for name, value in [*made.named_parameters(), *made.named_buffers()]:
        with torch.no_grad():
            value.flatten()[0] += 1
            assert vk.FaceModel(made).fingerprint != one, name
            value.flatten()[0] -= 1
    made.kept = made.kept.double()
    assert vk.FaceModel(made).fingerprint != one
    made.kept = made.kept.float().view(3, 1)
    assert vk.FaceModel(made).fingerprint != one
    del made.kept
    made.register_buffer("held", torch.zeros(3))
    assert vk.FaceModel(made).fingerprint != one


def test_check_passes_and_names_the_cause(sample_model, people):
    assert sample_model.check(people).auc > 0.99
    picky = nn.Sequential(nn.Hardtanh(), sample_model.module)  # sees nothing outside of [-1, 1]
    wrong = vk.FaceModel(picky, mean=(-9.0,) * 3, std=(0.5,) * 3)
    with pytest.raises(ModelError, match=r"does not tell these people apart.*likely cause: .*\[-1, 1\]"):
        wrong.check(people)
    untrained = vk.FaceModel(Returns(lambda x: (1e4 * x.mean((1, 2, 3)))[:, None].sin() + torch.eye(8)[:1]))
    with pytest.raises(ModelError, match="aligned"):
        untrained.check(people)
    with pytest.raises(ValueError, match="two persons"):
        sample_model.check(people.take([0, 1]))


class Says(nn.Module):
    """The feature at the angle, in degrees, that a photo's first value stands for."""

    def forward(self, x):
        angle = torch.deg2rad((x[:, 0, 0, 0] * 255).round())
        return torch.stack([angle.cos(), angle.sin()], 1)


def photos_at(*angles):
    return torch.tensor(angles, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 112, 112).contiguous()


def test_check_by_hand():
    """Only pairs of two different pictures count, each once."""
    cos = lambda *angles: sum(math.cos(math.radians(a)) for a in angles) / len(angles)  # noqa: E731
    model = vk.FaceModel(Says())
    people = vk.People.from_images([photos_at(0, 10, 40), photos_at(90)])
    found = model.check(people)
    assert found.same == pytest.approx(cos(10, 40, 30), abs=1e-6)
    assert found.different == pytest.approx(cos(90, 80, 50), abs=1e-6) and found.auc == 1
    assert model.check(people, least_auc=1.0) == found  # as much as is asked for is enough
    # Across: 70, 60 and 20 degrees. Inside: 10 lies above all three, 50 above two, 40 above two.
    mixed = vk.People.from_images([photos_at(0, 10, 50), photos_at(70)])
    assert model.check(mixed, least_auc=0.7).auc == pytest.approx((3 + 2 + 2) / 9)
    with pytest.raises(ModelError, match="AUC"):
        model.check(mixed)


def test_check_takes_no_picture_with_itself():
    """A duplicate is the same picture once more: its pair says nothing of the network."""
    model = vk.FaceModel(Says())
    found = model.check(vk.People.from_images([photos_at(0, 40, 40), photos_at(90)]))
    assert found.same == pytest.approx(math.cos(math.radians(40)), abs=1e-6)
    with pytest.raises(ValueError, match="two different photos"):
        model.check(vk.People.from_images([photos_at(40, 40), photos_at(90)]))


class Restless(nn.Module):
    """A network that stays in train mode, whatever one asks."""

    def __init__(self, layer):
        super().__init__()
        self.net, self.layer = Net(), layer

    def forward(self, x):
        return self.layer.train()(self.net(x))


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(16)])
def test_check_refuses_a_network_in_train_mode(layer, people):
    with pytest.raises(ModelError, match="other batches: dropout or batch statistics"):
        vk.FaceModel(Restless(layer)).check(people)


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(16)])
def test_a_network_given_in_train_mode_is_evaluated_all_the_same(layer):
    net = nn.Sequential(Net(), layer).train()
    model = vk.FaceModel(net)
    torch.testing.assert_close(model.embed(X)[:1], model.embed(X[:1]))
    assert not any(part.training for part in model.module.modules()) and net.training


def test_a_networks_own_folder_comes_first(tmp_path, monkeypatch):
    """Before whatever lies on the path already."""
    for folder, number in (("path", 1), ("net", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "beside_the_network.py").write_text(f"NUMBER = {number}\n")
    (tmp_path / "net" / "net.py").write_text(
        "import torch\nfrom beside_the_network import NUMBER\n"
        "def load():\n    assert NUMBER == 2\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "path")
    assert vk.FaceModel.load(f"{tmp_path / 'net' / 'net.py'}:load", size=2).input.size == (2, 2)


def test_torchscript_and_export(tmp_path):
    net = Net().eval()
    torch.jit.script(net).save(str(tmp_path / "net.pt"))
    batch = torch.export.Dim("batch", min=1, max=512)
    torch.export.save(torch.export.export(net, (X,), dynamic_shapes=({0: batch},)), tmp_path / "net.pt2")
    wanted = vk.FaceModel(net).embed(X)
    for name in ("net.pt", "net.pt2"):
        model = vk.FaceModel.load(tmp_path / name)
        torch.testing.assert_close(model.embed(X), wanted)
        assert torch.autograd.grad(model.embed(x := X.clone().requires_grad_()).sum(), x)[0].any()
        assert len(model.fingerprint) == 64


def test_onnx(tmp_path):
    """A file made node by node, so that no exporter is needed; converted without torchvision."""
    onnx = pytest.importorskip("onnx")
    if importlib.util.find_spec("onnx2torch") is None:
        pytest.skip("onnx2torch is not installed")
    from onnx import TensorProto, helper, numpy_helper

    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 8)).eval()
    weights = [
        numpy_helper.from_array(value.detach().numpy(), name)
        for name, value in zip("abcd", net.state_dict().values(), strict=True)
    ]
    nodes = [
        helper.make_node("Conv", ["x", "a", "b"], ["1"], strides=[2, 2], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["1"], ["2"]),
        helper.make_node("GlobalAveragePool", ["2"], ["3"]),
        helper.make_node("Flatten", ["3"], ["4"]),
        helper.make_node("Gemm", ["4", "c", "d"], ["y"], transB=1),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 112, 112])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])]
    graph = helper.make_graph(nodes, "net", inputs, outputs, weights)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "net.onnx"
    )
    model = vk.FaceModel.load(tmp_path / "net.onnx")
    torch.testing.assert_close(model.embed(X), vk.FaceModel(net).embed(X))
    assert torch.autograd.grad(model.embed(x := X.clone().requires_grad_()).sum(), x)[0].any()
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(ModelError, match="cannot be converted from ONNX"):
        vk.FaceModel.load(tmp_path / "junk.onnx")


def test_onnx_without_the_extra_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "net.onnx").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    with pytest.raises(ModelError, match=r"veilkern\[onnx\]"):
        vk.FaceModel.load(tmp_path / "net.onnx")


def test_python_files_with_neighbours_of_one_name(tmp_path, monkeypatch):
    ours = types.ModuleType("common")  # the program has a module of that name too
    monkeypatch.setitem(sys.modules, "common", ours)
    for folder, size in (("one", 4), ("two", 6)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "common.py").write_text(f"SIZE = {size}\n")
        (tmp_path / folder / "net.py").write_text(
            "import torch\n\n\ndef load():\n    from common import SIZE\n\n"
            "    nn = torch.nn\n    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, SIZE))\n"
        )
        model = vk.FaceModel.load(f"{tmp_path / folder}/net.py:load")
        assert model.embed(X).shape == (2, size) and model.name == "net:load"
    assert sys.modules["common"] is ours and str(tmp_path / "one") not in sys.path


@pytest.mark.thorough
def test_what_cannot_be_loaded(tmp_path):
    file = tmp_path / "net.py"
    file.write_text("def load():\n    raise RuntimeError('no weights')\n\n\ndef number():\n    return 3\n")
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    state = IR().state_dict()
    state.pop("body.3.res_layer.0.weight")
    torch.save(state, tmp_path / "part.pth")
    (tmp_path / "junk.pth").write_bytes(b"junk")
    for source, words in (
        (f"{file}:load", "RuntimeError: no weights"),
        (f"{file}:number", "must return a torch.nn.Module"),
        (f"{file}:absent", "AttributeError"),
        (f"{tmp_path}/none.py:load", "no such file"),
        (tmp_path / "other.pth", "no known layout"),
        (tmp_path / "list.pth", "not a state dict"),
        (tmp_path / "part.pth", "not a whole ir50 checkpoint"),
        (tmp_path / "junk.pth", "cannot be read"),
        (f"iresnet18:{tmp_path}/absent.pth", "no such checkpoint"),
        ("nothing", "no such network file"),
    ):
        with pytest.raises(ModelError, match=words):
            vk.FaceModel.load(source)
    whole = IR().state_dict()
    torch.save(whole, tmp_path / "ir.pth")
    for stray in ("body.3.res_layer.7.weight", "head.weight", "output_layer.9.bias"):
        torch.save(whole | {stray: torch.zeros(2)}, tmp_path / "more.pth")
        with pytest.raises(ModelError, match=f"not a whole ir50 checkpoint.*unexpected.*{stray}"):
            vk.FaceModel.load(tmp_path / "more.pth")
    with pytest.raises(ModelError, match="holds ir50, not ir_se50"):
        vk.FaceModel.load(f"ir_se50:{tmp_path}/ir.pth")
    with pytest.raises(TypeError, match="source must be"):
        vk.FaceModel.load(3)


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("executed",)

    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ModelError, match="weights only"):
        loading.load(tmp_path / "evil.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_networks_that_end_in_half_precision(dtype):
    """Their features are float32 from there on, and carry gradients: the ops of a craft take no less."""

    class Half(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :32].to(dtype)

    model = vk.FaceModel(Half(), size=16)
    images = torch.randint(1, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = model.features(images)
    assert features.dtype is torch.float32 and (features.norm(dim=1) - 1).abs().max() < 1e-6
    people = vk.People(images, torch.tensor([0, 2, 3]), ["Ada", "Bob"], [""] * 3)
    config = vk.CraftConfig(steps=2, seed=1)
    report = vk.craft(model, people, config, progress=False).report
    assert not [record["status"] for record in report if record["status"].startswith("failed")]
