"""rectify_ and rectify_gradient_: what torch's activations and their gradients are, by a bit a value."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers import isas, large, native, serving, threads

from veilkern import ops
from veilkern.testing.ops.rectify import back, forth, values

WAYS = {
    "relu": (F.relu, {}),
    "relu6": (F.relu6, {"top": 6.0}),
    "prelu": (None, {"slope": torch.linspace(-0.2, 0.5, 24)}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape,add", [
    ((3, 24, 5, 7), None), ((3, 24, 5, 7), (24,)), ((3, 24, 5, 7), (24, 5, 7)), ((1, 24, 1, 1), (24,)),
    ((1, 24, 3, 3), (24, 3, 3)), ((5, 24), None), ((5, 24), (24,)), ((1, 24), (24,)),
])  # fmt: skip
def test_what_autograd_gives_by_a_bit_a_value(path, way, shape, add):
    function, options = WAYS[way]
    x = 4 * values(*shape)
    bias = None if add is None else torch.linspace(-3, 3, torch.Size(add).numel()).view(add)
    leaf = x.clone().requires_grad_()
    z = leaf if bias is None else leaf + (bias.view(-1, 1, 1) if bias.ndim < len(shape) - 1 else bias)
    y = F.prelu(z, options["slope"]) if function is None else function(z)
    slope = values(*shape, seed=4)
    (wanted,) = torch.autograd.grad(y, leaf, slope)
    found = x.clone()
    bits = ops.rectify_(found, bias, **options)
    assert bits.dtype == torch.uint8 and bits.shape == (shape[0], (x[0].numel() + 7) // 8)
    torch.testing.assert_close(found, y.detach(), rtol=0, atol=0)
    changed = slope.clone()
    assert ops.rectify_gradient_(changed, bits, options.get("slope")) is changed
    torch.testing.assert_close(changed, wanted, rtol=1e-6, atol=0)


def test_bits_lie_as_the_values_do(path):
    """Lowest bit first, in the order of channels_last, the last byte filled up with zeros."""
    x = torch.full((1, 3, 1, 5), -1.0).contiguous(memory_format=torch.channels_last)
    x[0, 1, 0, 0] = x[0, 2, 0, 4] = 1.0  # values 1 and 14 of the photo
    assert ops.rectify_(x).tolist() == [[2, 1 << 6]]


@pytest.mark.parametrize("channels", [*range(1, 18), 31, 61, 64, 65, 67])
def test_tables_at_every_phase(path, channels):
    """Values that fill no group, no pack and no byte; tables shorter and longer than each."""
    x, bias = values(2, channels, 5, 3), torch.linspace(-1, 1, channels)
    slope = torch.arange(1.0, channels + 1)
    z = x + bias.view(-1, 1, 1)
    bits = ops.rectify_(x, bias, slope)
    assert torch.equal(x, torch.where(z > 0, z, z * slope.view(-1, 1, 1)))
    gradient = torch.ones_like(x)
    ops.rectify_gradient_(gradient, bits, slope)
    assert torch.equal(gradient, torch.where(z > 0, 1.0, slope.view(-1, 1, 1)))


def test_more_channels_than_32_bits_count(monkeypatch):
    """The kernels' long way, taken by few channels."""
    launcher = pytest.importorskip("veilkern.backends.triton.rectify")
    made, slopes = forth(2, 24, 3, 5, way="bias"), back(2, 24, 3, 5)
    with serving("reference"):
        wanted = made["x"].clone(), slopes["gradient"].clone()
        bits = ops.rectify_(wanted[0], made["add"], made["slope"])
        ops.rectify_gradient_(wanted[1], slopes["bits"], slopes["slope"])
    monkeypatch.setattr(launcher, "WIDE", 1)
    with serving("triton"):
        assert torch.equal(ops.rectify_(**made), bits)
        ops.rectify_gradient_(**slopes)
    assert torch.equal(made["x"], wanted[0]) and torch.equal(slopes["gradient"], wanted[1])


def test_a_gradient_that_is_no_number_stays_out(path):
    """ReLU passes nothing where it is shut, whatever comes."""
    gradient = torch.tensor([[float("nan"), float("inf"), 2.0]])
    assert ops.rectify_gradient_(gradient, torch.tensor([[4]], dtype=torch.uint8)).tolist() == [[0.0, 0.0, 2.0]]


@native
def test_no_two_threads_write_a_byte():
    """Photos of a number of values that fills no byte, large enough to be shared out."""
    made, other = forth(3, 7, 150, 151, way="map"), forth(3, 7, 150, 151, way="map")
    for isa in isas():
        with serving(isa):
            one, many = made["x"].clone(), made["x"].clone()
            with threads(1):
                wanted = ops.rectify_(one, made["add"], made["slope"])
            with threads(4):
                assert torch.equal(ops.rectify_(many, other["add"], other["slope"]), wanted)
            assert torch.equal(one, many)


def test_no_gradient_runs_through(path):
    made = forth(2, 16, 6, 6)
    with pytest.raises(ValueError, match="x must not require a gradient"):
        ops.rectify_(made["x"].requires_grad_(), slope=made["slope"])
    slopes = back(2, 16, 6, 6)
    with pytest.raises(ValueError, match="gradient must not require a gradient"):
        ops.rectify_gradient_(slopes["gradient"].requires_grad_(), slopes["bits"], slopes["slope"])


def test_in_a_compiled_graph(path):
    def both(x, slope, gradient):
        bits = ops.rectify_(x, slope=slope)
        return bits, ops.rectify_gradient_(gradient, bits, slope)

    made, gradient = forth(2, 16, 6, 6), values(2, 16, 6, 6, seed=5)
    here, there = ([t.clone() for t in (made["x"], made["slope"], gradient)] for _ in range(2))
    wanted = both(*here)
    found = torch.compile(both, fullgraph=True, backend="aot_eager")(*there)
    assert all(torch.equal(a, b) for a, b in zip((*found, *there), (*wanted, *here), strict=True))


@large
@native
@pytest.mark.large
def test_more_than_2_to_31_values():
    """The last values come out as they do alone."""
    x = torch.zeros(2**31 // 512 + 2, 512)
    x[-2:] = values(2, 512)
    alone = x[-2:].clone()
    slope = torch.linspace(-0.2, 0.5, 512)
    assert torch.equal(ops.rectify_(x, slope=slope)[-2:], ops.rectify_(alone, slope=slope))
    assert torch.equal(x[-2:], alone)
