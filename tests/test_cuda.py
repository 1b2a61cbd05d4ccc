"""The CUDA backend without a GPU: why it is absent, what it leaves to Triton, how one is tried, kinds of them."""

from __future__ import annotations

import importlib
import os

import pytest
import torch
from helpers import BACKENDS, another_order, serving
from launcher_cases import steps_by_offsets_that_cannot_be
from triton_cases import run_python

import veilkern as vk
from veilkern import ops
from veilkern.testing.compare import require_same_bits
from veilkern.testing.making import laid_out
from veilkern.testing.ops.veil_step import state
from veilkern.testing.table import TABLE

EMULATED = "cuda" in BACKENDS and not torch.cuda.is_available()
needs_kernels = pytest.mark.skipif("cuda" not in BACKENDS, reason="no CUDA kernels here: no GPU, and no `make emulate`")
needs_emulation = pytest.mark.skipif(not EMULATED, reason="no emulated CUDA kernels here: make emulate")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def module(name: str):
    return importlib.import_module(f"veilkern.backends.cuda.{name}")


def test_why_it_is_absent():
    tell = "import veilkern as vk; print({b.name: b.reason for b in vk.list_backends()}['cuda'])"
    blind = run_python(tell, CUDA_VISIBLE_DEVICES="", VEILKERN_CUDA_EMULATE="0").stdout
    assert "no GPU" in blind and "VEILKERN_CUDA_EMULATE=1" in blind
    unbuilt = "import sys; sys.modules['veilkern_cuda_emulated'] = None\n" + tell
    assert "make emulate" in run_python(unbuilt, VEILKERN_CUDA_EMULATE="1").stdout
    seeing = "import torch; torch.cuda.is_available = lambda: True\nimport sys; sys.modules['veilkern._cuda'] = None\n"
    assert "without the CUDA kernels" in run_python(seeing + tell, VEILKERN_CUDA_EMULATE="").stdout
    assert (
        "ROCm" in run_python("import torch; torch.version.hip = '6'\n" + seeing + tell, VEILKERN_CUDA_EMULATE="").stdout
    )


@needs_emulation
def test_the_cpu_is_not_served_by_the_emulation_unless_asked():
    x = torch.rand(1, 1, 4, 4)
    arguments = (x, (3, 3), 1, "consistent", None, None, True)
    select = importlib.import_module("veilkern.backends").select
    assert select("block_variance", *arguments).__module__.split(".")[2] in ("cpu", "reference")
    with vk.use_backend("cuda") as backend:
        assert backend.devices == ("cpu",) and "emulated" in backend.detail
        assert select("block_variance", *arguments).__module__ == "veilkern.backends.cuda.block_variance"


@needs_kernels
def test_what_is_left_to_triton_is_said():
    x = torch.zeros(1, 3, 8, 8, dtype=torch.uint8, device=DEVICE)
    with (
        vk.use_backend("cuda"),
        pytest.raises(vk.BackendError, match="blend: no backend serves this call .cuda: left to Triton"),
    ):
        ops.blend(x, x, torch.zeros(1, dtype=torch.int64, device=DEVICE), 51)
    wide = torch.zeros(1, 1, 300, 300, dtype=torch.float64, device=DEVICE)
    with (
        vk.use_backend("cuda"),
        pytest.raises(vk.BackendError, match="planes of 300 x 300 take .* bytes of shared memory"),
    ):
        ops.block_variance(wide)


# The trial of a device


@needs_kernels
@pytest.mark.parametrize("op", list(vk.list_backends()[0].ops))
def test_a_device_is_tried(op, monkeypatch):
    """Right values pass; wrong ones, and a kernel that does not run, are the reason to leave the op to Triton."""
    probe, launcher = module("_probe"), module(op.removesuffix("_"))
    assert probe.failure(op, DEVICE) is None
    plain = getattr(launcher, op)

    def spoilt(*arguments):
        found = plain(*arguments)
        written = found if isinstance(found, torch.Tensor) else arguments[-1]  # launchers without a result write `out`
        return written.add_(1) if found is None else found + 1e-2

    monkeypatch.setattr(launcher, op, spoilt)
    assert "wrong values on this device" in probe.failure(op, DEVICE)

    def broken(*arguments):
        raise RuntimeError("no kernel image is available for execution on the device\nmore")

    monkeypatch.setattr(launcher, op, broken)
    assert probe.failure(op, DEVICE) == "no kernel image is available for execution on the device"


@needs_kernels
def test_a_trial_is_made_once_and_never_in_a_capture(monkeypatch):
    probe = module("_probe")
    made, device = [], torch.device("cuda:0")
    monkeypatch.setattr(probe, "_results", {})
    monkeypatch.setattr(probe, "failure", lambda op, device: made.append(op))
    monkeypatch.setattr(torch.cuda, "device", lambda device: memoryview(b""))  # any context
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert "before a CUDA graph was captured" in probe._tried("ssim", device) and not made
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert probe._tried("ssim", device) is None and probe._tried("ssim", device) is None and made == ["ssim"]


# veil_step_: a cluster of blocks a person or one block; arrays in shared memory or not

WAYS = {
    "a cluster": ((9, 0), 227),
    "a cluster, too little memory": ((9, 0), 2),
    "a block": ((8, 0), 163),
    "a block, too little memory": ((8, 0), 2),
}


@needs_emulation
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("visual,block,stride", [("norm", (3, 3), 1), ("mse", (9, 2), 1), ("norm", (4, 4), 3)])
@pytest.mark.parametrize("side", [(9, 12), (17, 10), (40, 16)])
def test_a_step_on_every_kind_of_device(way, visual, block, stride, side, monkeypatch):
    launcher, (capability, kilobytes) = module("veil_step"), WAYS[way]
    monkeypatch.setattr(launcher, "capability_of", lambda device: capability)
    monkeypatch.setattr(launcher, "memory_of", lambda device: kilobytes << 10)
    entry, options = TABLE["veil_step_"], {"visual": visual, "block": block, "stride": stride, "form": "literal"}
    found = []
    for layout in ("dense", "channels_last", "crop"):
        made = state((3, 0, 6), *side, gradient_counts=(2, 1, 3), **options)
        wanted = entry.truth(made)
        made["gradients"] = laid_out(made["gradients"], layout)
        for again in range(2):
            given = made | {name: made[name].clone() for name in entry.writes}
            with serving("cuda"), another_order("cuda" if again else ""):
                found.append(entry.call(given))
        entry.require(found[-1], wanted, made)
        require_same_bits("another order of threads", found[-2], found[-1])


def misled(tensor: torch.Tensor, how: str) -> torch.Tensor:
    """The same photos, whole along their rows, but not where sixteen bytes may be read at once."""
    c, h, w = tensor.shape[1:]
    steps = {
        "address": (3 * h * w, h * w, w),
        "photos": (3 * h * w + 1, h * w, w),
        "channels": (3 * h * w + 8, h * w + 1, w),
    }
    steps |= {"rows": (3 * h * (w + 1) + c, h * (w + 1), w + 1)}
    strides = (*steps[how], 1)
    size = 1 + sum((count - 1) * step for count, step in zip(tensor.shape, strides, strict=True))
    memory = torch.zeros(size + 8, dtype=tensor.dtype, device=tensor.device)[1 if how == "address" else 0 :]
    return memory.as_strided(tensor.shape, strides, memory.storage_offset()).copy_(tensor)


@needs_kernels
@pytest.mark.parametrize("how", ["address", "photos", "channels", "rows"])
@pytest.mark.parametrize("name", ["veils", "momentum", "gradients", "images", "mean_images", "out"])
def test_strides_and_addresses_that_mislead(name, how):
    """A width that fits and rows that are whole are not enough to read several values at once."""
    entry = TABLE["block_variance_gradient" if name == "out" else "veil_step_"]
    for dtype in (torch.float32, torch.float64):
        if name == "out":
            made = {"images": torch.rand(2, 3, 6, 8, dtype=dtype), "out": torch.zeros(2, 3, 6, 8, dtype=dtype)}
        else:
            made = state((2, 3), 6, 8, dtype=dtype, mean_images=torch.rand(2, 3, 6, 8, dtype=dtype))
        wanted = entry.truth(made)
        made[name] = misled(made[name], how)
        with serving("cuda"):
            entry.require(entry.call(made), wanted, made)


@needs_emulation
def test_more_photos_than_shares_and_distances_are_summed_at_once():
    """Shares lie in shared memory by 128, distances go four at a time: more than that, and not a multiple."""
    entry = TABLE["veil_step_"]
    for counts in ((131, 1), (5, 257)):
        made = state(counts, 6, 8)
        wanted = entry.truth(made)
        with serving("cuda"):
            entry.require(entry.call(made), wanted, made)


@needs_kernels
def test_people_too_few_for_a_device_without_clusters(monkeypatch):
    launcher = module("veil_step")
    monkeypatch.setattr(launcher, "capability_of", lambda device: (8, 0))
    monkeypatch.setattr(launcher, "processors_of", lambda device: 108)
    light, heavy = torch.zeros(1), torch.zeros(1).expand(3_000_000)

    def limit(people: int, gradients: torch.Tensor = light, side: int = 1):
        veils = torch.zeros(1).expand(people, 3, side, side)
        return launcher.limit(veils, veils, gradients, light)

    assert "323 people leave some of 108 processors idle" in limit(323) and limit(324) is None
    monkeypatch.setattr(launcher, "capability_of", lambda device: (9, 0))
    assert limit(1) is None and "13 people leave most" in limit(13, heavy) and limit(14, heavy) is None
    monkeypatch.setattr(launcher, "capability_of", lambda device: (12, 0))
    monkeypatch.setattr(launcher, "memory_of", lambda device: 99 << 10)
    assert "two are to fit a processor" in limit(64, side=112) and limit(64, side=96) is None


@needs_kernels
def test_a_driver_that_is_too_old_leaves_the_op_to_triton():
    """The first question to it fails, wherever that comes."""

    def limit(*arguments):
        raise RuntimeError("shared_memory: CUDA driver version is insufficient for CUDA runtime version\nmore")

    found = module("_probe").tried_first({"ssim": limit})["ssim"](torch.zeros(1))
    assert found == "shared_memory: CUDA driver version is insufficient for CUDA runtime version"


@needs_kernels
@pytest.mark.parametrize("op", list(vk.list_backends()[0].ops))
def test_a_trial_does_not_lean_on_its_surroundings(op, monkeypatch):
    """Another default dtype, inference_mode; no memory at the moment is not kept for the device's fault."""
    probe = module("_probe")
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode():
            assert probe.failure(op, DEVICE) is None
    finally:
        torch.set_default_dtype(torch.float32)

    def full(op, device):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(probe, "_results", {})
    monkeypatch.setattr(probe, "failure", full)
    monkeypatch.setattr(torch.cuda, "device", lambda device: memoryview(b""))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert "no memory" in probe._tried(op, DEVICE) and not probe._results


@needs_kernels
def test_a_step_by_offsets_that_cannot_be_moves_nobody():
    steps_by_offsets_that_cannot_be(module("veil_step").veil_step_, DEVICE)


@needs_emulation
@pytest.mark.thorough
@pytest.mark.parametrize("scheme", ["blend", "sealed"])
def test_a_short_craft(scheme, sample_model, people, monkeypatch):
    """With the CUDA kernels first, as on a GPU: the veils of the C++ kernels, but where a sign hangs on rounding."""
    few, config = people.take([0, 1, 6]), vk.CraftConfig(seed=1, steps=3, scheme=scheme, robust="none")
    wanted = vk.craft(sample_model, few, config, progress=False)
    backends = importlib.import_module("veilkern.backends")
    served, select = set(), backends.select

    def seen(op, *arguments):
        launcher = select(op, *arguments)
        served.add(launcher.__module__.rpartition(".")[0] + "." + op)
        return launcher

    monkeypatch.setattr(backends, "_ORDER_ON", {"cpu": ("cuda", "cpu", "reference")})
    monkeypatch.setattr(backends, "select", seen)
    found = vk.craft(sample_model, few, config, progress=False)
    assert "veilkern.backends.cuda.veil_step_" in served and any(
        name.startswith("veilkern.backends.cpu.") for name in served
    )
    assert (found.bank.veils != wanted.bank.veils).float().mean() < 0.01
    for a, b in zip(found.report, wanted.report, strict=True):
        assert a["feature_distance"] == pytest.approx(b["feature_distance"], abs=1e-3)


@needs_kernels
def test_the_seed_is_back():
    """another_order leaves the variable as it was."""
    before = os.environ.get("VEILKERN_CUDA_EMULATE")
    with another_order("cuda"):
        pass
    assert os.environ.get("VEILKERN_CUDA_EMULATE") == before
