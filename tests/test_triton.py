"""The Triton backend without a GPU: sizes beyond a tile, what cannot be checked, launches, machine code."""

from __future__ import annotations

import importlib
import weakref

import pytest
import torch
from helpers import BACKENDS, assert_near, batch, serving
from launcher_cases import steps_by_offsets_that_cannot_be
from test_hull_distance import features
from triton_cases import DEVICE, run_python

import veilkern as vk
from veilkern import ops, reference
from veilkern.backends import launch_tables as launches
from veilkern.filters import gaussian_weights
from veilkern.samples.network import Block
from veilkern.testing.making import LAYOUTS, bytes8, laid_out, offsets_of, sealable_photos
from veilkern.testing.ops.veil_step import state
from veilkern.testing.table import TABLE

pytestmark = pytest.mark.skipif("triton" not in BACKENDS, reason="Triton is not installed")


def test_why_it_is_absent():
    tell = "import veilkern as vk; print({b.name: b.reason for b in vk.list_backends()}['triton'])"
    hidden = run_python("import sys; sys.modules['triton'] = None\n" + tell).stdout
    assert "Triton is not installed" in hidden and "veilkern[triton]" in hidden
    blind = run_python(tell, CUDA_VISIBLE_DEVICES="").stdout
    assert "no GPU" in blind and "TRITON_INTERPRET=1" in blind
    old = run_python("import triton; triton.__version__ = '3.2.0'\n" + tell).stdout
    assert "Triton 3.2.0 is too old" in old


def test_the_cpu_is_not_served_by_the_interpreter_unless_asked():
    tell = """
import torch, veilkern as vk
from veilkern import backends
assert backends.select("blend", torch.zeros(1)).__module__.split(".")[2] in ("cpu", "reference")
with vk.use_backend("triton") as backend:
    assert backend.devices == ("cpu",) and "interpreted" in backend.detail
    assert backends.select("blend", torch.zeros(1)).__module__ == "veilkern.backends.triton.blend"
"""
    run_python(tell, TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there: Triton takes its tensors")
def test_tensors_elsewhere_are_refused():
    with vk.use_backend("triton"), pytest.raises(vk.BackendError, match="triton: serves"):
        ops.block_variance(torch.zeros(1, 1, 4, 4, device="meta"))


# Sizes beyond a tile


def test_wide_photos_through_the_gaussian_filter():
    """Rows in several pieces, each with its margin; borders reflected in the first and the last."""
    g = torch.Generator().manual_seed(0)
    hidden = torch.randint(0, 256, (1, 3, 9, 1100), dtype=torch.uint8, generator=g)
    veils, rows = (
        torch.randint(0, 256, (1, 3, 9, 1100), dtype=torch.uint8, generator=g),
        torch.zeros(1, dtype=torch.int64),
    )
    for sigma in (1.0, 3.9):
        with serving("triton"):
            found = ops.recover(hidden, veils, rows, 51, gaussian_sigma=sigma)
        assert torch.equal(found, reference.recover(hidden, veils, rows, 51, gaussian_sigma=sigma))


@pytest.mark.parametrize("side", [(5, 140), (20, 300)])
@pytest.mark.parametrize("block,stride", [((3, 3), 1), ((2, 5), 3)])
def test_wide_planes_of_block_variance(side, block, stride, generator):
    images = torch.rand(1, 2, *side, dtype=torch.float64, generator=generator)
    with serving("triton"):
        found = ops.block_variance_gradient(images, block=block, stride=stride, form="literal")
    for a, b in zip(
        found, reference.block_variance_gradient(images, block=block, stride=stride, form="literal"), strict=True
    ):
        assert_near(a, b, torch.float64)


@pytest.mark.parametrize("borders", ["valid", "same"])
@pytest.mark.parametrize("side,window", [((20, 300), 11), ((56, 60), 51)])
def test_wide_planes_of_ssim(side, window, borders, generator):
    """Rows in several pieces; a window wider than a usual tile."""
    x, y = (torch.rand(1, 2, *side, dtype=torch.float64, generator=generator) for _ in range(2))
    options = {"window": window, "borders": borders, "sigma": window / 7}
    with serving("triton"):
        found = ops.ssim_gradient(x, y, **options)
    for a, b in zip(found, reference.ssim_gradient(x, y, **options), strict=True):
        assert_near(a, b, torch.float64)


@pytest.mark.parametrize("kind", ["convex", "affine", "span"])
def test_people_with_many_clean_features(kind):
    """More than a warp holds: a wider program and smaller groups."""
    g = torch.Generator().manual_seed(0)
    clean = torch.nn.functional.normalize(torch.randn(70, 40, generator=g, dtype=torch.float64) + 1)
    features = torch.nn.functional.normalize(torch.randn(2, 40, generator=g, dtype=torch.float64) + 1)
    offsets, clean_offsets = offsets_of((2, 0)), offsets_of((67, 3))
    with serving("triton"):
        found = ops.hull_distance(features, clean, offsets, clean_offsets=clean_offsets, subspace=kind)
    wanted = reference.hull_distance(features, clean, offsets, clean_offsets=clean_offsets, subspace=kind)
    torch.testing.assert_close(found[0], wanted[0], atol=1e-8, rtol=0)
    torch.testing.assert_close(found[2], wanted[2], atol=1e-5, rtol=0)


def test_wide_veils(generator):
    people, side = 2, (6, 150)
    veils, momentum = torch.rand(people, 3, *side, generator=generator), torch.zeros(people, 3, *side)
    images = torch.randint(0, 256, (3, 3, *side), dtype=torch.uint8, generator=generator)
    gradients, offsets = 0.01 * torch.randn(3, 3, *side, generator=generator), offsets_of((2, 1))
    options = {"a": 51, "lam": 0.04, "mu": 0.01, "step": 0.1, "decay": 0.9}
    wanted = [veils.double(), momentum.double()]
    wanted.append(reference.veil_step_(*wanted, gradients.double(), images, offsets, **options))
    with serving("triton"):
        statistics = ops.veil_step_(veils, momentum, gradients, images, offsets, **options)
    assert_near(momentum, wanted[1], torch.float32)
    assert_near(statistics, wanted[2], torch.float32)


@pytest.mark.parametrize("layout", ["dense", "channels_last", "crop"])
def test_sealed_photos_of_many_programs(layout):
    """Planes that end in the middle of a block and of a word; carriers in two programs and in two channels."""
    made = sealable_photos(1, 1, 5, 13, levels=16)
    made |= {name: laid_out(made[name], layout) for name in ("images", "veils")}
    small = {"block": 64, "num_warps": 1}
    with serving("triton"), launches.trying("seal", "u16", small), launches.trying("unseal", "u16", small):
        hidden = ops.seal(**made, levels=16, rounds=12, lossless=True)
        back = ops.unseal(hidden, made["veils"], made["rows"], made["keys"], levels=16, rounds=12)
    assert torch.equal(hidden, reference.seal(**made, levels=16, rounds=12, lossless=True))
    assert torch.equal(back, made["images"])


@pytest.mark.parametrize("layout", ["dense", "channels_last"])
def test_unsealed_in_place_by_many_programs(layout):
    """Programs that write over the nonce before others need it: the interpreter runs them one after the other."""
    made = sealable_photos(2, 2, 7, 11)
    hidden = laid_out(reference.seal(**made, rounds=12), layout)
    given = {name: made[name] for name in ("veils", "rows", "keys")} | {"rounds": 12}
    wanted = reference.unseal(hidden, **given)
    with serving("triton"), launches.trying("unseal", "u8", {"block": 64, "num_warps": 1}):
        ops.unseal(hidden, **given, out=hidden)
    assert torch.equal(hidden, wanted)


@pytest.mark.parametrize("side", [(17, 19), (18, 18)])
@pytest.mark.parametrize("bgr", [False, True])
def test_sealed_input_of_many_programs(side, bgr):
    """Channels that begin within a block and within a word, or within a block only."""
    made = sealable_photos(1, 1, *side)
    made |= {"veils": made["veils"] / 255.0, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "bgr": bgr, "rounds": 12}
    with serving("triton"), launches.trying("seal_normalize", "f32", {"block": 32, "num_warps": 1}):
        found = ops.seal_normalize(**made)  # 32: less than it takes, which is 256
    wanted = reference.seal_normalize(**made | {"veils": made["veils"].double()}, dtype=torch.float64)
    assert_near(found, wanted, torch.float32)


def test_keys_as_words():
    """Where they lie as words do, a view; else a copy: bytes apart, an odd offset, an odd address, a row of a table."""
    as_words = importlib.import_module("veilkern.backends.triton.seal").as_words
    flat = bytes8(200)
    assert flat.data_ptr() % 4 == 0
    for view, copied in (
        (flat[:64].view(2, 32), False),
        (flat[4:68].view(2, 32), False),
        (flat[1:65].view(2, 32), True),
        (torch.from_numpy(flat[3:].numpy())[:64].view(2, 32), True),
        (flat[:128].view(4, 32)[::2], True),
        (flat[:64].view(32, 2).t(), True),
        (flat[:33].view(1, 33)[:, :32], False),
        (flat[:0].view(0, 32), False),
    ):
        words = as_words(view)
        assert words.dtype == torch.int32 and words.data_ptr() % 4 == 0
        assert torch.equal(words.view(torch.uint8), view.reshape(-1))
        assert (words.data_ptr() != view.data_ptr()) == copied or not view.numel()


# Layouts and ragged people, as the other backends have them by chance (hypothesis), here one by one


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(layout, generator):
    images, veils, rows = batch(3, 3, 9)
    floats = torch.rand(3, 3, 9, 9, dtype=torch.float64, generator=generator)
    with serving("triton"):
        hidden = ops.blend(laid_out(images, layout), laid_out(veils, layout), rows, 51, lossless=True)
        back = ops.recover(laid_out(hidden, layout), veils, rows, 51, gaussian_sigma=1.0)
        out = ops.blend_normalize(
            laid_out(images, layout), laid_out(floats, layout), rows, 51, mean=[0.4] * 3, std=[2.0] * 3
        )
        variance = ops.block_variance_gradient(laid_out(floats, layout), block=(2, 3), stride=2)
        walked = ops.block_variance_gradient(laid_out(floats, layout), out=laid_out(torch.zeros_like(floats), layout))
        score = ops.ssim_gradient(laid_out(floats, layout), floats.flip(0), window=5)
    assert torch.equal(hidden, reference.blend(images, veils, rows, 51, lossless=True))
    assert torch.equal(back, reference.recover(hidden, veils, rows, 51, gaussian_sigma=1.0))
    mixed = reference.blend_normalize(images, floats, rows, 51, mean=[0.4] * 3, std=[2.0] * 3, dtype=torch.float64)
    assert_near(out, mixed, torch.float32)
    wanted = (
        reference.block_variance_gradient(floats, block=(2, 3), stride=2),
        reference.block_variance_gradient(floats),
        reference.ssim_gradient(floats, floats.flip(0), window=5),
    )
    for found, truth in zip((variance, walked, score), wanted, strict=True):
        for a, b in zip(found, truth, strict=True):
            assert_near(a, b, torch.float64, factor=10)


@pytest.mark.parametrize("layout", ["dense", "crop", "channels_last"])
@pytest.mark.parametrize("counts", [(0,), (1,), (2, 0, 1), (0, 3), (1, 0, 0, 2)])
def test_ragged_people(counts, layout):
    """People without photos, the first and the last too; some not active; one gradient a person or one a photo."""
    options = {"active": torch.arange(len(counts)) % 3 != 1, "visual": "mse" if len(counts) % 2 else "norm"}
    entry = TABLE["veil_step_"]
    for gradient_counts in (None, [1] * len(counts)):
        made = state(counts, 5, 18, dtype=torch.float64, layout=layout, gradient_counts=gradient_counts, **options)
        wanted = entry.truth(made)
        with serving("triton"):
            entry.require(entry.call(made), wanted, made)


@pytest.mark.parametrize("kind", ["convex", "affine", "span", "centre", "self"])
@pytest.mark.parametrize(
    "counts,d", [((1,), 1), ((3, 0, 1), 2), ((0, 7), 2), pytest.param((20, 2), 7, marks=pytest.mark.slow)]
)
def test_ragged_hulls(kind, counts, d):
    """One feature, one dimension, more photos than dimensions, nobody."""
    clean_counts = counts if kind == "self" else [max(1, c // 2) for c in counts]
    f, clean, offsets, clean_offsets = features(counts, clean_counts, d)
    wanted = reference.hull_distance(f, clean, offsets, clean_offsets=clean_offsets, subspace=kind)
    for dtype, slack in ((torch.float64, 1e-8), (torch.float32, 4e-6)):
        with serving("triton"):
            distance, weights, gradient = ops.hull_distance(
                f.to(dtype), clean.to(dtype), offsets, clean_offsets=clean_offsets, subspace=kind
            )
        size = 1.0 if dtype == torch.float64 else 1 + 5 * weights.double().square().sum(1)
        assert ((distance.double() - wanted[0]).abs() <= slack * size).all()
        assert weights.isfinite().all() and gradient.isfinite().all()


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="test_gpu.py crafts on the GPU")
def test_a_short_craft(people):
    """The whole optimiser through the interpreter, with every kernel that a craft launches (on photos of 36 x 36: those
    of 112 x 112 launch the same): the veils of the C++ kernels, but where a sign hangs on rounding."""
    few, config = people.take([0, 1, 6]), vk.CraftConfig(seed=1, steps=2)
    images = torch.nn.functional.interpolate(few.images.float(), size=(36, 36), mode="area").round().to(torch.uint8)
    few = vk.People(images, few.offsets, few.names, few.files)
    layers = torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.PReLU(8), Block(8, 16, 2), torch.nn.PReLU(16), torch.nn.Flatten()
    model = vk.FaceModel(torch.nn.Sequential(*layers, torch.nn.Linear(16 * 9 * 9, 32)), size=36)
    with serving("triton"):
        found = vk.craft(model, few, config, progress=False)
    with serving("reference"):
        wanted = vk.craft(model, few, config, progress=False)
    assert (found.bank.veils != wanted.bank.veils).float().mean() < 0.01
    for a, b in zip(found.report, wanted.report, strict=True):
        assert a["feature_distance"] == pytest.approx(b["feature_distance"], abs=1e-5, rel=1e-3)


def test_a_row_that_names_no_veil_reads_nothing():
    """The op refuses it on the CPU; on a GPU nobody looks, so the kernel must: a black photo, never an unveiled one."""
    images, veils, _ = batch(4, 2, 12)
    rows = torch.tensor([1, 2, -1, 2**40])
    launchers = importlib.import_module("veilkern.backends.triton").OPS
    images, veils, rows = (t.to(DEVICE) for t in (images, veils, rows))
    for dtype in (torch.uint8, torch.uint16):
        out, back = torch.full_like(images, 7, dtype=dtype), torch.full_like(images, 7)
        launchers["blend"](images, veils, rows, 51, dtype == torch.uint16, out)
        assert out[0].any() and not out[1:].any()
        for sigma in (None, 1.0):
            launchers["recover"](out, veils, rows, 51, sigma, back)
            assert back[0].any() and not back[1:].any()
    network = torch.empty_like(images, dtype=torch.float32, memory_format=torch.channels_last)
    launchers["blend_normalize"](images, veils / 255.0, rows, 51, [0.5] * 3, [0.5] * 3, False, network)
    assert (network[1:] == -1).all()


def test_a_row_that_names_no_key_reads_nothing():
    """As above: a black photo, of which even the keystream under some other key would say nothing."""
    made = {name: value.to(DEVICE) for name, value in sealable_photos(3, 2, 12, 12).items()}
    images, veils, keys, nonces = (made[name] for name in ("images", "veils", "keys", "nonces"))
    rows = torch.tensor([1, 2, -(2**40)], device=DEVICE)
    launchers = importlib.import_module("veilkern.backends.triton").OPS
    for dtype in (torch.uint8, torch.uint16):
        out, back = torch.full_like(images, 7, dtype=dtype), torch.full_like(images, 7)
        launchers["seal"](images, veils, rows, keys, nonces, 64, 12, dtype == torch.uint16, out)
        assert out[0].any() and not out[1:].any()
        launchers["unseal"](torch.full_like(out, 9), veils, rows, keys, 64, 12, back)
        assert back[0].any() and not back[1:].any()
    network = torch.empty_like(images, dtype=torch.float32, memory_format=torch.channels_last)
    launchers["seal_normalize"](images, veils / 255.0, rows, keys, nonces, 64, 12, [0.5] * 3, [0.5] * 3, False, network)
    assert (network[0] != -1).any() and (network[1:] == -1).all()


@pytest.mark.parametrize("kind", ["convex", "affine", "span", "centre", "self"])
def test_a_hull_that_cannot_be_is_nan(kind):
    """More clean features than width, none, offsets that fall or leave the features: NaN there, values elsewhere, and
    nothing beyond (bounds.py looks). The op refuses them on the CPU; on a GPU nobody could without waiting."""
    launcher = importlib.import_module("veilkern.backends.triton").OPS["hull_distance"]
    f, clean, offsets, clean_offsets = (t.to(DEVICE) for t in features((2, 1, 2), (2, 3, 2), 5))
    own = torch.zeros(5, dtype=torch.int64, device=DEVICE) if kind == "self" else None

    def spoilt(offsets, clean_offsets, width, own=own) -> list[bool]:
        marks = [torch.as_tensor(t, device=DEVICE) for t in (offsets, clean_offsets)]
        distance, weights, gradient = launcher(f, clean, *marks, kind, None, own, width)
        bad = distance.isnan()
        assert weights.shape == (5, width) and torch.equal(gradient.isnan().all(1), bad)
        assert distance[~bad].isfinite().all() and weights[~bad].isfinite().all() and weights[bad].isnan().all()
        return bad.tolist()

    no, yes = False, True
    assert spoilt(offsets, clean_offsets, 3) == [no] * 5
    assert spoilt(offsets, clean_offsets, 2) == [no, no, yes, no, no]  # the second person has three
    assert spoilt(offsets, clean_offsets, 1) == [yes] * 5
    assert spoilt(offsets, [0, 2, 2, 7], 5) == [no, no, yes, no, no]  # and none
    assert spoilt(offsets, [0, 2, 9, 7], 3) == [no, no, yes, yes, yes]
    assert spoilt([0, 2, 3, 9], clean_offsets, 3) == [no, no, no, yes, yes]
    assert spoilt([1, 2, 3, 4], clean_offsets, 3) == [yes, no, no, no, yes]  # features of nobody
    assert spoilt([-7, -2, -3, 2**40], clean_offsets, 3) == [yes] * 5
    assert spoilt([0], [0], 2, own) == [yes] * 5
    if kind == "self":
        other = torch.tensor([0, 2, 0, -1, 1], device=DEVICE)
        assert spoilt(offsets, clean_offsets, 3, other) == [no, yes, no, yes, no]


def test_a_step_by_offsets_that_cannot_be_moves_nobody():
    steps_by_offsets_that_cannot_be(importlib.import_module("veilkern.backends.triton").OPS["veil_step_"], DEVICE)


def test_tables_that_a_graph_has_captured_stay(monkeypatch):
    """Their addresses are in the graph: other tables push them out of the cache, but not out of memory."""
    backend = importlib.import_module("veilkern.backends.triton._launch")
    monkeypatch.setattr(backend, "_captured", {})
    backend._recent.cache_clear()
    capturing = False
    monkeypatch.setattr(backend, "_capturing", lambda device: capturing)

    def table(sigma):
        return backend.constant(gaussian_weights, (sigma,), DEVICE)

    kept, other = (weakref.ref(table(sigma)) for sigma in (1.0, 2.0))
    capturing = True
    assert table(1.0) is kept()
    with pytest.raises(RuntimeError, match="call this op with these arguments once before it is captured"):
        table(3.0)  # making it would wait for the device, which a capture forbids
    capturing = False
    for step in range(100):
        table(4.0 + step / 10)
    assert kept() is not None and table(1.0) is kept() and other() is None
    backend._recent.cache_clear()


# What a call launches


# Machine code
