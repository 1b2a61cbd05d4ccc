"""The engine on what joins values: channels side by side, numbers that multiply, activations behind sums; and on every
architecture, small."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from network_cases import unusual
from torch import nn

import veilkern as vk
from veilkern.engine import Frozen, frozen
from veilkern.engine.folding import folded
from veilkern.engine.graph import read
from veilkern.networks import ARCHITECTURES, InceptionResNet, make

SIDE = 20


class Net(nn.Module):
    """Three convolutions with BatchNorms, and whatever `way` does with them."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        for name in "abc":
            setattr(self, name, nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=name != "b"), nn.BatchNorm2d(6)))
        self.after, self.wide = nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(18, 5, 3, padding=1)
        self.keep = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norm, self.last = nn.BatchNorm2d(18), nn.Linear(12, 7)
        self.register_buffer("shift", torch.linspace(-1, 1, 6).view(1, 6, 1, 1))

    def forward(self, x):
        return self.way(self, x)


def pooled(x):
    return F.adaptive_avg_pool2d(x, 2).flatten(1)


def vectors(n, x):
    a, b = n.a(x).mean((2, 3)), F.relu(n.b(x)).mean((2, 3))
    return n.last(torch.cat((a * 0.5, b), dim=-1))


def twice(n, x):
    y = n.a(x)
    return pooled(n.wide(torch.cat([y, F.relu(y), y], 1)) + y[:, :5])


WAYS = {
    "side by side": lambda n, x: pooled(n.wide(torch.cat([F.relu(n.a(x)), n.b(x), n.c(x)], 1))),
    "one of them twice": twice,
    "by the last dimensions but two": lambda n, x: pooled(torch.concat((n.a(x), n.b(x)), dim=-3)),
    "one of them constant": lambda n, x: pooled(torch.cat([n.a(x), (n.shift * 2).expand_as(n.b(x)), x], dim=1)),
    "a BatchNorm behind them": lambda n, x: pooled(n.wide(n.norm(torch.cat([n.a(x), n.b(x), n.c(x)], 1)))),
    "the input itself": lambda n, x: pooled(torch.cat([x, x, n.a(x)], 1)),
    "one alone": lambda n, x: pooled(n.after(torch.cat([n.a(x)], 1))),
    "vectors": vectors,
    "along the rows": lambda n, x: pooled(n.after(torch.cat([n.a(x), n.b(x)], 2))),
    "photos behind photos": lambda n, x: pooled(torch.cat([n.a(x), n.b(x)])[: x.shape[0]]),
    "a number behind a convolution": lambda n, x: pooled(F.relu(0.3 * n.a(x) + n.b(x))),
    "a number behind one without bias": lambda n, x: pooled(n.b[0](x).mul(-2)),
    "a number in front of a border": lambda n, x: pooled(n.after(F.relu(n.a(x)) * 3)),
    "a number, alone": lambda n, x: pooled(torch.mul(F.silu(n.a(x)), 0.25)),
    "a number of what is used twice": lambda n, x: pooled(n.after((y := n.a(x)) * 0.1) + y[:, :5]),
    "a truth value": lambda n, x: pooled(n.a(x) * True + n.b(x) * False),
    "a value times itself": lambda n, x: pooled((y := n.a(x)) * y * 0.5),
    "a sum, rectified": lambda n, x: pooled(F.relu(n.a(x) + n.b(x))),
    "a sum, rectified and used before": lambda n, x: pooled(F.relu(y := n.a(x) + n.b(x)) + y),
    "a sum with the input of its part": lambda n, x: pooled(F.relu6(n.keep(y := F.relu(n.a(x))) + y)),
    "a sum of a scaled part": lambda n, x: pooled(F.relu(n.keep(y := n.a(x)) * 0.17 + y)),
    "a sum with what comes later": lambda n, x: pooled(F.relu(n.after(y := n.a(x)) * 0.17 + y[:, 1:])),
    "rectified, then a sum, rectified": lambda n, x: pooled(F.relu(F.relu(n.a(x)) + F.relu(n.b(x)))),
}


def with_slope(module, x):
    x = x.clone().requires_grad_()
    found = module(x)
    weights = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).view_as(found)
    return found.detach(), torch.autograd.grad((found * weights).sum(), x)[0]


def net_of(way):
    torch.manual_seed(1)
    return unusual(Net(WAYS[way]))


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("count", [1, 3])
def test_the_same_numbers(way, count):
    """Features within 1e-5 and slopes within 1e-4 of their length in float32; in float64 as near as that is."""
    for dtype, near, slope_near in ((torch.float32, 1e-5, 1e-4), (torch.float64, 1e-12, 1e-10)):
        net = net_of(way).to(dtype)
        fast = Frozen(net, (SIDE, SIDE), 2, dtype)
        x = torch.rand(count, 3, SIDE, SIDE, dtype=dtype)
        (found, slope), (wanted, wanted_slope) = with_slope(fast, x), with_slope(net, x)
        assert (found - wanted).abs().max() <= near * wanted.abs().max()
        assert (slope - wanted_slope).norm() <= slope_near * wanted_slope.norm()
        with torch.no_grad():
            assert (fast(x) - wanted).abs().max() <= near * wanted.abs().max()


@pytest.mark.parametrize("way", ["side by side", "vectors", "a sum of a scaled part", "a number in front of a border"])
def test_bfloat16_is_near(way):
    net = net_of(way)
    x = torch.rand(2, 3, SIDE, SIDE)
    (found, slope), (wanted, wanted_slope) = (
        with_slope(m, x) for m in (Frozen(net, (SIDE, SIDE), 2, torch.bfloat16), net)
    )
    assert F.cosine_similarity(found.float(), wanted).min() > 0.99
    assert F.cosine_similarity(slope.flatten(1), wanted_slope.flatten(1)).min() > 0.95


@pytest.mark.parametrize(
    "way,wanted",
    [
        ("side by side", ["convolution", "convolution", "convolution", "concat", "convolution"]),
        ("a BatchNorm behind them", ["convolution", "convolution", "convolution", "concat", "convolution"]),
        ("a number behind a convolution", ["convolution", "convolution"]),
        ("a number behind one without bias", ["convolution"]),
        ("a number in front of a border", ["convolution", "convolution"]),
        ("a number, alone", ["convolution", "call", "scale"]),
        ("a sum, rectified", ["convolution", "convolution"]),
        ("a sum of a scaled part", ["convolution", "convolution"]),
        ("a sum with the input of its part", ["convolution", "convolution"]),
        ("a sum with what comes later", ["convolution", "convolution", "call", "add", "rectify"]),
        ("a sum, rectified and used before", ["convolution", "convolution", "rectify", "add"]),
    ],
)
def test_what_is_left_of_them(way, wanted):
    """Numbers and activations are part of convolutions; what is side by side is one step."""
    steps = folded(read(net_of(way), torch.rand(1, 3, SIDE, SIDE))).steps
    assert [step.kind for step in steps] == [*wanted, "call", "call"]  # the mean of four places, flattened
    if way == "a number behind one without bias":
        assert steps[0].bias is None
    if way == "a number in front of a border":  # nothing to add in each place
        assert steps[1].plane is None and steps[0].rectify is not None
    if way in ("a sum, rectified", "a number behind a convolution", "a sum of a scaled part"):
        assert steps[1].plus is not None and steps[1].rectify is not None


def test_nothing_but_convolutions_and_pools_is_left_of_an_inception_resnet():
    net = unusual(InceptionResNet((1, 1, 1), 16, 2))
    steps = folded(read(net, torch.rand(1, 3, 96, 96))).steps
    left = [step for step in steps if step.kind not in ("convolution", "concat")]
    assert [step.kind for step in left] == [
        "call",
        "call",
        "call",
        "call",
        "call",
        "linear",
    ]  # three pools, mean, flatten
    assert sum(step.kind == "concat" for step in steps) == 6
    joined = [step for step in steps if step.plus is not None]
    assert [step.rectify is not None for step in joined] == [True, True, True, False]  # the last block has no ReLU


def test_what_is_kept_for_the_slope_of_an_inception_resnet():
    """A bit for each activation, the pools' places, and nothing of what is side by side or scaled."""
    net = unusual(InceptionResNet((2, 2, 2), 16, 2))
    program = Frozen(net, (96, 96), 2, torch.float32).program
    _, kept = program.forward(torch.rand(2, 3, 96, 96), True)
    for part, own in zip(program.parts, kept, strict=True):
        if part.step.kind == "concat" or (part.step.kind == "convolution" and part.step.rectify is None):
            assert own is None
    assert program.describe().by_torch[:1] == ["network.maxpool_3a"]
    assert not {"cat", "mul", "add"} & set(program.describe().by_torch)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_runs_in_the_engine(name):
    net, about = make(name, embedding=32, small=True)
    model = vk.FaceModel(unusual(net), **about)
    fast, why = frozen(model, width=2)
    assert not why and isinstance(fast.module, Frozen)
    x = torch.rand(2, 3, 112, 112)
    (found, slope), (wanted, wanted_slope) = with_slope(fast.embed, x), with_slope(model.embed, x)
    assert (found - wanted).abs().max() <= 1e-5
    assert (slope - wanted_slope).norm() <= 1e-4 * wanted_slope.norm()
