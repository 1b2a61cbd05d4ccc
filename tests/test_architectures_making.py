"""Networks to be trained: fresh, as published and small; their checkpoints load by layout, with their own input."""

from __future__ import annotations

import json
import re

import pytest
import torch
from network_cases import multiplications, unusual
from safetensors.torch import save_file

import veilkern as vk
from veilkern.errors import ModelError
from veilkern.networks import ARCHITECTURES, IR, IResNet, MobileFaceNet, ir, iresnet, layout, make, mobilefacenet
from veilkern.networks.loading import _LAYOUTS
from veilkern.networks.making import RECIPES, stated

SIZES = {"inception_resnet_v1": (160, 160)}
NAMES = {
    "iresnet18": "iresnet (10 layers, widths 16 32 64 96)",
    "iresnet34": "iresnet (12 layers, widths 16 32 64 96)",
    "iresnet50": "iresnet (12 layers, widths 16 32 64 96)",
    "iresnet100": "iresnet (14 layers, widths 16 32 64 96)",
    "ir50": "ir (10 layers, widths 16 32 64 96)",
    "ir_se50": "ir_se (10 layers, widths 16 32 64 96)",
    "mobilefacenet": "mobilefacenet (widths 32 to 256)",
    "mobilenet": "mobilenet (5 blocks, widths 12 to 384)",
    "se_resnet50": "se_resnet (14 layers, widths 16 32 48 64)",
    "inception_resnet_v1": "inception_resnet_v1 (1 1 1 blocks, 3 of 16 parts of the widths)",
}


def test_every_architecture_is_made():
    assert tuple(RECIPES) == ARCHITECTURES and set(NAMES) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_published_network(name):
    """Its state dict is known by layout, under its name, with the input that `make` states and 512 numbers."""
    with torch.device("meta"):
        net, about = make(name)
        state = net.state_dict()
        (known,) = [each for each in _LAYOUTS if each.matches(state)]
        called, again = known.build(known.rename(state))
    assert called == name and net.training
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in state.items()}
    assert known.input_of(state) == about and about["size"] == SIZES.get(name, (112,))[0]
    last = [v for v in state.values() if v.is_floating_point()][-1]
    assert last.shape == (512,)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_small_network(tmp_path, name):
    """Small enough for two cores; the same layout, so that its checkpoint loads alone, and never by another's name."""
    net, about = make(name, small=True)
    assert net.training and about["size"] == 112
    assert 1e5 < sum(p.numel() for p in net.parameters()) < 5.2e5
    assert 13e6 < multiplications(net, 112) < 34e6
    with torch.device("meta"):
        names, published = ({re.sub(r"\d+", "0", key) for key in n.state_dict()} for n in (net, make(name)[0]))
    assert names <= published
    unusual(net)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    model = vk.FaceModel.load(tmp_path / "net.safetensors")
    assert model.name == NAMES[name] and model.input == vk.FaceModel(net, **about).input
    x = torch.rand(2, 3, 112, 112)
    found = model.embed(x)
    assert found.shape == (2, 128)
    torch.testing.assert_close(found, vk.FaceModel(net, **about).embed(x), rtol=0, atol=0)
    for asked in ARCHITECTURES:
        with pytest.raises(ModelError, match=f"not {asked}$"):
            vk.FaceModel.load(f"{asked}:{tmp_path}/net.safetensors")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_weight_of_a_small_network_learns(name):
    torch.manual_seed(3)
    net, _ = make(name, embedding=16, small=True)
    found = net(2 * torch.rand(3, 3, 112, 112) - 1)
    (found * torch.randn(3, 16)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    still = [n for n, p in net.named_parameters() if not p.grad.any() and p.ndim > 1]
    assert not still


def test_fresh_weights_come_from_the_global_generator():
    def weights(seed):
        torch.manual_seed(seed)
        return make("mobilenet", small=True)[0].state_dict()

    one, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(one[k], again[k]) for k in one)
    assert not torch.equal(one["sep.weight"], other["sep.weight"])


def test_what_make_refuses():
    for embedding in (0, 1, 2.0, True, "512"):
        with pytest.raises(ValueError, match="make: embedding must be an integer of 2 at least, got"):
            make("iresnet18", embedding=embedding)
    with pytest.raises(ValueError, match="make: name must be one of iresnet18, .*, got 'resnet'"):
        make("resnet")
    assert make("mobilefacenet", embedding=2, small=True)[0](torch.rand(2, 3, 112, 112)).shape == (2, 2)


@pytest.mark.parametrize(
    "net,name",
    [
        (lambda: IResNet((1, 2, 1, 1), 24, (8, 12, 16, 20)), "iresnet (12 layers, widths 8 12 16 20)"),
        (lambda: IResNet((2, 2, 2, 2), 24, (8, 8, 8, 8)), "iresnet (18 layers, widths 8 8 8 8)"),
        (lambda: IResNet((2, 1, 1, 1), 24, (8, 8, 16, 16), 2), "iresnet (12 layers, widths 8 8 16 16)"),
        (lambda: IR((1, 2, 1, 3), False, 24, widths=(8, 12, 16, 20)), "ir (16 layers, widths 8 12 16 20)"),
        (lambda: IR((2, 1, 1, 1), True, 24, widths=(8, 16, 32, 24), reduction=2, stem_stride=2),
         "ir_se (12 layers, widths 8 16 32 24)"),
        (lambda: MobileFaceNet(mobilefacenet.Shape(12, (1, 1, 2), 1, 24, 12)), "mobilefacenet (widths 12 to 96)"),
        (lambda: MobileFaceNet(mobilefacenet.Shape(24, (2, 1, 1), 0, 24, 12)), "mobilefacenet (widths 24 to 96)"),
    ],
)  # fmt: skip
def test_widths_and_depths_are_read_from_a_checkpoint(tmp_path, net, name):
    net = unusual(net())
    torch.save(net.state_dict(), tmp_path / "net.pth")
    model = vk.FaceModel.load(tmp_path / "net.pth")
    assert model.name == name
    x = torch.rand(2, 3, 112, 112)
    with torch.no_grad():
        wanted = torch.nn.functional.normalize(net((x - 0.5) / 0.5))
    torch.testing.assert_close(model.embed(x), wanted, rtol=0, atol=0)


def test_an_iresnet_of_the_published_widths_and_other_depths_is_called_by_its_layers():
    with torch.device("meta"):
        assert iresnet.build(IResNet((6, 26, 60, 6)).state_dict())[0] == "iresnet (198 layers)"
        other = IR(reduction=8, excite=True).state_dict()
        assert ir.build(other)[0] == "ir_se (50 layers)"  # squeezed otherwise than published
        assert iresnet.build(IResNet((2, 2, 2, 2), stem_stride=2).state_dict())[0] == "iresnet (18 layers)"


def test_the_stem_is_known_by_the_last_map():
    assert [layout.last_side(n) for n in range(7)] == [112, 56, 28, 14, 7, 4, 2]
    assert layout.stem_stride(512 * 49, 512, 4) == 1 and layout.stem_stride(512 * 16, 512, 4) == 2
    with pytest.raises(ValueError, match="of 5120 inputs, wanted 512 x 7 x 7 or 512 x 4 x 4, as photos of 112 x 112"):
        layout.stem_stride(5120, 512, 4)
    with pytest.raises(ValueError, match=r"blocks of \[8, 16, 8, 24\] channels, wanted four widths"):
        ir._stages([8, 16, 8, 24])
    with pytest.raises(ValueError, match="wanted four widths"):
        ir._stages([8, 16, 24])


def test_a_file_states_its_own_input(tmp_path):
    """Before what the architecture takes, after what the caller says."""
    net, _ = make("inception_resnet_v1", embedding=8, small=True)
    path = tmp_path / "net.safetensors"
    here = {"size": (96, 80), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "bgr": True, "value_range": 255.0}
    save_file(net.state_dict(), path, stated(here) | {"note": "trained"})
    model = vk.FaceModel.load(path)
    assert model.input == vk.FaceModel(net, **here).input
    assert (
        vk.FaceModel.load(path, size=112, bgr=False).input
        == vk.FaceModel(net, **here | {"size": 112, "bgr": False}).input
    )
    save_file(net.state_dict(), path, stated({"size": 128}))  # the rest is the architecture's
    assert vk.FaceModel.load(path).input.size == (128, 128) and vk.FaceModel.load(path).input.mean == (0.5,) * 3
    save_file(net.state_dict(), path, {"note": "trained"})
    assert vk.FaceModel.load(path).input.size == (112, 112)
    with pytest.raises(ValueError, match="stated: keywords must be of size, .*, got name"):
        stated({"size": 112, "name": "mine"})


@pytest.mark.parametrize(
    "text",
    ["[1]", "no JSON", '{"size": 112, "name": "mine"}', '{"size": [1, 2, 3]}', '{"std": [0, 1, 1]}', '{"mean": "grey"}',
     '{"size": "large"}', '{"mean": [0.5]}', '{"value_range": -1}', '{"size": 0}', '{"mean": ["a", "b", "c"]}',
     '{"bgr": "no"}', '{"bgr": 1}', '{"size": 1.5}', '{"name": 3}', '{"colour": 3}'],
)  # fmt: skip
def test_a_file_that_states_nonsense_is_refused(tmp_path, text):
    net, _ = make("mobilefacenet", embedding=8, small=True)
    save_file(net.state_dict(), tmp_path / "net.safetensors", {"veilkern_input": text})
    with pytest.raises(ModelError, match="net.safetensors: its metadata veilkern_input states no input: "):
        vk.FaceModel.load(tmp_path / "net.safetensors")
    assert json.loads(stated({"size": 112})["veilkern_input"]) == {"size": 112}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_small_checkpoint_without_any_of_its_parts_is_refused(tmp_path, name):
    """Whatever part, stage or block is missing: an error that names the file, never another network. Without the last
    of several blocks of a stage it is a shallower network of the layout, and is called by its layers."""
    state = make(name, small=True)[0].state_dict()
    parts = {".".join(key.split(".")[:depth]) for key in state for depth in (1, 2, 3) if key.count(".") >= depth}
    path = tmp_path / "cut.safetensors"
    for part in sorted(parts):
        kept = {key: value for key, value in state.items() if not key.startswith(f"{part}.")}
        if not kept or part.endswith("num_batches_tracked"):
            continue
        save_file(kept, path)
        with pytest.raises(ModelError, match=re.escape(str(path))):
            found = vk.FaceModel.load(path)
            if re.fullmatch(r"layer\d\.[1-9]", part) and found.name != NAMES[name]:
                raise ModelError(str(path))
            pytest.fail(f"{name} without {part} was read as {found.name}")
