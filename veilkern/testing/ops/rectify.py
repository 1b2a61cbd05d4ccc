"""rectify_ and rectify_gradient_ in the table."""

from __future__ import annotations

import functools
import itertools
import math

import torch

from veilkern import reference
from veilkern.testing.compare import Arguments, require_near, require_same_bits
from veilkern.testing.entry import Bad, Entry, KernelCall, Results, Sample, Size, Workload
from veilkern.testing.making import normal, on, uniform

EPSILON = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}
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
    """The bits of the reference in the dtype of the call: a sum, then a product, each rounded once, can differ nowhere.
    And near those of the reference in float64."""
    x = made["x"].clone()
    require_same_bits("the reference in the dtype of x", found, (reference.rectify_(**made | {"x": x}), x))
    (bits, _), (true_bits, true_x) = found, wanted
    eps = EPSILON[x.dtype]
    require_near("x", x, true_x, eps * (1 + true_x.abs()) * 4)
    near = torch.zeros((), dtype=torch.bool)  # where z is within rounding of a side, its bit may be another
    if "top" in made:
        near = (true_x - made["top"]).abs() < 16 * eps * made["top"]
    if "add" in made:
        near = near | (true_x.abs() < 16 * eps * (1 + made["add"].abs().max()))
    if int((bits != true_bits).sum()) > int(near.sum()):
        raise AssertionError("bits differ from those in float64 away from 0 and the top")


def agree_back(found: Results, wanted: Results, made: Arguments) -> None:
    """The bits of the reference in the dtype of the call, near those in float64."""
    gradient = made["gradient"].clone()
    reference.rectify_gradient_(**made | {"gradient": gradient})
    require_same_bits("the reference in the dtype of gradient", found, (gradient, gradient))
    require_near("gradient", gradient, wanted[0], EPSILON[gradient.dtype] * (1 + wanted[0].abs()) * 4)


def _extreme(make, name: str, way: str) -> Arguments:
    made = make(2, 3, 4, 5, way=way)
    flat = made[name].permute(0, 2, 3, 1).reshape(-1)  # a view: it lies in channels_last
    flat[:8] = torch.tensor([0.0, -0.0, math.nan, math.inf, -math.inf, 1e-45, -1e-45, 6.0])
    return made


def _apart(make, name: str) -> Arguments:
    """All that need not lie in one piece: every other number of the slope, a map as torch makes it, bits by columns."""
    made = make(2, 24, 9, 5, way="map")
    made["slope"] = made["slope"].repeat_interleave(2)[::2]
    if "bits" in made:
        made["bits"] = made["bits"].t().contiguous().t()
    if "add" in made:
        made["add"] = made["add"].transpose(1, 2).contiguous().transpose(1, 2)
    return made


def _no_step(make, name: str) -> Arguments:
    """A slope of one number in all places, a bias that begins within its memory."""
    made = make(2, 24, 9, 5, way="bias") | {"slope": torch.full((1,), 0.25).expand(24)}
    return made | ({"add": normal(25, seed=2)[1:]} if "add" in made else {})


def _plain(make, name: str) -> Arguments:
    """No photos, in torch's usual order: that of no values is as good as any."""
    made = make(0, 4, 3, 3)
    return made | {name: torch.zeros(0, 4, 3, 3)}


SHAPES = ((2, 3, 5, 7), (3, 16, 4, 4), (2, 24, 9, 5), (1, 1, 3, 3), (4, 5), (2, 512))


def _samples(make, name: str) -> tuple[Sample, ...]:
    return (
        *(Sample("ordinary", way, lambda w=way: make(2, 16, 6, 6, way=w), traced=way in ("relu", "map"))
          for way in WAYS),
        *(Sample("ordinary", str(d)[6:], lambda d=d: make(2, 16, 6, 6, way="bias", dtype=d)) for d in EPSILON),
        *(
            Sample("odd", f"{shape}, {way}", lambda s=shape, w=way: make(*s, way=w))
            for shape, way in itertools.product(SHAPES, ("relu6", "prelu"))
        ),
        Sample("empty", "no photos", lambda: make(0, 4, 3, 3)),
        Sample("empty", "no pixels", lambda: make(2, 4, 0, 3)),
        Sample("empty", "no photos, in the usual order", lambda: _plain(make, name)),
        Sample("strided", "all but the values", lambda: _apart(make, name)),
        Sample("strided", "slope without a step", lambda: _no_step(make, name)),
        Sample("one", "value", lambda: make(1, 1)),
        Sample("one", "photo", lambda: make(1, 8, 5, 5)),
        Sample("channels_last", "", lambda: make(2, 12, 7, 3, way="map" if make is forth else "prelu")),
        *(Sample("extreme", f"zeros, NaN, infinities, {w}", lambda w=w: _extreme(make, name, w))
          for w in ("relu", "relu6", "prelu")),
        *(Sample("many", way, lambda w=way: make(5, 64, 40, 40, way=w), light=False) for way in WAYS),
        Sample("many", "f64", lambda: make(5, 20, 40, 40, way="map", dtype=torch.float64), light=False),
        Sample("many", "more features than a part has", lambda: make(3, 70_003, way="bias"), light=False),
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
    Bad({"top": 0.0}, ValueError, "top must be positive and finite, also as float32, got 0"),
    Bad({"top": 1e39}, ValueError, "top must be positive and finite, also as float32, got 1e"),
    Bad({"top": math.nan}, ValueError, "top must be positive and finite"),
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
    """As many values as the photos have, in 48 channels, as activations of a network lie."""
    height, width = (max(side // 4, 1) for side in work.images.shape[2:])
    return make(len(work.images), 48, height, width, way=way, dtype=dtype)


def _calls(make, ways: dict[str, str]) -> tuple[KernelCall, ...]:
    kinds = {"f32": torch.float32, "bf16": torch.bfloat16, "f64": torch.float64}
    launches = {"f32": "f32", "bf16": "f16", "f64": "f64"} if make is forth else dict.fromkeys(kinds, "")
    return tuple(
        KernelCall(case, launches[case], functools.partial(_kernel, make, dtype=dtype, way=ways[case]))
        for case, dtype in kinds.items()
    )


MISSING = {"ragged": "no persons"}
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
