"""The architectures: names and shapes of published checkpoints, parameters by hand, shortcuts."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import veilkern as vk
from veilkern.networks import IR, IResNet, MobileFaceNet, ir, iresnet, mobilefacenet

X = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))


def test_ir_by_its_blocks():
    """Blocks a stage as published, and each depth and kind told apart by its checkpoint alone."""
    assert ir.DEPTHS == {50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 152: (3, 8, 36, 3)}
    assert ir.blocks_of((1, 2, 1, 3)) == [
        *((64, 64, 2), (64, 128, 2), (128, 128, 1)),
        *((128, 256, 2), (256, 512, 2), (512, 512, 1), (512, 512, 1)),
    ]
    for layers, depths in ir.DEPTHS.items():
        for excite in (False, True):
            with torch.device("meta"):
                state = IR(depths, excite, 128).state_dict()
                name, net = ir.build(state)
            assert name == f"ir{'_se' * excite}{layers}" and ir.matches(state)
            assert {k: v.shape for k, v in net.state_dict().items()} == {k: v.shape for k, v in state.items()}
    for missing in ("input_layer.0.weight", "body.0.res_layer.0.weight", "output_layer.3.weight"):
        assert not ir.matches({k: v for k, v in state.items() if k != missing})
    with torch.device("meta"):
        cut = {k: v for k, v in IR(embedding=128).state_dict().items() if not k.startswith("body.23.")}
    with pytest.raises(ValueError, match=r"\(3, 4, 14, 2\) blocks, wanted \(3, 4, 14, 3\) or \(3, 13, 30, 3\) or"):
        ir.build(cut)


@pytest.mark.parametrize(
    "network,needed",
    [
        (iresnet, ("layer1.0.bn1.weight", "fc.weight", "features.weight")),
        (ir, ("input_layer.0.weight", "body.0.res_layer.0.weight", "output_layer.3.weight")),
    ],
)
def test_a_layout_is_known_by_all_of_its_marks(network, needed):
    marks = dict.fromkeys(needed, torch.zeros(1))
    assert network.matches(marks)
    for name in needed:
        assert not network.matches({n: v for n, v in marks.items() if n != name})


def randomised(net):
    """Weights and running statistics that are not the defaults."""
    g = torch.Generator().manual_seed(1)
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            if value.ndim > 1:  # keep the size of what flows through
                value.copy_(torch.randn(value.shape, generator=g) * value[0].numel() ** -0.5)
            else:
                value.copy_(
                    0.2 * torch.rand(value.shape, generator=g) + 0.9 * ("mean" not in name and "bias" not in name)
                )
    return net.eval()


MBF = mobilefacenet.Shape(embedding=128)


NETWORKS = {
    "iresnet18": lambda: IResNet(iresnet.DEPTHS["iresnet18"]),
    "ir50": IR,
    "ir_se50": lambda: IR(excite=True),
    "mobilefacenet": lambda: MobileFaceNet(MBF),
}


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_checkpoints_load_by_layout(tmp_path, name, suffix):
    net = randomised(NETWORKS[name]())
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save(
            {"state_dict": {f"module.{k}": v for k, v in net.state_dict().items() if "num_batches" not in k}}, path
        )
    else:
        save_file(net.state_dict(), path)
    for source in (path, f"{name}:{path}"):
        model = vk.FaceModel.load(source)
        assert model.name == name and model.input.mean == (0.5,) * 3
        with torch.no_grad():
            wanted = nn.functional.normalize(net((X - 0.5) / 0.5))
        torch.testing.assert_close(model.embed(X), wanted)


@pytest.mark.parametrize("name", ["iresnet18", "iresnet34", "iresnet50", "iresnet100"])
def test_parameter_counts_are_the_published_ones(name):
    millions = {"iresnet18": 24.0, "iresnet34": 34.1, "iresnet50": 43.6, "iresnet100": 65.2}[name]
    with torch.device("meta"):
        net = IResNet(iresnet.DEPTHS[name])
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


STAGES = {  # of insightface's arcface_torch, and of IR of 50, 100 and 152 layers
    "iresnet18": (2, 2, 2, 2), "iresnet34": (3, 4, 6, 3), "iresnet50": (3, 4, 14, 3), "iresnet100": (3, 13, 30, 3),
    50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 152: (3, 8, 36, 3),
}  # fmt: skip


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("excite", [False, True])
def test_parameters_of_the_residual_networks(name, excite):
    """Convolutions without bias, two numbers a channel of a batch norm, one of a PReLU."""
    old = isinstance(name, str)
    if old and excite:
        return
    with torch.device("meta"):
        net = IResNet(iresnet.DEPTHS[name]) if old else IR(ir.DEPTHS[name], excite)
    wanted = 9 * 3 * 64 + 3 * 64
    inputs = 64
    for depth, width in zip(STAGES[name], (64, 128, 256, 512), strict=True):
        for place in range(depth):
            wanted += 9 * inputs * width + 9 * width * width + 2 * inputs + (5 if old else 3) * width
            wanted += 2 * width * (width // 16) if excite else 0
            # A shortcut of its own: where the size changes (arcface_torch), or the number of channels (IR).
            wanted += inputs * width + 2 * width if (place == 0 if old else inputs != width) else 0
            inputs = width
    wanted += 2 * 512 + 512 * 7 * 7 * 512 + 512 + 2 * 512
    assert sum(p.numel() for p in net.parameters()) == wanted


def convolution(inputs, outputs, side=1, groups=1, linear=False):
    """Parameters of convolution, batch norm and, unless it is linear, PReLU."""
    return inputs // groups * outputs * side * side + (2 if linear else 3) * outputs


def bottlenecks(inputs, middle, outputs, count=1):
    each = (
        convolution(inputs, middle) + convolution(middle, middle, 3, middle) + convolution(middle, outputs, linear=True)
    )
    return count * each


@pytest.mark.parametrize(
    "shape,width,depths,stem,embedding",
    [
        (None, 64, (4, 6, 2), 0, 512),  # the defaults: MobileFaceNet (Chen et al. 2018) with 512 numbers
        (mobilefacenet.Shape(128, (8, 12, 4), 2), 128, (8, 12, 4), 2, 512),
        (mobilefacenet.Shape(64, (1, 2, 3), 1, 128), 64, (1, 2, 3), 1, 128),
    ],
)
def test_parameters_of_mobilefacenet(shape, width, depths, stem, embedding):
    with torch.device("meta"):
        net = MobileFaceNet() if shape is None else MobileFaceNet(shape)
    wanted = convolution(3, width, 3)
    wanted += bottlenecks(width, 128, width, stem) if stem else convolution(width, width, 3, 64)
    wanted += bottlenecks(width, 128, width) + bottlenecks(width, 128, width, depths[0])
    wanted += bottlenecks(width, 256, 2 * width) + bottlenecks(2 * width, 256, 2 * width, depths[1])
    wanted += bottlenecks(2 * width, 512, 2 * width) + bottlenecks(2 * width, 256, 2 * width, depths[2])
    wanted += convolution(2 * width, 512) + convolution(512, 512, 7, 512, linear=True)
    wanted += 512 * embedding + 2 * embedding
    assert sum(p.numel() for p in net.parameters()) == wanted


@pytest.mark.parametrize("excite", [False, True])
def test_blocks_add_their_input(excite):
    """With its other branch at zero a block gives back its input, or what its shortcut makes of it."""
    x = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))

    def silent(block, last):
        with torch.no_grad():
            last.weight.zero_()
            last.bias.zero_()
        return block.eval()

    with torch.no_grad():
        for stride in (1, 2):
            block = mobilefacenet.Bottleneck(16, 32, 16, stride)
            found = silent(block, block.project.bn)(x)
            assert torch.equal(found, x if stride == 1 else torch.zeros(2, 16, 4, 4))
            for outputs in (16, 24):
                block = iresnet.Block(16, outputs, stride)
                shortcut = x if block.downsample is None else block.downsample.eval()(x)
                assert (block.downsample is None) == (stride == 1 and outputs == 16)
                assert torch.equal(silent(block, block.bn3)(x), shortcut)
                block = ir.Block(16, outputs, stride, excite)
                wanted = x[..., ::stride, ::stride] if outputs == 16 else block.shortcut_layer.eval()(x)
                assert torch.equal(silent(block, block.res_layer[4])(x), wanted)


def arcface_names(state):
    """A MobileFaceNet state dict in the names of arcface_torch's mbf."""
    places = {
        "conv1": "layers.0",
        "conv2_dw": "layers.1",
        "conv_23": "layers.2",
        "conv_3": "layers.3",
        "conv_34": "layers.4",
        "conv_4": "layers.5",
        "conv_45": "layers.6",
        "conv_5": "layers.7",
        "conv_6_sep": "conv_sep",
        "conv_6_dw": "features.layers.0",
        "linear": "features.layers.2",
        "bn": "features.layers.3",
    }
    parts = {"conv": "0", "bn": "1", "prelu": "2", "conv_dw": "1", "project": "2"}
    renamed = {}
    for key, value in state.items():
        place, *middle, leaf = key.split(".")
        new = places[place]
        for part in middle:
            new += "" if part == "model" else f".layers.{part if part.isdigit() else parts[part]}"
        renamed[f"{new}.{leaf}"] = value
    return renamed


def test_the_other_mobilefacenet_layout(tmp_path):
    net = randomised(MobileFaceNet(mobilefacenet.Shape(width=128, embedding=512)))
    torch.save(arcface_names(net.state_dict()), tmp_path / "mbf.pt")
    model = vk.FaceModel.load(tmp_path / "mbf.pt")
    with torch.no_grad():
        torch.testing.assert_close(model.embed(X), nn.functional.normalize(net((X - 0.5) / 0.5)))
