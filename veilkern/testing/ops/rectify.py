"""rectify_ and rectify_gradient_ in the table."""

from __future__ import annotations

import functools
import itertools
import math

import torch

from veilkern import reference
from veilkern.testing.compare import Arguments, require_near
from veilkern.testing.entry import Bad, Entry, KernelCall, Results, Sample, Size, Workload
from veilkern.testing.making import normal, on, uniform

HALVES = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}
WAYS = ("relu", "relu6", "prelu", "prelu1", "bias", "map")


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def values(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Random numbers, photos in channels_last."""
    made = normal(*shape, seed=seed, dtype=dtype)
    return made.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else made


def forth(*shape: int, way: str = "prelu", dtype: torch.dtype = torch.float32) -> Arguments:
    """The arguments of rectify_: relu, relu6 (of twice its numbers), prelu, prelu1, and both with a bias or a map."""
    channels, kind = shape[1], _exact(dtype)
    made: Arguments = {"x": values(*shape, dtype=dtype) * (6 if way == "relu6" else 1)}
    if way == "relu6":
        made["top"] = 6.0
    if way in ("prelu", "prelu1", "bias", "map"):
        made["slope"] = uniform(1 if way == "prelu1" else channels, seed=1, dtype=kind) - 0.2
    if way in ("bias", "map"):
        made["add"] = normal(*(shape[1:] if way == "map" else (channels,)), seed=2, dtype=kind)
    return made


def back(*shape: int, way: str = "prelu", dtype: torch.dtype = torch.float32) -> Arguments:
    """The arguments of rectify_gradient_, with the bits of random numbers."""
    given = forth(*shape, way=way, dtype=dtype)
    bits = reference.rectify_(**given) if given["x"].numel() else _no_bits(shape)
    made: Arguments = {"gradient": values(*shape, dtype=dtype, seed=3), "bits": bits}
    return made | ({"slope": given["slope"]} if "slope" in given else {})


def _no_bits(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.zeros(shape[0], (math.prod(shape[1:]) + 7) // 8, dtype=torch.uint8)


def agree(found: Results, wanted: Results, made: Arguments) -> None:
    """Values are rounded once from the reference's; bits are its own but where z is within rounding of the top."""
    (bits, x), (true_bits, true_x) = found, wanted
    eps = HALVES[x.dtype]
    require_near("x", x, true_x, eps * (1 + true_x.abs()) * 4)
    if "top" not in made:
        require_near("bits", bits, true_bits)
        return
    near = int(((true_x - made["top"]).abs() < 16 * eps * made["top"]).sum())
    if int((bits != true_bits).sum()) > near:
        raise AssertionError("bits differ from the reference's away from the top")


def agree_back(found: Results, wanted: Results, made: Arguments) -> None:
    """Slopes are rounded once."""
    require_near("gradient", found[0], wanted[0], HALVES[found[0].dtype] * (1 + wanted[0].abs()) * 4)


def _extreme(make, name: str, way: str) -> Arguments:
    made = make(2, 3, 4, 5, way=way)
    flat = made[name].permute(0, 2, 3, 1).reshape(-1)  # a view: it lies in channels_last
    flat[:8] = torch.tensor([0.0, -0.0, math.nan, math.inf, -math.inf, 1e-45, -1e-45, 6.0])
    return made


SHAPES = ((2, 3, 5, 7), (3, 16, 4, 4), (2, 24, 9, 5), (1, 1, 3, 3), (4, 5), (2, 512))


def _samples(make, name: str) -> tuple[Sample, ...]:
    return (
        *(Sample("ordinary", way, lambda w=way: make(2, 16, 6, 6, way=w), traced=way in ("relu", "map"))
          for way in WAYS),
        *(Sample("ordinary", str(d)[6:], lambda d=d: make(2, 16, 6, 6, way="bias", dtype=d)) for d in HALVES),
        *(
            Sample("odd", f"{shape}, {way}", lambda s=shape, w=way: make(*s, way=w))
            for shape, way in itertools.product(SHAPES, ("relu6", "prelu"))
        ),
        Sample("empty", "no photos", lambda: make(0, 4, 3, 3)),
        Sample("empty", "no pixels", lambda: make(2, 4, 0, 3)),
        Sample("one", "value", lambda: make(1, 1)),
        Sample("one", "photo", lambda: make(1, 8, 5, 5)),
        Sample("channels_last", "", lambda: make(2, 12, 7, 3, way="map" if make is forth else "prelu")),
        *(Sample("extreme", f"zeros, NaN, infinities, {w}", lambda w=w: _extreme(make, name, w))
          for w in ("relu", "relu6", "prelu")),
        Sample("many", "", lambda: make(5, 64, 40, 40), light=False),
        Sample("many", "channels that fill no register", lambda: make(7, 7, 90, 90), light=False),
    )  # fmt: skip


NCHW = torch.zeros(2, 16, 6, 6)
SHARED = (
    Bad({"slope": torch.zeros(16, dtype=torch.float64)}, TypeError, r"slope must be float32 \[C\]"),
    Bad({"slope": torch.zeros(5)}, ValueError, r"slope must be \[1\] or \[16\], got \[5\]"),
)
BAD = (
    Bad({"x": torch.zeros(2, 16, 6, 6, dtype=torch.uint8)}, TypeError, "x must be float32 or float64 or bfloat16"),
    Bad({"x": NCHW}, ValueError, r"x must be channels_last \[2, 16, 6, 6\], got strides"),
    Bad({"x": torch.zeros(5, 16).t()}, ValueError, "x must be contiguous"),
    Bad({"x": torch.zeros(2, 16, 6)}, ValueError, r"x must be .* \[N, C, H, W\], got \[2, 16, 6\]"),
    Bad({"add": torch.zeros(3)}, ValueError, r"add must be \[16\] or \[16, 6, 6\], got \[3\]"),
    Bad({"add": torch.zeros(16).double()}, TypeError, r"add must be float32 \[C\]"),
    Bad({"top": 0.0}, ValueError, "top must be positive and finite, got 0"),
    Bad({"top": "6"}, TypeError, "top must be a number, got '6'"),
    Bad({"top": 6.0, "slope": torch.zeros(16)}, ValueError, "top must be None where there is a slope"),
    Bad({"add": lambda good: good["x"][0]}, ValueError, "x must not overlap add"),
    *SHARED,
)
BAD_BACK = (
    Bad({"gradient": NCHW}, ValueError, r"gradient must be channels_last \[2, 16, 6, 6\], got strides"),
    Bad({"bits": torch.zeros(2, 71, dtype=torch.uint8)}, ValueError, r"bits must be \[2, 72\], as rectify_ returns"),
    Bad({"bits": torch.zeros(2, 72)}, TypeError, r"bits must be uint8 \[N, K\]"),
    *SHARED,
)


def registered(made: Arguments) -> list[tuple[str, tuple]]:
    """The torch op of a call."""
    return [("rectify_", (made["x"], made.get("add"), made.get("slope"), made.get("top")))]


def registered_back(made: Arguments) -> list[tuple[str, tuple]]:
    """The torch op of a call."""
    return [("rectify_gradient_", (made["gradient"], made["bits"], made.get("slope")))]


def _sizes(make):
    def sizes(on_gpu: bool) -> tuple[Size, ...]:
        shape = (256, 64, 112, 112) if on_gpu else (16, 64, 56, 56)
        moved = math.prod(shape) * 8 + math.prod(shape) // 8
        words = f"{shape[0]} photos of {' x '.join(map(str, shape[1:]))} f32, PReLU with a bias"
        return (Size(words, lambda device: on(device, make(*shape, way="bias")), moved),)

    return sizes


def _kernel(make, work: Workload, dtype: torch.dtype, way: str) -> Arguments:
    return make(len(work.images), 3, *work.images.shape[2:], way=way, dtype=dtype)


def _calls(make, ways: dict[str, str]) -> tuple[KernelCall, ...]:
    kinds = {"f32": torch.float32, "bf16": torch.bfloat16, "f64": torch.float64}
    launches = {"f32": "f32", "bf16": "f16", "f64": "f64"} if make is forth else dict.fromkeys(kinds, "")
    return tuple(
        KernelCall(case, launches[case], functools.partial(_kernel, make, dtype=dtype, way=ways[case]))
        for case, dtype in kinds.items()
    )


MISSING = {"ragged": "no persons", "strided": "values must lie in one piece"}
ENTRIES = (
    Entry(
        "rectify_", "rectify_", reference.rectify_, _samples(forth, "x"), BAD, registered, writes=("x",),
        missing=MISSING, agree=agree, sizes=_sizes(forth),
        calls=_calls(forth, {"f32": "map", "bf16": "bias", "f64": "relu6"}),
    ),
    Entry(
        "rectify_gradient_", "rectify_", reference.rectify_gradient_, _samples(back, "gradient"), BAD_BACK,
        registered_back, writes=("gradient",), missing=MISSING, agree=agree_back, sizes=_sizes(back),
        calls=_calls(back, {"f32": "bias", "bf16": "prelu1", "f64": "relu"}),
    ),
)  # fmt: skip
