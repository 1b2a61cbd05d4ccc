"""On a GPU: the same bits as the CPU, graphs, streams, reruns, more than 2^31 values. bench/gpu.sh runs these."""

from __future__ import annotations

import pytest
import torch
from gpu_cases import data
from helpers import BACKENDS, INTERPRETED, skipping_what_cuda_leaves

import veilkern as vk
from veilkern import ops
from veilkern.crafting.batch import IdentityBatch
from veilkern.progress import Progress
from veilkern.samples import load_model, synthetic_people
from veilkern.testing.making import bytes8, laid_out, offsets_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available() or INTERPRETED, reason="no GPU here"),
]
STEP = {"a": 51, "lam": 0.04, "mu": 0.01, "step": 0.1, "decay": 1.0}
UNIT = {"mean": [0.5] * 3, "std": [0.5] * 3}


def calls(d) -> dict:
    """One call of every op, each with results of its own."""
    width = len(d["images"]) // len(d["veils"])
    hidden = ops.blend(d["images"], d["veils"], d["rows"], 51)
    sealing = d["images"], d["veils"], d["rows"], d["keys"], d["nonces"]
    sealed = ops.seal(*sealing)

    def step():
        veils, momentum = d["veils"].float() / 255, torch.zeros(d["veils"].shape, device="cuda")
        statistics = ops.veil_step_(veils, momentum, d["x"] - 0.5, d["images"], d["offsets"], **STEP)
        return veils, momentum, statistics

    def rectified(dtype=torch.float32):
        x = (d["x"] - 0.5).to(dtype).contiguous(memory_format=torch.channels_last)
        slopes = (d["y"] - 0.5).to(dtype).contiguous(memory_format=torch.channels_last)
        bits = ops.rectify_(x, d["y"][0] - 0.6, d["features"][0, :3].contiguous())
        return x, bits, ops.rectify_gradient_(slopes, bits, d["features"][0, :3].contiguous())

    return {
        "blend": lambda: (ops.blend(d["images"], d["veils"], d["rows"], 51),),
        "lossless": lambda: (ops.blend(d["images"], d["veils"], d["rows"], 51, lossless=True),),
        "recover": lambda: (ops.recover(hidden, d["veils"], d["rows"], 51),),
        "gaussian": lambda: (ops.recover(hidden, d["veils"], d["rows"], 51, gaussian_sigma=1.0),),
        "blend_normalize": lambda: (
            ops.blend_normalize(d["images"], d["y"][: len(d["veils"])], d["rows"], 51, dtype=torch.bfloat16, **UNIT),
        ),
        "seal": lambda: (ops.seal(*sealing),),
        "seal 16": lambda: (ops.seal(*sealing, lossless=True),),
        "unseal": lambda: (ops.unseal(sealed, d["veils"], d["rows"], d["keys"]),),
        "seal_normalize": lambda: (
            ops.seal_normalize(d["images"], d["y"][: len(d["veils"])], *sealing[2:], dtype=torch.bfloat16, **UNIT),
        ),
        "block_variance": lambda: ops.block_variance_gradient(d["x"]),
        "hull_distance": lambda: ops.hull_distance(d["features"], d["clean"], d["offsets"], width=width),
        "ssim": lambda: ops.ssim_gradient(d["x"], d["y"]),
        "veil_step": step,
        "rectify": rectified,
        "rectify 16": lambda: rectified(torch.bfloat16),
    }


OPS = (
    "blend",
    "lossless",
    "recover",
    "gaussian",
    "blend_normalize",
    "seal",
    "seal 16",
    "unseal",
    "seal_normalize",
    "block_variance",
    "hull_distance",
    "ssim",
    "veil_step",
    "rectify",
    "rectify 16",
)


@pytest.fixture(autouse=True, params=["triton", "cuda"])
def backend(request):
    """Each of the GPU's backends; what the CUDA kernels leave to Triton skips there."""
    if request.param not in BACKENDS:
        pytest.skip(f"no {request.param} here")
    with vk.use_backend(request.param), skipping_what_cuda_leaves():
        yield


def test_triton_is_chosen_for_tensors_on_the_gpu():
    from veilkern.backends import _asked, select

    token = _asked.set(None)
    try:
        assert select("blend", torch.zeros(1, device="cuda")).__module__ == "veilkern.backends.triton.blend"
    finally:
        _asked.reset(token)


@pytest.mark.parametrize("op", OPS)
def test_the_same_bits_again(op):
    call = calls(data())[op]
    first = [t.clone() for t in call()]
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(call(), first, strict=True))


@pytest.mark.parametrize("lossless", [False, True])
def test_protect_and_recover_are_those_of_the_cpu(lossless):
    d = data(40)
    here = [d[name].cpu() for name in ("images", "veils", "rows")]
    for a in (1, 2, 50, 51, 128, 255):
        hidden = ops.blend(d["images"], d["veils"], d["rows"], a, lossless=lossless)
        back = ops.recover(hidden, d["veils"], d["rows"], a)
        smooth = ops.recover(hidden, d["veils"], d["rows"], a, gaussian_sigma=1.0)
        with vk.use_backend("cpu"):
            wanted = ops.blend(*here, a, lossless=lossless)
            assert torch.equal(hidden.cpu(), wanted)
            assert torch.equal(back.cpu(), ops.recover(wanted, *here[1:], a))
            assert torch.equal(smooth.cpu(), ops.recover(wanted, *here[1:], a, gaussian_sigma=1.0))


@pytest.mark.parametrize("layout", ["dense", "channels_last", "crop"])
@pytest.mark.parametrize("levels,rounds", [(16, 12), (64, 20), (128, 20)])
def test_seal_and_unseal_are_those_of_the_cpu(levels, rounds, layout):
    """In place too, where every program of a photo but one needs what the first one writes over."""
    d = data(40)
    how = {"levels": levels, "rounds": rounds}
    images = laid_out(d["images"].clone(), layout)
    rest = [d[name] for name in ("veils", "rows", "keys")]
    here = [t.cpu() for t in (d["images"], *rest, d["nonces"])]
    for lossless in (False, True):
        hidden = ops.seal(images, *rest, d["nonces"], **how, lossless=lossless)
        back = ops.unseal(hidden, *rest, **how)
        with vk.use_backend("reference"):
            wanted = ops.seal(*here, **how, lossless=lossless)
            original = ops.unseal(wanted, *here[1:4], **how)
        assert torch.equal(hidden.cpu(), wanted) and torch.equal(back.cpu(), original)
        if not lossless:
            assert torch.equal(ops.unseal(hidden, *rest, **how, out=hidden).cpu(), original)
            own = laid_out(d["images"].clone(), layout)
            assert torch.equal(ops.seal(own, *rest, d["nonces"], **how, out=own).cpu(), wanted)


@pytest.mark.parametrize("op", OPS)
def test_graph_capture_and_replay(op):
    """The captured call, replayed on other data in the same place, gives what a plain call gives on that data."""
    d = data()
    call = calls(d)[op]
    call()  # compiles, and makes the tables of weights
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()
    for name in ("images", "x", "features"):
        d[name].copy_(d[name].flip(0))
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(results, call(), strict=True))


@pytest.mark.parametrize("op", OPS)
def test_on_a_side_stream(op):
    """The op waits for what its own stream does first, and for nothing else."""
    d = data()
    call = calls(d)[op]
    wanted = [t.clone() for t in call()]
    saved, stream = d["images"].clone(), torch.cuda.Stream()
    d["images"].zero_()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        d["images"].copy_(saved)
        found = call()
    stream.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("op", OPS)
def test_no_op_makes_the_host_wait(op):
    call = calls(data())[op]
    call()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU only")
@pytest.mark.parametrize("op", OPS)
def test_on_the_second_gpu(op):
    d = data()
    wanted = calls(d)[op]()
    with torch.cuda.device(1):
        found = calls(data())[op]()
    assert all(t.device.index == 1 for t in found)
    assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(found, wanted, strict=True))


def test_the_gradient_of_blend_normalize_has_the_same_bits_again():
    """Many photos a veil: atomics would add them in another order each time."""
    d = data(400, 4, 64)
    veils = (d["veils"].float() / 255).requires_grad_()
    upstream = torch.randn(400, 3, 64, 64, device="cuda")

    def gradient():
        out = ops.blend_normalize(d["images"], veils, d["rows"], 51, **UNIT)
        return torch.autograd.grad(out, veils, upstream)[0]

    first = gradient()
    assert all(torch.equal(gradient(), first) for _ in range(10))
    torch.cuda.set_sync_debug_mode("error")
    try:
        gradient()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_craft_on_the_gpu(sample_model, people):
    """The whole optimiser by the Triton kernels: as good veils as on the CPU."""
    import copy

    model = copy.deepcopy(sample_model)
    model.module.to("cuda")
    result = vk.craft(model, people, vk.CraftConfig(seed=1, steps=30), progress=False)
    with vk.use_backend("cpu"):
        other = vk.craft(sample_model, people, vk.CraftConfig(seed=1, steps=30), progress=False)
    for a, b in zip(result.report, other.report, strict=True):
        assert a["cosine"] == pytest.approx(b["cosine"], abs=0.03)


@pytest.mark.large
@pytest.mark.parametrize(
    "op",
    ["blend", "lossless", "recover", "blend_normalize", "seal", "unseal", "seal_normalize", "block_variance", "ssim"],
)
def test_more_than_2_to_31_values(op):
    """The last photos of more than 2^31 values come out as they do alone; losses, which torch adds up, nearly so."""
    side, n = 512, 2**31 // (3 * 512 * 512) + 3
    g = torch.Generator(device="cuda").manual_seed(0)
    veils = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, device="cuda", generator=g)
    rows = torch.arange(n, device="cuda") % 2
    floats = op in ("block_variance", "ssim")
    few = torch.rand(4, 3, side, side, device="cuda", generator=g)
    keys, nonces = bytes8(2, 32).cuda(), bytes8(n, 12).cuda()
    nonces[-4:] = nonces[:4]
    images = torch.empty((n, 3, side, side), dtype=torch.float32 if floats else torch.uint8, device="cuda")
    images[:4], images[-4:] = (few, few.flip(0)) if floats else ((255 * few).byte(), (255 * few.flip(0)).byte())
    call = {
        "blend": lambda i, r: ops.blend(i, veils, r, 51),
        "lossless": lambda i, r: ops.blend(i, veils, r, 51, lossless=True),
        "recover": lambda i, r: ops.recover(i, veils, r, 51),
        "blend_normalize": lambda i, r: ops.blend_normalize(i, veils / 255, r, 51, dtype=torch.bfloat16, **UNIT),
        "seal": lambda i, r: ops.seal(i, veils, r, keys, nonces[: len(i)]),
        "unseal": lambda i, r: ops.unseal(i, veils, r, keys),
        "seal_normalize": lambda i, r: ops.seal_normalize(
            i, veils / 255, r, keys, nonces[: len(i)], dtype=torch.bfloat16, **UNIT
        ),
        "block_variance": lambda i, r: ops.block_variance(i),
        "ssim": lambda i, r: ops.ssim(i, few[:1].expand_as(i)),
    }[op]
    if not floats:
        images[4:-4] = 7
    else:
        images[4:-4] = 0.5
    found = call(images, rows)
    for part in (slice(0, 4), slice(n - 4, n)):
        alone = call(images[part].clone(), rows[part].clone())
        torch.testing.assert_close(found[part], alone, rtol=1e-5 if floats else 0, atol=0)


@pytest.mark.large
def test_more_than_2_to_31_values_of_a_step():
    """The second person's only gradient lies beyond the 2^31st value."""
    n = 2**31 // (3 * 112 * 112) + 30
    g = torch.Generator(device="cuda").manual_seed(0)
    one = torch.randn(1, 3, 112, 112, device="cuda", generator=g)
    gradients = one.expand(n, -1, -1, -1).contiguous()
    gradients[-1] *= -1
    images = torch.randint(0, 256, (2, 3, 112, 112), dtype=torch.uint8, device="cuda", generator=g)
    veils, momentum = torch.rand(2, 3, 112, 112, device="cuda", generator=g), torch.zeros(2, 3, 112, 112, device="cuda")
    alone, own = veils[1:].clone(), momentum[1:].clone()
    marks = [offsets_of(counts).cuda() for counts in ((1, 1), (n - 1, 1), (1,))]
    ops.veil_step_(veils, momentum, gradients, images, marks[0], gradient_offsets=marks[1], **STEP)
    ops.veil_step_(alone, own, gradients[-1:], images[1:], marks[2], **STEP)
    assert torch.equal(veils[1:], alone) and torch.equal(momentum[1:], own)


@pytest.mark.large
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_more_than_2_to_31_values_rectified(dtype):
    """The last photos come out as they do alone, and so does a photo of more than 2^31 values, row by row."""
    n, size = 2**31 // (64 * 112 * 112) + 3, (64, 112, 112)
    slope = torch.linspace(-0.2, 0.5, 64, device="cuda")
    x = torch.randn(n * 112, 112, 64, dtype=dtype, device="cuda")
    first, last = (x[k : k + 112].clone().view(1, 112, 112, 64).permute(0, 3, 1, 2) for k in (0, len(x) - 112))
    alone = [ops.rectify_(part, slope=slope) for part in (first, last)]
    whole = x.clone()
    bits = ops.rectify_(whole.view(n, 112, 112, 64).permute(0, 3, 1, 2), slope=slope)
    one = ops.rectify_(x.view(1, -1, 112, 64).permute(0, 3, 1, 2), slope=slope)
    assert torch.equal(bits[:1], alone[0]) and torch.equal(bits[-1:], alone[1]) and torch.equal(one[0], bits.flatten())
    assert torch.equal(whole[-112:].view(1, *size[1:], 64).permute(0, 3, 1, 2), last) and torch.equal(whole, x)


def craft_batch(people, look=4):
    """A batch of persons on the GPU, 9 steps, on a network that computes in float32."""
    model = load_model()
    model.module.cuda()
    config = vk.CraftConfig(steps=9, subspace="convex", photos_per_step=3, patience=2)
    return IdentityBatch(model, people, config, b"sixteen bytes at least", [0] * len(people), 16, look)


def test_a_craft_step_does_not_wait(monkeypatch):
    """What tests/test_craft_device.py shows on a device without values, with the driver's own watch."""
    people = synthetic_people(3, 4, seed=1)
    list(craft_batch(people).run(Progress(27, None)))  # compiles, and makes the tables that are kept
    batch = craft_batch(people)
    monkeypatch.setattr(batch, "_finish", lambda *_: iter(()))
    step, steps = batch._step, []

    def watched(*arguments):
        torch.cuda.set_sync_debug_mode("error")
        try:
            step(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        steps.append(arguments[0])

    monkeypatch.setattr(batch, "_step", watched)
    list(batch.run(Progress(27, None)))
    assert steps == list(range(9))


def test_a_craft_has_the_same_bits_again_whenever_the_host_looks():
    people = synthetic_people(3, 4, seed=1)
    first, *others = (list(craft_batch(people, look).run(Progress(27, None))) for look in (1, 1, 4, 9))
    veils = {record["name"]: veil for record, veil in first}
    for other in others:
        assert len(other) == 3 and all(torch.equal(veil, veils[record["name"]]) for record, veil in other)
