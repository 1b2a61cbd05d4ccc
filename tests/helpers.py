"""What the tests of the ops share: backends, instruction sets, tolerances, odd inputs, torch's own checks."""

from __future__ import annotations

import contextlib
import functools
import os

import bounds
import pytest
import torch
from hypothesis import strategies as st

import veilkern as vk
from veilkern import ops
from veilkern.backends import list_backends

BACKENDS = [b.name for b in list_backends() if b.available]
ISAS = ("baseline", "avx2", "avx512")
PATHS = ("reference", *ISAS, "triton")
native = pytest.mark.skipif(
    "cpu" not in BACKENDS and not os.environ.get("VEILKERN_REQUIRE_NATIVE"), reason="the C++ module is not built"
)
large = pytest.mark.skipif(not os.environ.get("VEILKERN_LARGE"), reason="VEILKERN_LARGE is not set: needs 18 GiB")
MANY = 2**31 // (3 * 112 * 112) + 30  # photos of 3 x 112 x 112: a few more than 2^31 values
# Largest difference to the float64 reference, as a part of the largest value there.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 2e-5}


SLOW = bool(os.environ.get("VEILKERN_SLOW"))
INTERPRETED = "triton" in BACKENDS and os.environ.get("TRITON_INTERPRET") == "1"


def round_as_a_gpu_does() -> None:
    """Triton's interpreter cuts float32 off to bfloat16 where a GPU rounds to nearest: it rounds from here on."""
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle, tl

    plain = InterpreterBuilder.cast_impl

    def cast(self, source, kind):
        if source.dtype.scalar == tl.float32 and kind.scalar == tl.bfloat16:
            rounded = torch.from_numpy(source.data).to(torch.bfloat16).view(torch.uint16)
            return TensorHandle(rounded.numpy(), kind.scalar)
        return plain(self, source, kind)

    InterpreterBuilder.cast_impl = cast


if INTERPRETED:
    round_as_a_gpu_does()
    bounds.install()


def interpreted(path: str) -> bool:
    """Whether a test should take less here: Triton's interpreter needs minutes for what a GPU does at once. Not where
    VEILKERN_SLOW is set."""
    return path == "triton" and INTERPRETED and not SLOW


def isas() -> list[str]:
    """The instruction sets of this processor, none without the C++ module."""
    if "cpu" not in BACKENDS:
        return []
    from veilkern import _cpu

    return list(ISAS[: ISAS.index(_cpu.best_isa()) + 1])


@contextlib.contextmanager
def serving(path: str):
    """Every op by the reference, by the C++ kernels limited to an instruction set, or by Triton: on a GPU where there
    is one, else in its interpreter."""
    if path == "reference":
        with vk.use_backend("reference"):
            yield
        return
    if path == "triton":
        with vk.use_backend("triton") as backend, on_gpu() if "cuda" in backend.devices else contextlib.nullcontext():
            yield
        return
    from veilkern import _cpu

    _cpu.set_isa(path)
    try:
        with vk.use_backend("cpu"):
            yield
    finally:
        _cpu.set_isa(_cpu.best_isa())


@contextlib.contextmanager
def on_gpu():
    """Every op of `ops` takes tensors on the CPU and runs on the GPU: same strides there, results back on the CPU."""
    before = {name: getattr(ops, name) for name in ops.__all__}
    for name, op in before.items():
        setattr(ops, name, functools.partial(_call_on_gpu, op))
    try:
        yield
    finally:
        for name, op in before.items():
            setattr(ops, name, op)


def _call_on_gpu(op, *arguments, device="cuda", **options):
    storages: dict[int, torch.UntypedStorage] = {}
    moved: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def there(value):
        if not isinstance(value, torch.Tensor):
            return value
        if value.requires_grad:
            return value.to(device)
        storage = value.untyped_storage()
        if storage.data_ptr() not in storages:
            storages[storage.data_ptr()] = storage.to(device=torch.device(device))
        copy = torch.empty(0, dtype=value.dtype, device=device)
        copy.set_(storages[storage.data_ptr()], value.storage_offset(), value.shape, value.stride())
        moved[id(value)] = (value, copy)
        return copy

    found = op(*(there(a) for a in arguments), **{name: there(value) for name, value in options.items()})
    changed = [options.get("out"), *(arguments[:2] if op.__name__ == "veil_step_" else ())]
    for value in changed:
        if value is not None:
            value.copy_(moved[id(value)][1])
    given = {id(copy): value for value, copy in moved.values()}

    def back(value):
        return given.get(id(value), value.cpu()) if isinstance(value, torch.Tensor) else value

    return tuple(back(v) for v in found) if isinstance(found, tuple) else back(found)


@contextlib.contextmanager
def threads(count: int):
    """With this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def assert_near(
    found: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype, factor: float = 1.0, least: float = 1e-3
) -> None:
    """found (of dtype) is the float64 `wanted` up to TOLERANCES of its largest value (or of `least`), times factor."""
    assert found.dtype == dtype and found.shape == wanted.shape, (found.dtype, found.shape, wanted.shape)
    size = float(wanted.abs().max()) if wanted.numel() else 0.0
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=factor * TOLERANCES[dtype] * max(size, least))


def assert_same_bits_everywhere(call) -> None:
    """call() -> tensors: the same bits for each instruction set, number of threads and repetition."""
    results = []
    for isa in isas():
        with serving(isa):
            for count in (1, 2, 3, 8):
                with threads(count):
                    results.append(call())
            results.append(call())
    for result in results[1:]:
        for a, b in zip(results[0], result, strict=True):
            assert torch.equal(torch.nan_to_num(a, nan=12345.0), torch.nan_to_num(b, nan=12345.0))


def opcheck(name: str, arguments: tuple, *, dynamic: bool = True) -> None:
    """torch's own checks of an op's schema, fake, autograd registration and tracing."""
    checks = ["test_schema", "test_faketensor", "test_autograd_registration"]
    if dynamic:
        checks.append("test_aot_dispatch_dynamic")
    torch.library.opcheck(getattr(torch.ops.veilkern, name), arguments, test_utils=checks)


def gradcheck(path: str, call, inputs, **options) -> bool:
    """torch's gradcheck; along random directions where the interpreter would need minutes for every entry."""
    return torch.autograd.gradcheck(call, inputs, fast_mode=path == "triton" and INTERPRETED, **options)


def every_pair() -> tuple[torch.Tensor, torch.Tensor]:
    """All 65536 (x, v), three times, as two photos of 3 x 256 x 256."""
    x, v = torch.meshgrid(torch.arange(256, dtype=torch.uint8), torch.arange(256, dtype=torch.uint8), indexing="ij")
    return x.expand(1, 3, 256, 256).contiguous(), v.expand(1, 3, 256, 256).contiguous()


def batch(n=5, people=3, side=13, seed=0):
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=g),
        torch.randint(0, 256, (people, 3, side, side), dtype=torch.uint8, generator=g),
        torch.randint(0, people, (n,), generator=g),
    )


def offsets_of(counts) -> torch.Tensor:
    """Prefix sums of photo counts."""
    return torch.tensor([0, *counts], dtype=torch.int64).cumsum(0)


def person_of(counts) -> torch.Tensor:
    """The person of each photo."""
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(list(counts), dtype=torch.int64))


LAYOUTS = ("dense", "channels_last", "crop", "every_other", "transposed", "reversed_order")


def laid_out(values: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values [N, C, H, W] in another place in memory."""
    n, c, h, w = values.shape
    if layout == "channels_last":
        return values.contiguous(memory_format=torch.channels_last)
    if layout == "crop":
        room = values.new_zeros((n, c, h + 3, w + 5))
        view = room[:, :, 2 : h + 2, 1 : w + 1]
    elif layout == "every_other":
        view = values.new_zeros((2 * n, c, h, w))[::2]
    elif layout == "transposed":
        view = values.new_zeros((n, c, w, h)).transpose(2, 3)
    elif layout == "reversed_order":
        view = values.new_zeros((c, n, h, w)).transpose(0, 1)
    else:
        return values.contiguous()
    return view.copy_(values)


layouts = st.sampled_from(LAYOUTS)
counts_with_empty = st.lists(st.integers(0, 5), min_size=1, max_size=5)
