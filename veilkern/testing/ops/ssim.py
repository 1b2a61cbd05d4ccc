"""ssim and ssim_gradient in the table."""

from __future__ import annotations

import itertools

import torch

from veilkern import reference
from veilkern.testing.compare import EVERY_OP, Arguments, Tolerance
from veilkern.testing.entry import Bad, Entry, KernelCall, Sample, Size, Workload
from veilkern.testing.making import SIDE, laid_out, normal, on, uniform

# Single precision: the gradients divide by a variance that may be near zero, against C2 = 9e-4.
WITH_GRADIENTS = {
    torch.float64: (EVERY_OP[torch.float64], *[Tolerance(largest=1e-9)] * 2),
    torch.float32: (EVERY_OP[torch.float32], *[Tolerance(largest=1e-3)] * 2),
}
SIDES = (((11, 11), 11), ((12, 27), 11), ((40, 33), 7), ((16, 16), 1), ((9, 50), 3))


def _pair(n=2, c=3, h=14, w=15, *, dtype=torch.float32, layout="dense", y_layout="dense", **options) -> Arguments:
    x = uniform(n, c, h, w, dtype=torch.float64)
    y = (x + 0.2 * uniform(n, c, h, w, dtype=torch.float64, seed=1)).clamp(0, 1)
    return {"x": laid_out(x.to(dtype), layout), "y": laid_out(y.to(dtype), y_layout)} | options


def _equal() -> Arguments:
    made = _pair()
    return made | {"y": made["x"]}


def _flat(x: float, y: float) -> Arguments:
    return {"x": torch.full((1, 1, 12, 13), x), "y": torch.full((1, 1, 12, 13), y)}


def _bright() -> Arguments:
    made = _pair(dtype=torch.float64, data_range=255)
    return made | {"x": 255 * made["x"], "y": 255 * made["y"]}


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _odd_sides(scaled: bool) -> tuple[Sample, ...]:
    """Windows as large as the photo, of one pixel, and in between; for the gradient with a scale."""
    return tuple(
        Sample(
            "odd", f"{h} x {w}, window {window}, {borders}, {_short(dtype)}",
            lambda h=h, w=w, window=window, borders=borders, dtype=dtype: _pair(
                2, 3, h, w, window=window, borders=borders, dtype=dtype, **(_scale(dtype) if scaled else {})
            ),
        )
        for ((h, w), window), borders, dtype in itertools.product(SIDES, ("valid", "same"), EVERY_OP)
    )  # fmt: skip


def _scale(dtype: torch.dtype) -> Arguments:
    return {"scale": torch.tensor([2.0, -0.5], dtype=dtype)}


COMMON = (
    Sample("ordinary", "", _pair, traced=True),
    Sample("ordinary", "float64", lambda: _pair(dtype=torch.float64)),
    Sample("ordinary", "5 x 5, same", lambda: _pair(window=5, borders="same")),
    Sample("odd", "window wider than the photo", lambda: _pair(2, 2, 5, 7, window=13, borders="same", sigma=2.0)),
    Sample("empty", "", lambda: _pair(0)),
    Sample("one", "pair", lambda: _pair(1)),
    Sample("one", "pixel", lambda: _pair(1, 1, 1, 1, window=1, dtype=torch.float64)),
    *(
        Sample("strided", f"x {layout}, y {other}",
               lambda layout=layout, other=other: _pair(layout=layout, y_layout=other, dtype=torch.float64),
               light=layout == "transposed")
        for layout, other in (
            ("crop", "dense"), ("every_other", "crop"), ("transposed", "transposed"), ("dense", "reversed_order")
        )
    ),
    Sample("channels_last", "", lambda: _pair(layout="channels_last", y_layout="channels_last")),
    Sample("channels_last", "y", lambda: _pair(y_layout="channels_last")),
    Sample("extreme", "equal", _equal),
    Sample("extreme", "black and white", lambda: _flat(0.0, 1.0)),
    Sample("extreme", "black", lambda: _flat(0.0, 0.0)),
    Sample("extreme", "255", _bright),
    Sample("many", "", lambda: _pair(4, 3, 50, 55), light=False),
    Sample("many", "same, float64", lambda: _pair(4, 3, 50, 55, borders="same", dtype=torch.float64), light=False),
)  # fmt: skip
SAMPLES = (*COMMON, *_odd_sides(False))
GRADIENT_SAMPLES = (
    *COMMON,
    *_odd_sides(True),
    *(
        Sample("ordinary", f"scale, {borders}, {_short(dtype)}", lambda borders=borders, dtype=dtype: _pair(
            borders=borders, window=5, dtype=dtype, **_scale(dtype)
        ), traced=borders == "same" and dtype == torch.float32)
        for borders, dtype in itertools.product(("valid", "same"), EVERY_OP)
    ),
)  # fmt: skip

BAD = (
    Bad({"x": torch.zeros(2, 3, 14, 15, dtype=torch.uint8)}, TypeError, "x must be float32 or float64"),
    Bad({"x": torch.zeros(3, 14, 15)}, ValueError, r"x must be float32 or float64 \[N, C, H, W\]"),
    Bad({"y": torch.zeros(1, 3, 14, 15)}, ValueError, "y must have the shape of x"),
    Bad({"y": torch.zeros(2, 3, 14, 15, dtype=torch.float64)}, TypeError, "y must be float32"),
    Bad({"window": 10}, ValueError, "window must be an odd positive integer"),
    Bad({"window": 17}, ValueError, "window must fit the image"),
    Bad({"borders": "wrap"}, ValueError, "borders must be one of"),
    *(
        Bad({name: value}, ValueError, f"{name} must lie in")
        for name in ("sigma", "data_range")
        for value in (0.0, -1.0, 1e-200, 1e200, float("inf"), float("-inf"), float("nan"), 0, -1)
    ),
    *(
        Bad({name: value}, TypeError, f"{name} must be a number")
        for name in ("sigma", "data_range")
        for value in ("1", True, None)
    ),
)
GRADIENT_BAD = (
    *BAD,
    Bad({"scale": torch.zeros(3)}, ValueError, r"scale must be float32 \[2\]"),
    Bad({"scale": torch.zeros(2, dtype=torch.float64)}, TypeError, "scale must be float32"),
)


def _given(made: Arguments) -> tuple:
    options: Arguments = {"window": 11, "sigma": 1.5, "borders": "valid", "data_range": 1.0} | made
    return tuple(
        float(options[k]) if k in ("sigma", "data_range") else options[k]
        for k in ("x", "y", "window", "sigma", "borders", "data_range")
    )


def registered(made: Arguments) -> list[tuple[str, tuple]]:
    """The torch op of a call: as it is, and with gradients to come."""
    x, y, *rest = _given(made)
    return [("ssim", (x, y, *rest)), ("ssim", (x.clone().requires_grad_(), y.clone().requires_grad_(), *rest))]


def registered_gradient(made: Arguments) -> list[tuple[str, tuple]]:
    """The torch op of a call."""
    return [("ssim_gradient", (*_given(made), made.get("scale")))]


def _photos(device: torch.device | str, pairs: int) -> Arguments:
    x = uniform(pairs, 3, SIDE, SIDE)
    return on(device, {"x": x, "y": (x + 0.1 * normal(*x.shape, seed=1)).clamp_(0, 1)})


def sizes(on_gpu: bool) -> tuple[Size, ...]:
    """Pairs of photos, all read."""
    pairs = 1600 if on_gpu else 100
    return (
        Size(
            f"{pairs} pairs of 3 x 112 x 112 f32, 11 x 11",
            lambda device: _photos(device, pairs),
            2 * 4 * pairs * 3 * SIDE * SIDE,
        ),
    )


def gradient_sizes(on_gpu: bool) -> tuple[Size, ...]:
    """The same, and the gradient of x written. (The benchmark takes it through autograd.)"""
    pairs = 1600 if on_gpu else 100
    moved = 3 * 4 * pairs * 3 * SIDE * SIDE
    return (Size("the same, forward and backward to x", lambda device: _photos(device, pairs), moved),)


def _kernel(work: Workload, dtype: torch.dtype = torch.float32) -> Arguments:
    x = work.images.to(dtype) / 255
    return {"x": x, "y": x.flip(3)}


def _one_gradient(work: Workload) -> Arguments:
    made = _kernel(work)
    return made | {"x": made["x"].requires_grad_()}


CALLS = (KernelCall("score", "", _kernel), KernelCall("one gradient", "", _one_gradient))
GRADIENT_CALLS = (
    KernelCall("gradient", "f32", _kernel),
    KernelCall("f64", "f64", lambda work: _kernel(work, torch.float64)),
)
MISSING = {"ragged": "pairs are one by one: there are no people"}
ENTRIES = (
    Entry(
        "ssim", "ssim", reference.ssim, SAMPLES, BAD, registered, EVERY_OP, missing=MISSING, sizes=sizes, calls=CALLS,
    ),
    Entry(
        "ssim_gradient", "ssim", reference.ssim_gradient, GRADIENT_SAMPLES, GRADIENT_BAD, registered_gradient,
        WITH_GRADIENTS, missing=MISSING, sizes=gradient_sizes, calls=GRADIENT_CALLS,
    ),
)  # fmt: skip
