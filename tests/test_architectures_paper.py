"""Inception-ResNet-v1, MobileNet and SE-ResNet-50: their published names, shapes and inputs, their forward passes
written out by hand, and every kind of checkpoint that loads."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from network_cases import inception_resnet as inception_by_hand
from network_cases import mobilenet as mobilenet_by_hand
from network_cases import se_resnet as se_resnet_by_hand
from network_cases import unusual

import veilkern as vk
from veilkern.errors import ModelError
from veilkern.networks import InceptionResNet, MobileFaceNet, MobileNet, SEResNet, mobilefacenet, mobilenet, senet
from veilkern.networks import inception_resnet as inception


def photos(*size: int) -> torch.Tensor:
    """Two pictures of large shapes, which a network does not average away."""
    coarse = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size, mode="bilinear", align_corners=True)


X = photos(112, 112)


def shapes(net) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in net.state_dict().items() if "num_batches" not in key}


def norm(name, width):
    return {f"{name}.{leaf}": (width,) for leaf in ("weight", "bias", "running_mean", "running_var")}


def inception_shapes(u: int, depths, embedding: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of facenet-pytorch's checkpoints, with widths of u sixteenths."""
    found: dict[str, tuple[int, ...]] = {}

    def conv(name, inputs, outputs, *kernel):
        found[f"{name}.conv.weight"] = (outputs * u // 16, inputs * u // 16 if inputs != 3 else 3, *kernel)
        found.update(norm(f"{name}.bn", outputs * u // 16))

    def join(name, inputs, outputs):
        found[f"{name}.conv2d.weight"] = (outputs * u // 16, inputs * u // 16, 1, 1)
        found[f"{name}.conv2d.bias"] = (outputs * u // 16,)

    for name, inputs, outputs, side in (
        ("1a", 3, 32, 3), ("2a", 32, 32, 3), ("2b", 32, 64, 3), ("3b", 64, 80, 1), ("4a", 80, 192, 3),
        ("4b", 192, 256, 3),
    ):  # fmt: skip
        conv(f"conv2d_{name}", inputs, outputs, side, side)
    for n in range(depths[0]):
        b = f"repeat_1.{n}"
        conv(f"{b}.branch0", 256, 32, 1, 1)
        for branch, places in ((1, 2), (2, 3)):
            conv(f"{b}.branch{branch}.0", 256, 32, 1, 1)
            for place in range(1, places):
                conv(f"{b}.branch{branch}.{place}", 32, 32, 3, 3)
        join(b, 96, 256)
    conv("mixed_6a.branch0", 256, 384, 3, 3)
    conv("mixed_6a.branch1.0", 256, 192, 1, 1)
    conv("mixed_6a.branch1.1", 192, 192, 3, 3)
    conv("mixed_6a.branch1.2", 192, 256, 3, 3)
    conv("mixed_7a.branch0.0", 896, 256, 1, 1)
    conv("mixed_7a.branch0.1", 256, 384, 3, 3)
    conv("mixed_7a.branch1.0", 896, 256, 1, 1)
    conv("mixed_7a.branch1.1", 256, 256, 3, 3)
    conv("mixed_7a.branch2.0", 896, 256, 1, 1)
    conv("mixed_7a.branch2.1", 256, 256, 3, 3)
    conv("mixed_7a.branch2.2", 256, 256, 3, 3)
    crossed = [(f"repeat_2.{n}", 896, 128, 7) for n in range(depths[1])]
    crossed += [(f"repeat_3.{n}", 1792, 192, 3) for n in range(depths[2])] + [("block8", 1792, 192, 3)]
    for b, width, inside, side in crossed:
        conv(f"{b}.branch0", width, inside, 1, 1)
        conv(f"{b}.branch1.0", width, inside, 1, 1)
        conv(f"{b}.branch1.1", inside, inside, 1, side)
        conv(f"{b}.branch1.2", inside, inside, side, 1)
        join(b, 2 * inside, width)
    found["last_linear.weight"] = (embedding, 1792 * u // 16)
    return found | norm("last_bn", embedding)


@pytest.mark.parametrize("unit,depths,embedding", [(16, (5, 10, 5), 512), (3, (1, 2, 1), 64)])
def test_names_and_shapes_of_inception_resnet(unit, depths, embedding):
    with torch.device("meta"):
        net = InceptionResNet(depths, embedding, unit)
    assert shapes(net) == inception_shapes(unit, depths, embedding)
    if unit == 16:
        assert sum(p.numel() for p in net.parameters()) == 23_482_624
    assert {m.eps for m in net.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)} == {0.001}


def test_names_and_shapes_of_mobilenet():
    with torch.device("meta"):
        net = MobileNet()
    wanted = {"stage1.0.0.weight": (32, 3, 3, 3)} | norm("stage1.0.1", 32)
    blocks = {1: (64, 128, 128, 256, 256), 2: (512,) * 6, 3: (1024, 1024)}
    inputs = 32
    for stage, outputs in blocks.items():
        for place, width in enumerate(outputs, start=stage == 1):
            b = f"stage{stage}.{place}"
            wanted |= {f"{b}.0.weight": (inputs, 1, 3, 3), f"{b}.3.weight": (width, inputs, 1, 1)}
            wanted |= norm(f"{b}.1", inputs) | norm(f"{b}.4", width)
            inputs = width
    wanted |= {"sep.weight": (512, 1024, 1, 1), "prelu.weight": (512,)} | norm("sep_bn", 512) | norm("bn2", 512)
    wanted |= {"linear.weight": (512, 512 * 49), "linear.bias": (512,)} | norm("features", 512)
    assert shapes(net) == wanted


def se_shapes(depths, widths, reduction=16):
    """Names and shapes of VGGFace2-pytorch, without the classifier."""
    wanted = {"conv1.weight": (widths[0], 3, 7, 7)} | norm("bn1", widths[0])
    inputs = widths[0]
    for stage, (depth, w) in enumerate(zip(depths, widths, strict=True), 1):
        for n in range(depth):
            b, out, inside = f"layer{stage}.{n}", 4 * w, 4 * w // reduction
            kernels = ((w, inputs, 1, 1), (w, w, 3, 3), (out, w, 1, 1), (inside, out, 1, 1), (out, inside, 1, 1))
            for place, shape in enumerate(kernels, 1):
                wanted[f"{b}.conv{place}.weight"] = shape
                wanted |= norm(f"{b}.bn{place}", shape[0]) if place < 4 else {f"{b}.conv{place}.bias": shape[:1]}
            if n == 0:
                wanted |= {f"{b}.downsample.0.weight": (out, inputs, 1, 1)} | norm(f"{b}.downsample.1", out)
            inputs = out
    return wanted


def test_names_and_shapes_of_se_resnet():
    with torch.device("meta"):
        bare, cut, whole = (SEResNet(embedding=n, normalised=b) for n, b in ((None, False), (256, False), (512, True)))
    wanted = se_shapes((3, 4, 6, 3), (64, 128, 256, 512))
    assert shapes(bare) == wanted
    assert shapes(cut) == wanted | {"feat_extract.weight": (256, 2048, 1, 1)}
    assert shapes(whole) == wanted | {"feat_extract.weight": (512, 2048, 1, 1)} | norm("feat_bn", 512)
    # The public checkpoint of 256 numbers has 106,517,252 bytes: these, of four bytes each, and their names.
    numbers = sum(torch.Size(shape).numel() for shape in shapes(cut).values())
    assert 0 < 106_517_252 - 4 * numbers < 200_000


SMALL = {
    "inception_resnet_v1": lambda: InceptionResNet((2, 1, 2), 24, 2),
    "mobilenet": lambda: MobileNet(((16, 24, 24), (32, 32), (48,)), 24, stem=8, reduced=12),
    "se_resnet50": lambda: SEResNet((1, 2, 1, 1), 24, (8, 12, 16, 24), reduction=4),
}


def same(found, wanted):
    wanted = F.normalize(wanted)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert (wanted[0] - wanted[1]).norm() > 0.01  # photos are told apart: something is compared


@pytest.mark.parametrize("size", [112, 160, (112, 96)])
def test_forward_of_inception_resnet(size):
    net = unusual(SMALL["inception_resnet_v1"]())
    x = photos(*((size, size) if isinstance(size, int) else size))
    model = vk.FaceModel(net, **inception.PUBLISHED | {"size": size})
    with torch.no_grad():
        same(model.embed(x), inception_by_hand(net.state_dict(), (255 * x - 127.5) / 128))


def test_blocks_of_inception_resnet_scale_what_they_add():
    """With nothing in the branches a block adds its scale times the bias; all rectify but the last."""
    x = torch.randn(1, 1792, 3, 3)
    net = InceptionResNet((1, 1, 1), 8).eval()
    blocks = (net.repeat_1[0], 0.17, 256), (net.repeat_2[0], 0.10, 896), (net.repeat_3[0], 0.20, 1792)
    for block, scale, width in (*blocks, (net.block8, 1.0, 1792)):
        with torch.no_grad():
            block.conv2d.weight.zero_()
            block.conv2d.bias.fill_(-2.0)
            found, wanted = block(x[:, :width]), x[:, :width] - 2 * scale
        torch.testing.assert_close(found, wanted if block is net.block8 else wanted.relu())


@pytest.mark.parametrize(
    "stem_stride,widths,strides",
    [
        (1, ((16, 24, 24), (32, 32), (48,)), (1, 2, 1, 2, 1, 2)),
        (2, ((16, 24), (32,), (48, 48)), (1, 2, 2, 2, 1)),
        (1, ((16, 16, 24), (24, 40), (48,)), (1, 1, 2, 1, 2, 2)),
    ],
)
def test_forward_of_mobilenet(tmp_path, stem_stride, widths, strides):
    net = unusual(MobileNet(widths, 24, stem=8, reduced=12, stem_stride=stem_stride))
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.weight.data.mul_(3)  # so that some values are above 6
    torch.save(net.state_dict(), tmp_path / "net.pth")
    model = vk.FaceModel.load(tmp_path / "net.pth")
    assert model.name == f"mobilenet ({len(strides)} blocks, widths 8 to 48)"
    with torch.no_grad():
        same(model.embed(X), mobilenet_by_hand(net.state_dict(), 2 * X - 1, strides, stem_stride))


def test_strides_of_mobilenet_as_published():
    """Half the size four times: 112 to 7."""
    found = mobilenet.strides(mobilenet.STEM, mobilenet.WIDTHS)
    assert found == [[1, 2, 1, 2, 1], [2, 1, 1, 1, 1, 1], [2, 1]]
    with torch.device("meta"):
        assert MobileNet().linear.in_features == 512 * 7 * 7


@pytest.mark.parametrize("size", [112, 224, 150])
def test_forward_of_se_resnet(size):
    net = unusual(SMALL["se_resnet50"]())
    x = photos(size, size)
    with torch.no_grad():
        same(vk.FaceModel(net, size=size).embed(x), se_resnet_by_hand(net.state_dict(), x))


def vgg_names(state):
    """A SE-ResNet state dict in the names of VGGFace2's own checkpoints."""
    parts = {"1": "1x1_reduce", "2": "3x3", "3": "1x1_increase", "4": "1x1_down", "5": "1x1_up"}
    found = {}
    for key, value in state.items():
        place, *rest = key.split(".")
        if place.startswith("layer"):
            block, part, *_, leaf = rest
            kind, number = ("proj", rest[2]) if part == "downsample" else (parts[part[-1]], part)
            name = "1x1_proj" if kind == "proj" else kind
            after = "_bn" if number in ("1",) or number.startswith("bn") else ""
            found[f"conv{int(place[-1]) + 1}_{int(block) + 1}_{name}{after}.{leaf}"] = value
        else:
            found[f"{ {'conv1': 'conv1_7x7_s2', 'bn1': 'conv1_7x7_s2_bn'}.get(place, place) }.{rest[-1]}"] = value
    return found


@pytest.mark.parametrize("head", ["feat_extract", "classifier"])
def test_vggface2_checkpoints(tmp_path, head):
    """RGB of 0..255 less the mean colour; without the layer of 256 numbers, the mean of the last map is the feature."""
    net = unusual(SEResNet((1, 2, 1, 1), 24 if head == "feat_extract" else None, (8, 12, 16, 24), normalised=False))
    state = vgg_names(net.state_dict())
    assert {"conv1_7x7_s2_bn.weight", "conv3_2_1x1_down.bias", "conv5_1_1x1_proj_bn.running_var"} <= set(state)
    if head == "classifier":
        state |= {"classifier.weight": torch.zeros(9, 96, 1, 1), "classifier.bias": torch.zeros(9)}
    torch.save(state, tmp_path / "net.pth")
    model = vk.FaceModel.load(tmp_path / "net.pth")
    assert model.input.size == (224, 224) and not model.input.bgr
    x = photos(224, 224)
    mean = torch.tensor([131.0912, 103.8827, 91.4953]).view(3, 1, 1)
    with torch.no_grad():
        same(model.embed(x), se_resnet_by_hand(net.state_dict(), 255 * x - mean))
    assert model.embed(x).shape[1] == (24 if head == "feat_extract" else 96)


def test_vggface2_pytorch_checkpoints(tmp_path):
    """BGR, and a classifier of another name."""
    net = unusual(SEResNet((1, 2, 1, 1), None, (8, 12, 16, 24), normalised=False))
    torch.save(net.state_dict() | {"fc.weight": torch.zeros(9, 96), "fc.bias": torch.zeros(9)}, tmp_path / "net.pth")
    model = vk.FaceModel.load(tmp_path / "net.pth")
    x = photos(224, 224)
    mean = torch.tensor([91.4953, 103.8827, 131.0912]).view(3, 1, 1)
    with torch.no_grad():
        same(model.embed(x), se_resnet_by_hand(net.state_dict(), 255 * x.flip(1) - mean))


def bubbliiiing_names(state):
    """A MobileFaceNet state dict in the names of bubbliiiing's arcface-pytorch, whose last layer is a convolution."""
    places = {"conv_6_sep.conv": "sep", "conv_6_sep.bn": "sep_bn", "conv_6_sep.prelu": "prelu"}
    places |= {"conv_6_dw.conv": "GDC_dw", "conv_6_dw.bn": "GDC_bn", "linear": "features", "bn": "last_bn"}
    found = {}
    for key, value in state.items():
        place, _, leaf = key.rpartition(".")
        found[f"{places.get(place, place)}.{leaf}"] = value[:, :, None, None] if key == "linear.weight" else value
    return found


@pytest.mark.parametrize("kind", ["mobilefacenet", "mobilenet"])
def test_checkpoints_with_the_head_that_trained_them(tmp_path, kind):
    """bubbliiiing's, as saved: the network is `arcface`, and beside it lies `head`."""
    if kind == "mobilenet":
        net = unusual(SMALL["mobilenet"]())
        state = net.state_dict()
    else:
        net = unusual(MobileFaceNet(mobilefacenet.Shape(depths=(1, 1, 1), embedding=24)))
        state = bubbliiiing_names(net.state_dict())
    saved = {f"arcface.{key}": value for key, value in state.items()} | {"head.weight": torch.zeros(7, 24)}
    torch.save(saved, tmp_path / "net.pth")
    model = vk.FaceModel.load(tmp_path / "net.pth")
    assert model.name.startswith(kind)
    with torch.no_grad():
        same(model.embed(X), net(2 * X - 1))
    torch.save(saved | {"tail.weight": torch.zeros(2)}, tmp_path / "net.pth")
    with pytest.raises(ModelError, match="no known layout"):
        vk.FaceModel.load(tmp_path / "net.pth")


def test_a_public_inception_resnet_loads(tmp_path):
    """In its full size once, with the classifier that public files have, as .pt, which TorchScript files are too."""
    net = unusual(InceptionResNet())
    state = net.state_dict() | {"logits.weight": torch.zeros(3, 512), "logits.bias": torch.zeros(3)}
    torch.save({k: v for k, v in state.items() if "num_batches" not in k}, tmp_path / "vggface2.pt")
    model = vk.FaceModel.load(f"inception_resnet_v1:{tmp_path}/vggface2.pt")
    assert model.name == "inception_resnet_v1" and model.input.size == (160, 160) and not model.input.bgr
    x = photos(160, 160)
    with torch.no_grad():
        same(model.embed(x), inception_by_hand(state, (255 * x - 127.5) / 128))


@pytest.mark.parametrize("name", list(SMALL))
def test_what_does_not_fit(tmp_path, name):
    """A layer that lacks, one too many, one of another shape, another architecture than asked for."""
    state = {k: v for k, v in SMALL[name]().state_dict().items() if "num_batches" not in k}
    inside = {
        "inception_resnet_v1": "repeat_3.1.branch1.2.conv.weight",
        "mobilenet": "stage2.1.0.weight",
        "se_resnet50": "layer2.1.conv5.bias",
    }[name]

    def load(changed, prefix=""):
        torch.save(changed, tmp_path / "net.pth")
        return vk.FaceModel.load(f"{prefix}{tmp_path}/net.pth")

    known = load(state).name
    with pytest.raises(ModelError, match=r"not a whole .* checkpoint: missing \['" + inside):
        load({k: v for k, v in state.items() if k != inside})
    with pytest.raises(ModelError, match=r"not a whole .* unexpected \['stray.weight'\]"):
        load(state | {"stray.weight": torch.zeros(2)})
    with pytest.raises(ModelError, match="does not fit the layout it starts with"):
        load(state | {inside: torch.zeros(5, 5, 5)})
    for other in (name, "iresnet18"):
        with pytest.raises(ModelError, match="holds .*, not "):
            load(state, f"{other}:")
    assert known.startswith(name.removesuffix("50")) and known != name


def test_a_published_width_wants_the_published_depths():
    """A file without its last blocks is not taken for a shallower network."""
    with torch.device("meta"):
        cases = (
            (inception, InceptionResNet(), "repeat_2.9.", r"\(5, 9, 5\) blocks, wanted \(5, 10, 5\)"),
            (mobilenet, MobileNet(), "stage2.5.", r"\(5, 5, 2\) blocks, wanted \(5, 6, 2\)"),
            (senet, SEResNet(), "layer3.5.", r"\(3, 4, 5, 3\) blocks, wanted \(3, 4, 6, 3\)"),
        )
        for module, net, block, words in cases:
            state = net.state_dict()
            assert module.build(state)[0] in ("inception_resnet_v1", "mobilenet", "se_resnet50")
            with pytest.raises(ValueError, match=words):
                module.build({k: v for k, v in state.items() if not k.startswith(block)})
        # What else differs from the published network has not its name either.
        assert mobilenet.build(MobileNet(stem_stride=2).state_dict())[0] == "mobilenet (13 blocks, widths 32 to 1024)"
        assert senet.build(SEResNet(reduction=8).state_dict())[0] == "se_resnet (50 layers)"


@pytest.mark.parametrize(
    "module,needed",
    [
        (inception, ("conv2d_1a.conv.weight", "mixed_6a.branch0.conv.weight", "last_bn.weight")),
        (mobilenet, ("stage1.1.3.weight", "sep.weight", "features.weight")),
        (senet, ("layer1.0.conv4.weight", "layer1.0.conv5.weight")),
        (senet, ("conv1_7x7_s2.weight", "conv2_1_1x1_down.weight")),
    ],
)
def test_a_layout_is_known_by_all_of_its_marks(module, needed):
    marks = dict.fromkeys(needed, torch.zeros(1))
    assert module.matches(marks)
    for name in needed:
        assert not module.matches({n: v for n, v in marks.items() if n != name})


def test_as_facenet_pytorch_computes(tmp_path, monkeypatch):
    """Against the package itself, where it is installed; its one file is read, since the package wants torchvision."""
    spec = importlib.util.find_spec("facenet_pytorch")
    if spec is None or spec.origin is None:
        pytest.skip("facenet-pytorch is not installed: the forward pass written out by hand is compared with above")
    path = Path(spec.origin).parent / "models" / "inception_resnet_v1.py"
    for name in ("theirs", "theirs.utils", "theirs.utils.download", "requests", "requests.adapters"):
        stand_in = types.ModuleType(name)
        stand_in.download_url_to_file = stand_in.HTTPAdapter = None
        stand_in.__path__ = []
        monkeypatch.setitem(sys.modules, name, stand_in)
    found = importlib.util.spec_from_file_location("theirs.network", path)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    net = unusual(module.InceptionResnetV1())
    torch.save(net.state_dict(), tmp_path / "theirs.pt")
    model = vk.FaceModel.load(tmp_path / "theirs.pt")
    x = photos(160, 160)
    with torch.no_grad():
        same(model.embed(x), net((255 * x - 127.5) / 128))
