"""The engine: the same features and slopes as the network's own, from a bit an activation; what it leaves alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers import not_followed
from torch import nn

import veilkern as vk
from veilkern.engine import Frozen, frozen
from veilkern.engine.folding import folded
from veilkern.engine.graph import read
from veilkern.networks.ir import IR
from veilkern.networks.iresnet import IResNet
from veilkern.networks.mobilefacenet import MobileFaceNet, Shape

SIDE = 32


def settled(module: nn.Module, seed: int = 0) -> nn.Module:
    """In eval mode, its BatchNorms and PReLUs with numbers that are none of their defaults."""
    g = torch.Generator().manual_seed(seed)

    def between(like, low, high):
        return torch.rand(like.shape, generator=g) * (high - low) + low

    for layer in module.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.running_mean, layer.running_var = (
                between(layer.running_mean, -0.3, 0.3),
                between(layer.running_var, 0.5, 2),
            )
            if layer.affine:
                layer.weight.data, layer.bias.data = between(layer.weight, 0.5, 1.5), between(layer.bias, -0.3, 0.3)
        elif isinstance(layer, nn.PReLU):
            layer.weight.data = between(layer.weight, -0.2, 0.4)
    return module.eval()


class Excited(nn.Module):
    """A block with squeeze-and-excitation, a sum of itself, and a branch that nobody needs."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.gate, self.after = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3)
        self.register_buffer("shift", torch.linspace(-1, 1, 8).view(1, 8, 1, 1))

    def forward(self, x):
        y = F.relu(self.norm(self.conv(x)))
        y = y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True))) + self.shift
        y = self.after(y) + 0.5
        y = y + y
        return F.adaptive_avg_pool2d(F.silu(y), 2).flatten(1)


class Borders(nn.Module):
    """BatchNorms in front of convolutions with and without a border, with stride, dilation and groups."""

    def __init__(self):
        super().__init__()
        shapes = (
            {"padding": 1},
            {"padding": 0},
            {"padding": 1, "stride": 2},
            {"padding": 2, "dilation": 2},
            {"groups": 4, "padding": 1},
        )
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, bias=i % 2 == 0, **shape), nn.PReLU(8 if i % 2 else 1))
            for i, shape in enumerate(shapes)
        )  # fmt: skip
        self.first = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        return x.flatten(1)[:, :40]


class Patches(nn.Module):
    """Layers of values [N, L, C] and [N, H, W, C], whose channels are the last."""

    def __init__(self):
        super().__init__()
        self.cut, self.first, self.norm = nn.Conv2d(3, 8, 8, stride=8), nn.Linear(8, 12), nn.BatchNorm1d(16)
        self.act, self.second, self.last = nn.PReLU(16), nn.Linear(12, 6), nn.LayerNorm(6)

    def forward(self, x):
        x = self.cut(x).flatten(2).transpose(1, 2)
        x = self.act(self.norm(self.first(x)))
        x = F.relu(self.second(x.reshape(-1, 4, 4, 12)))
        return self.last(x).mean((1, 2))


def sequence(*layers):
    return lambda: nn.Sequential(*(layer() for layer in layers))


NETWORKS = {
    "iresnet": lambda: IResNet((1, 2, 1, 1)),
    "ir-se": lambda: IR((1, 1, 2, 1), excite=True),
    "mobilefacenet": lambda: MobileFaceNet(Shape(stem=1, depths=(1, 1, 1))),
    "excited": Excited,
    "borders": Borders,
    "patches": Patches,
    "relu6 and a linear layer": sequence(
        lambda: nn.Conv2d(3, 7, 5, stride=3), nn.ReLU6, nn.Flatten, lambda: nn.Linear(7 * 10 * 10, 24),
        lambda: nn.BatchNorm1d(24), nn.ReLU, nn.Dropout, lambda: nn.Linear(24, 12),
    ),
    "transposed, pooled, normalised": sequence(
        lambda: nn.ConvTranspose2d(3, 6, 3), nn.Tanh, lambda: nn.MaxPool2d(2), lambda: nn.GroupNorm(2, 6), nn.Identity,
        lambda: nn.AdaptiveAvgPool2d(3), nn.Flatten,
    ),
}  # fmt: skip
LARGE = ("iresnet", "ir-se", "mobilefacenet")  # of 112 pixels


def model_of(name: str) -> vk.FaceModel:
    torch.manual_seed(1)
    return vk.FaceModel(settled(NETWORKS[name]()), size=112 if name in LARGE else SIDE, mean=(0.5,) * 3, std=(0.5,) * 3)


def with_slope(model: vk.FaceModel, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    features = model.embed(x)
    weights = torch.linspace(-1, 1, features.numel(), dtype=features.dtype).view_as(features)
    return features.detach(), torch.autograd.grad((features * weights).sum(), x)[0]


@pytest.mark.parametrize("name,count", [(name, n) for name in NETWORKS for n in ((2,) if name in LARGE else (1, 3))])
def test_the_same_numbers(name, count):
    """Features within 1e-5, slopes within 1e-4 of their length; in float64 as near as that is."""
    model = model_of(name)
    x = torch.rand(count, 3, *model.input.size)
    dtypes = (torch.float32, 1e-5, 1e-4), (torch.float64, 1e-12, 1e-10)
    for dtype, near, slope_near in dtypes[: 1 if name in LARGE else 2]:
        model.module.to(dtype)
        fast, why = frozen(model, width=2, dtype=dtype)
        assert not why and isinstance(fast.module, Frozen) and fast.input == model.input
        (features, slope), (wanted, wanted_slope) = (with_slope(m, x.to(dtype)) for m in (fast, model))
        assert (features - wanted).abs().max() <= near
        assert (slope - wanted_slope).norm() <= slope_near * wanted_slope.norm()
        with torch.no_grad():
            assert (model_features(fast, x, dtype) - wanted).abs().max() <= near


def model_features(model, x, dtype):
    return model.embed(x.to(dtype))


def test_bfloat16_is_near(sample_model, people):
    """As a GPU computes, on a network that knows faces: cosine of the features above 0.999, of the slopes above 0.9."""
    fast, why = frozen(sample_model, dtype=torch.bfloat16)
    assert not why
    x = people.images[:4].float() / 255
    (features, slope), (wanted, wanted_slope) = (with_slope(m, x) for m in (fast, sample_model))
    assert features.dtype == torch.float32 and (features * wanted).sum(1).min() > 0.999
    assert F.cosine_similarity(slope.flatten(1), wanted_slope.flatten(1)).min() > 0.9


@pytest.mark.parametrize("name", ["excited", "patches", "transposed, pooled, normalised"])
def test_what_torch_runs_keeps_its_own_digits(name):
    """In bfloat16 too: layers with weights that the engine leaves to torch."""
    model = model_of(name)
    fast, why = frozen(model, dtype=torch.bfloat16)
    assert not why
    x = torch.rand(2, 3, SIDE, SIDE)
    (features, slope), (wanted, wanted_slope) = (with_slope(m, x) for m in (fast, model))
    assert (features * wanted).sum(1).min() > 0.99
    assert F.cosine_similarity(slope.flatten(1), wanted_slope.flatten(1)).min() > 0.9


def steps_of(module, side=112):
    return folded(read(module, torch.rand(1, 3, side, side))).steps


def test_nothing_but_convolutions_is_left_of_an_iresnet():
    """Every BatchNorm but the last two, every activation and every sum is part of a convolution."""
    steps = steps_of(settled(IResNet((1, 2, 1, 1))))
    assert [s.kind for s in steps if s.kind != "convolution"] == ["scale", "call", "linear"]
    assert sum(s.rectify is not None for s in steps) == 6 and sum(s.plus is not None for s in steps) == 5
    assert sum(s.plane is not None for s in steps) == 5  # a BatchNorm in front of a border of zeros


def test_what_is_kept_for_the_slope():
    """A bit an activation, and nothing else: of an IResNet less than a tenth of what autograd keeps."""
    model = model_of("iresnet")
    fast, _ = frozen(model)
    program, x = fast.module.program, torch.rand(2, 3, 112, 112)
    _, kept = program.forward(x, True)
    held = [t for own in kept for t in tensors_of(own)]
    bits = sum(t.numel() for t in held if t.dtype == torch.uint8)
    assert bits == 2 * program.describe().bits
    assert sum(t.nbytes for t in held) - bits <= 2 * 2 * 512 * 7 * 7 * 4  # around the flatten, which torch does
    autograd = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: autograd.append(t) or t, lambda t: t):
        model.embed(x.clone().requires_grad_())
    weights = {p.data_ptr() for p in model.module.parameters()}
    saved = {t.data_ptr(): t.nbytes for t in autograd if t.data_ptr() not in weights}
    assert sum(saved.values()) > 10 * sum(t.nbytes for t in held)


def tensors_of(kept):
    if isinstance(kept, torch.Tensor):
        return [kept]
    if isinstance(kept, dict):
        return [t for value in kept.values() for t in tensors_of(value)]
    return [t for value in kept for t in tensors_of(value)] if isinstance(kept, (tuple, list)) else []


class Branching(nn.Module):
    def forward(self, x):
        not_followed(x)
        return F.adaptive_avg_pool2d(x, 3).flatten(1)


class OfItsTime(nn.Module):
    """Goes another way for bright photos, by a number that torch.fx takes for fixed."""

    def forward(self, x):
        self.bright = getattr(self, "bright", 0) + 1
        return F.adaptive_avg_pool2d(x * self.bright, 3).flatten(1)


class Parts(nn.Module):
    def forward(self, x):
        a, b = x.chunk(2, dim=3)
        return F.adaptive_avg_pool2d(a * b, 3).flatten(1)


class Shut(nn.Module):
    def forward(self, x):
        return F.adaptive_avg_pool2d(x.detach(), 3).flatten(1)


class Spoiled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.conv.weight.data.fill_(float("nan"))

    def forward(self, x):
        return self.conv(x).mean((2, 3))


@pytest.mark.parametrize(
    "module,words",
    [
        (Branching(), "torch.fx cannot follow its forward"),
        (OfItsTime(), "its features come out otherwise"),
        (Parts(), "gives several tensors at once"),
        (Shut(), "passes no gradient to its input"),
        (Spoiled(), "its features come out otherwise: nan apart"),
        (torch.jit.trace(nn.Conv2d(3, 4, 3), torch.rand(1, 3, 8, 8)), "torch.fx cannot follow TorchScript"),
    ],
)
def test_what_it_leaves_alone_and_why(module, words):
    model = vk.FaceModel(module, size=8)
    found, why = frozen(model)
    assert found is model and words in why


def test_the_slope_once_only():
    fast, _ = frozen(model_of("borders"))
    x = torch.rand(1, 3, SIDE, SIDE, requires_grad=True)
    features = fast.embed(x).sum()
    features.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one time only"):
        features.backward()


def test_the_input_and_the_network_stay_as_they_are():
    model = model_of("excited")
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    fast, _ = frozen(model)
    x = torch.rand(2, 3, SIDE, SIDE)
    here = x.clone()
    with_slope(fast, x)
    assert torch.equal(x, here) and all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
    assert frozen(model)[0] is fast  # kept
    model.module.conv.weight.data.add_(1)
    assert frozen(model)[0] is not fast  # other weights, another engine


def test_no_bit_depends_on_the_others_in_the_batch():
    fast, _ = frozen(model_of("iresnet"), width=4)
    x = torch.rand(4, 3, 112, 112)
    features, slope = with_slope(fast, x)
    mixed = torch.rand(4, 3, 112, 112)
    mixed[2] = x[0]
    z = mixed.clone().requires_grad_()
    found = fast.embed(z)
    assert torch.equal(found[2], features[0])
    weights = torch.linspace(-1, 1, features.numel()).view_as(features)[:1].expand(4, -1)
    (mixed_slope,) = torch.autograd.grad((found * weights).sum(), z)
    assert torch.equal(mixed_slope[2], slope[0])


def test_craft_says_by_what_the_network_ran(people, sample_model):
    fast = vk.CraftConfig(steps=2)
    assert vk.craft(sample_model, people, fast, progress=False).by_autograd == ""
    slow = vk.craft(vk.FaceModel(Branching()), people, fast, progress=False)
    assert "cannot follow its forward" in slow.by_autograd and len(slow.bank) == len(people)


def test_a_forward_set_on_the_network_itself_and_its_hooks_are_followed():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.flat, self.first, self.second = nn.Flatten(), nn.Linear(3 * 8 * 8, 4), nn.Linear(3 * 8 * 8, 4)

        def forward(self, x):
            return self.first(self.flat(x))

    net = Two()
    net.forward = lambda x: net.second(net.flat(x))
    net.register_forward_hook(lambda module, given, found: found + 1)
    x = torch.rand(2, 3, 8, 8)
    graph = read(net, x)
    torch.testing.assert_close(Frozen(net, (8, 8), 2, torch.float32)(x), net.second(x.flatten(1)) + 1)
    assert "network.second" in str(graph.owner.graph) or "network_second" in str(graph.owner.graph)


class Chosen(nn.Module):
    """A rectifier written out, which asks for a truth value of each number, and a shape taken from another value."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x):
        a, b = self.first(x), self.second(x).flatten(1)
        return torch.where(a > 0, a, 0.25 * a).view_as(a).flatten(1).view_as(b) + b


def test_truth_values_and_shapes_of_other_values_are_followed():
    module, x = Chosen(), torch.rand(2, 3, 9, 9)
    fast = Frozen(module, (9, 9), 2, torch.float32)
    for network in (module, fast):
        y = x.clone().requires_grad_()
        found = network(y)
        (found * torch.linspace(-1, 1, found.numel()).view_as(found)).sum().backward()
        if network is module:
            wanted = found.detach(), y.grad
    torch.testing.assert_close((found.detach(), y.grad), wanted)
