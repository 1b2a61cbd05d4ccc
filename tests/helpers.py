"""What the tests of the ops share: backends, instruction sets, tolerances, odd inputs, torch's own checks."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os

import bounds
import pytest
import torch
from hypothesis import strategies as st

import veilkern as vk
from veilkern import backends, ops
from veilkern.backends import list_backends
from veilkern.testing.compare import EVERY_OP, Tolerance, require_near, require_same_bits
from veilkern.testing.making import LAYOUTS, mixed_photos
from veilkern.testing.table import TABLE

BACKENDS = [b.name for b in list_backends() if b.available]
ISAS = ("baseline", "avx2", "avx512")
PATHS = ("reference", *ISAS, "triton", "cuda")
native = pytest.mark.skipif(
    "cpu" not in BACKENDS and not os.environ.get("VEILKERN_REQUIRE_NATIVE"), reason="the C++ module is not built"
)
large = pytest.mark.skipif(not os.environ.get("VEILKERN_LARGE"), reason="VEILKERN_LARGE is not set: needs 18 GiB")
MANY = 2**31 // (3 * 112 * 112) + 30  # photos of 3 x 112 x 112: a few more than 2^31 values
SLOW = bool(os.environ.get("VEILKERN_SLOW"))
SANITIZED = "VEILKERN_SANITIZED" in os.environ  # make sanitize: what counts is each access, not the figures
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


def interpreted(path: str, *, unless: str = "VEILKERN_SLOW") -> bool:
    """Whether a test should take less here: Triton's interpreter needs minutes for what a GPU does at once. Not where
    `unless` is set."""
    return path == "triton" and INTERPRETED and not os.environ.get(unless)


def isas() -> list[str]:
    """The instruction sets of this processor, none without the C++ module."""
    if "cpu" not in BACKENDS:
        return []
    from veilkern import _cpu

    return list(ISAS[: ISAS.index(_cpu.best_isa()) + 1])


@contextlib.contextmanager
def serving(path: str):
    """Every op by the reference, by the C++ kernels limited to an instruction set, by Triton or by the CUDA kernels: on
    a GPU where there is one, else in Triton's interpreter and the emulation."""
    if path == "reference":
        with vk.use_backend("reference"):
            yield
        return
    if path in ("triton", "cuda"):
        with vk.use_backend(path) as backend, on_gpu() if "cuda" in backend.devices else contextlib.nullcontext():
            yield
        return
    from veilkern import _cpu

    _cpu.set_isa(path)
    try:
        with vk.use_backend("cpu"):
            yield
    finally:
        _cpu.set_isa(_cpu.best_isa())


def by_cuda(stem: str) -> bool:
    """Whether an op, or what a test file is called after, has a CUDA kernel."""
    return any(op.removesuffix("_") == stem for op in backends._load("cuda").ops)


@contextlib.contextmanager
def another_order(path: str):
    """The emulated CUDA kernels with their threads, blocks and clusters in another order, and other garbage in shared
    memory: what lacks a barrier, or reads what nobody wrote, gives other bits then."""
    before = os.environ.get("VEILKERN_CUDA_EMULATE")
    if path == "cuda" and before:
        os.environ["VEILKERN_CUDA_EMULATE"] = str(int(before) + 6)
    try:
        yield
    finally:
        if before:
            os.environ["VEILKERN_CUDA_EMULATE"] = before


@contextlib.contextmanager
def skipping_what_cuda_leaves():
    """Calls that the CUDA kernels leave to Triton (too large, another window) skip the test, with the reason."""
    plain = backends.select

    def select(op, *arguments):
        if backends.choice()[0] == "cuda" and (reason := backends._load("cuda").supports(op, *arguments)):
            pytest.skip(f"left to Triton: {reason}")
        return plain(op, *arguments)

    backends.select = select
    try:
        yield
    finally:
        backends.select = plain


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
    given_by_name = inspect.signature(op).bind(*arguments, **options).arguments
    for value in (given_by_name.get(name) for name in TABLE[op.__name__].writes):
        if value is not None:
            value.copy_(moved[id(value)][1])
    given = {id(copy): value for value, copy in moved.values()}

    def back(value):
        return given.get(id(value), value.cpu()) if isinstance(value, torch.Tensor) else value

    return tuple(back(v) for v in found) if isinstance(found, tuple) else back(found)


def not_followed(x: torch.Tensor) -> None:
    """A branch, which torch.fx cannot follow: the engine leaves the module as it is, and each call runs its Python."""
    assert x.numel() >= 0


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
    """found (of dtype) is the float64 `wanted` up to EVERY_OP of its largest value (or of `least`), times factor."""
    assert found.dtype == dtype and found.shape == wanted.shape, (found.dtype, found.shape, wanted.shape)
    bound = Tolerance(largest=factor * EVERY_OP[dtype].largest, least=least).bound(wanted)
    require_near("found", found, wanted, bound)


def assert_same_bits_everywhere(call) -> None:
    """call() -> tensors: the same bits for each instruction set, number of threads and repetition."""
    results = []
    for isa in isas():
        with serving(isa):
            for count in (3,) if SANITIZED else (1, 2, 3, 8):
                with threads(count):
                    results.append(call())
            if not SANITIZED:
                results.append(call())
    for result in results[1:]:
        require_same_bits("another instruction set, number of threads or run", result, results[0])


def opcheck(name: str, arguments: tuple, *, dynamic: bool = True) -> None:
    """torch's own checks of an op's schema, fake, autograd registration and tracing."""
    checks = ["test_schema", "test_faketensor", "test_autograd_registration"]
    if dynamic:
        checks.append("test_aot_dispatch_dynamic")
    torch.library.opcheck(getattr(torch.ops.veilkern, name), arguments, test_utils=checks)


def gradcheck(path: str, call, inputs, **options) -> bool:
    """torch's gradcheck, a hundred times as strict as it is by itself; along random directions where the interpreter
    would need minutes for every entry."""
    fast = path == "triton" and INTERPRETED
    return torch.autograd.gradcheck(call, inputs, fast_mode=fast, **{"rtol": 1e-5, "atol": 1e-7} | options)


def every_pair() -> tuple[torch.Tensor, torch.Tensor]:
    """All 65536 (x, v), three times, as two photos of 3 x 256 x 256."""
    x, v = torch.meshgrid(torch.arange(256, dtype=torch.uint8), torch.arange(256, dtype=torch.uint8), indexing="ij")
    return x.expand(1, 3, 256, 256).contiguous(), v.expand(1, 3, 256, 256).contiguous()


def batch(n=5, people=3, side=13, seed=0):
    """images, veils, rows: photos of mixed people."""
    made = mixed_photos(n, people, side, side, seed=seed)
    return made["images"], made["veils"], made["rows"]


def person_of(counts) -> torch.Tensor:
    """The person of each photo."""
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(list(counts), dtype=torch.int64))


layouts = st.sampled_from(LAYOUTS)
counts_with_empty = st.lists(st.integers(0, 5), min_size=1, max_size=5)
