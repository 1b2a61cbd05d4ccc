"""block_variance and block_variance_gradient in the table."""

from __future__ import annotations

import itertools

import torch

from veilkern import reference
from veilkern.testing.compare import EVERY_OP, Arguments, Tolerance
from veilkern.testing.entry import Bad, Entry, KernelCall, Sample, Size, Workload
from veilkern.testing.making import SIDE, laid_out, on, uniform


def _images(n=2, c=3, h=9, w=10, *, dtype=torch.float32, layout="dense", **options) -> Arguments:
    return {"images": laid_out(uniform(n, c, h, w, dtype=dtype), layout)} | options


def _boxes(made: Arguments) -> float:
    """One part of the boxes: a single box has no variance, what is left is the rounding of its sum."""
    (h, w), stride = made.get("block", (3, 3)), made.get("stride", 1)
    height, width = made["images"].shape[2:]
    return 1 / (((height - h) // stride + 1) * ((width - w) // stride + 1))


WITH_GRADIENT = {
    dtype: (plain, Tolerance(largest=plain.largest, least=_boxes)) for dtype, plain in EVERY_OP.items()
}  # fmt: skip
SIDES = ((3, 3), (3, 20), (4, 4), (5, 16), (6, 17), (7, 18), (30, 33), (30, 112), (112, 112))
BLOCKS = (((3, 3), 1), ((3, 3), 3), ((2, 5), 2), ((1, 1), 1), ((4, 4), 1), ((2, 3), 1), ((2, 2), 2))


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _scale(dtype: torch.dtype) -> Arguments:
    return {"scale": torch.tensor([1.5, -0.25], dtype=dtype)}


def _odd_sides(scaled: bool) -> tuple[Sample, ...]:
    """Odd and even numbers of rows, widths around whole packs of 8 and 16; for the gradient with a scale."""
    return tuple(
        Sample(
            "odd", f"{h} x {w}, {form}, {_short(dtype)}",
            lambda h=h, w=w, form=form, dtype=dtype: _images(
                2, 3, h, w, form=form, dtype=dtype, **(_scale(dtype) if scaled else {})
            ),
            # the interpreter has the loss alone from the gradient too
            light=h < 100 and (scaled or (form, dtype) == ("consistent", torch.float32)),
        )
        for (h, w), form, dtype in itertools.product(SIDES, ("consistent", "literal"), EVERY_OP)
    )  # fmt: skip


COMMON = (
    Sample("ordinary", "", _images, traced=True),
    Sample("ordinary", "float64", lambda: _images(dtype=torch.float64)),
    *(
        Sample("odd", f"block {block}, stride {stride}, {form}, {_short(dtype)}",
               lambda b=block, s=stride, f=form, d=dtype: _images(2, 2, 11, 9, block=b, stride=s, form=f, dtype=d),
               light=False)
        for (block, stride), form, dtype in itertools.product(BLOCKS, ("consistent", "literal"), EVERY_OP)
    ),
    Sample("odd", "block as a list", lambda: _images(block=[2, 2])),
    Sample("empty", "", lambda: _images(0)),
    Sample("one", "photo of one pixel", lambda: _images(1, 1, 1, 1, block=(1, 1))),
    Sample("one", "photo of one channel", lambda: _images(1, 1)),
    *(
        Sample("strided", layout, lambda layout=layout: _images(layout=layout), light=layout == "transposed")
        for layout in ("crop", "every_other", "transposed", "reversed_order")
    ),
    Sample("channels_last", "", lambda: _images(layout="channels_last")),
    Sample("channels_last", "literal", lambda: _images(layout="channels_last", form="literal", dtype=torch.float64)),
    Sample("extreme", "a stride beyond the photo", lambda: _images(block=(2, 3), stride=2**31 - 1)),
    Sample("extreme", "flat", lambda: {"images": torch.full((1, 3, 8, 8), 0.5)}),
    Sample("extreme", "a chessboard", lambda: {"images": (torch.arange(9 * 9) % 2.0).view(1, 1, 9, 9)}),
    Sample("many", "literal", lambda: _images(9, 3, 60, 61, form="literal"), light=False),
    Sample("many", "float64", lambda: _images(9, 3, 60, 61, block=(4, 4), dtype=torch.float64), light=False),
)  # fmt: skip
SAMPLES = (*COMMON, *_odd_sides(False))
GRADIENT_SAMPLES = (
    *COMMON,
    *_odd_sides(True),
    *(
        Sample("ordinary", f"scale, {form}, {_short(dtype)}", lambda form=form, dtype=dtype: _images(
            form=form, dtype=dtype, **_scale(dtype)
        ), traced=form == "literal" and dtype == torch.float32)
        for form, dtype in itertools.product(("consistent", "literal"), EVERY_OP)
    ),
    Sample("ordinary", "out", lambda: _images(out=torch.full((2, 3, 9, 10), 7.0))),
    Sample("strided", "every other photo of out, any block", lambda: _images(
        block=(2, 3), stride=2, scale=torch.tensor([1.5, -0.25]), out=torch.full((4, 3, 9, 10), 7.0)[::2]
    )),
)  # fmt: skip

BAD = (
    Bad({"images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, TypeError, "images must be float32 or float64"),
    Bad({"images": torch.zeros(3, 8, 8)}, ValueError, r"\[N, C, H, W\]"),
    Bad({"form": "other"}, ValueError, "form must be one of consistent, literal"),
    Bad({"block": (10, 3)}, ValueError, "block must fit the image, 9 x 10"),
    Bad({"block": 3}, ValueError, "block must be two positive integers"),
    Bad({"block": (3, 0)}, ValueError, "block must be two positive integers"),
    Bad({"stride": 0}, ValueError, "stride must be a positive integer"),
    Bad({"stride": True}, ValueError, "stride must be a positive integer"),
)
GRADIENT_BAD = (
    *BAD,
    Bad({"scale": torch.zeros(3)}, ValueError, r"scale must be float32 \[2\]"),
    Bad({"scale": torch.zeros(2, dtype=torch.float64)}, TypeError, "scale must be float32"),
    Bad({"out": torch.zeros(2, 3, 8, 9)}, ValueError, r"out must be \[2, 3, 9, 10\]"),
    Bad({"out": lambda good: good["images"]}, ValueError, "out must not overlap images in memory"),
    Bad({"out": torch.zeros(2, 3, 9, 10, dtype=torch.float64)}, TypeError, "out must be float32"),
)


def _given(made: Arguments) -> tuple:
    return (
        made["images"], list(made.get("block", (3, 3))), made.get("stride", 1), made.get("form", "consistent"),
    )  # fmt: skip


def registered(made: Arguments) -> list[tuple[str, tuple]]:
    """The torch op of a call: as it is, and with a gradient to come."""
    images, *rest = _given(made)
    return [("block_variance", (images, *rest)), ("block_variance", (images.clone().requires_grad_(), *rest))]


def registered_gradient(made: Arguments) -> list[tuple[str, tuple]]:
    """The torch op of a call."""
    given = (*_given(made), made.get("scale"))
    if "out" in made:
        return [("block_variance_gradient_out", (*given, made["out"]))]
    return [("block_variance_gradient", given)]


def sizes(on_gpu: bool) -> tuple[Size, ...]:
    """Images read in the forward pass and in the backward pass, gradients written once; a copy beside it reads and
    writes the images. (The benchmark takes it through autograd.)"""
    count = 6400 if on_gpu else 100
    size = 4 * count * 3 * SIDE * SIDE
    return (
        Size(
            f"{count} x 3 x 112 x 112 f32, through autograd",
            lambda device: on(device, {"images": uniform(count, 3, SIDE, SIDE)}),
            3 * size,
            copied=2 * size,
        ),
    )


def gradient_sizes(on_gpu: bool) -> tuple[Size, ...]:
    """Images read once, gradients written once; on the CPU in the nearer caches, about as large as the last one, and
    out of it."""
    return tuple(
        Size(
            f"{count} x 3 x 112 x 112 f32, loss and gradient",
            lambda device, count=count: on(device, {"images": uniform(count, 3, SIDE, SIDE)}),
            2 * 4 * count * 3 * SIDE * SIDE,
        )
        for count in ((400, 6400) if on_gpu else (20, 100, 400))
    )


def _kernel(work: Workload, dtype: torch.dtype = torch.float32, **options) -> Arguments:
    return {"images": work.images.to(dtype) / 255} | options


CALLS = (KernelCall("loss", "", _kernel),)
GRADIENT_CALLS = (
    KernelCall("gradient", "f32", _kernel),
    KernelCall("any block", "", lambda work: _kernel(work, block=(4, 4), stride=2, form="literal")),
    KernelCall("f64", "f64", lambda work: _kernel(work, torch.float64)),
)
MISSING = {"ragged": "images are one by one: there are no people"}
ENTRIES = (
    Entry(
        "block_variance", "block_variance", reference.block_variance, SAMPLES, BAD, registered, EVERY_OP,
        missing=MISSING, sizes=sizes, calls=CALLS,
    ),
    Entry(
        "block_variance_gradient", "block_variance", reference.block_variance_gradient, GRADIENT_SAMPLES, GRADIENT_BAD,
        registered_gradient, WITH_GRADIENT, writes=("out",), missing=MISSING, sizes=gradient_sizes,
        calls=GRADIENT_CALLS,
    ),
)  # fmt: skip
