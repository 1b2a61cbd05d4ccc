"""seal_normalize in the table."""

from __future__ import annotations

import itertools

import torch

from veilkern import reference
from veilkern.testing.compare import Arguments, Tolerance
from veilkern.testing.entry import Bad, Entry, KernelCall, Sample, Size, Workload
from veilkern.testing.making import SIDE, bytes8, laid_out, on, sealable_photos

STATISTICS = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}
# Half a step of the output, and what single precision loses on the way.
TOLERANCES = {
    torch.float64: Tolerance(relative=1e-13, absolute=1e-13),
    torch.float32: Tolerance(relative=2.5e-7, absolute=2.5e-7),
    torch.bfloat16: Tolerance(relative=2**-8, absolute=1e-6),
    torch.float16: Tolerance(relative=2**-11, absolute=1e-6),
}


def _photos(
    n=4, people=2, h=6, w=7, *, veil_dtype=torch.float32, layout="dense", veil_layout="dense", **options
) -> Arguments:
    made = sealable_photos(n, people, h, w)
    veils = (made["veils"].double() / 255).to(veil_dtype)
    made |= {"images": laid_out(made["images"], layout), "veils": laid_out(veils, veil_layout)}
    return made | STATISTICS | options


def _noise() -> Arguments:
    """One black photo for all, as a craft has it."""
    made = _photos(6, 3, 9, 11)
    return made | {"images": torch.zeros(1, 3, 9, 11, dtype=torch.uint8).expand(6, -1, -1, -1)}


def _ends(levels: int) -> Arguments:
    """Black and white, and statistics far from 0 and 1."""
    made = _photos(4, 2, 7, 9, levels=levels, mean=(0.0, -3.0, 100.0), std=(-1.0, 1e-3, 50.0))
    made["images"][0::2], made["images"][1::2], made["veils"][0], made["veils"][1] = 0, 255, 0, 1
    return made | {"rows": torch.tensor([0, 0, 1, 1])}


def _out(dtype: torch.dtype) -> Arguments:
    out = torch.zeros(4, 3, 6, 7, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return _photos(dtype=dtype, out=out)


def registered(made: Arguments) -> list[tuple[str, tuple]]:
    """The torch ops of a call: as it is, and with a gradient to come."""
    given = (
        *(made[k] for k in ("images", "veils", "rows", "keys", "nonces")), made.get("levels", 64),
        made.get("rounds", 20), list(made["mean"]), list(made["std"]), made.get("bgr", False),
    )  # fmt: skip
    if "out" in made:
        return [("seal_normalize_out", (*given, made["out"]))]
    dtype = made.get("dtype", torch.float32)
    learning = (given[0], given[1].clone().requires_grad_(), *given[2:], dtype)
    return [("seal_normalize", (*given, dtype)), ("seal_normalize", learning)]


def _spelled(*values: object) -> str:
    return ", ".join(str(v).removeprefix("torch.") for v in values)


SAMPLES = (
    Sample("ordinary", "", _photos, traced=True),
    *(
        Sample("odd", f"{_spelled(veil_dtype)} to {_spelled(dtype)}{', bgr' if bgr else ''}",
               lambda b=bgr, v=veil_dtype, d=dtype: _photos(2, 2, 13, 37, veil_dtype=v, dtype=d, bgr=b))
        for bgr, veil_dtype, dtype in itertools.product(
            (False, True), (torch.float32, torch.float64), TOLERANCES
        )
    ),
    *(
        Sample("ordinary", f"{levels} levels, {rounds} rounds",
               lambda m=levels, r=rounds: _photos(2, levels=m, rounds=r))
        for levels, rounds in itertools.product((16, 32, 64, 128), (12, 20))
    ),
    Sample("ordinary", "noise", _noise),
    Sample("ragged", "rows unsorted, some veils of nobody", lambda: (
        _photos(6, 4) | {"rows": torch.tensor([2, 0, 2, 2, 0, 2])}
    )),
    Sample("empty", "", lambda: _photos(0)),
    Sample("empty", "bfloat16", lambda: _photos(0, dtype=torch.bfloat16)),
    Sample("one", "row of 32 pixels", lambda: _photos(1, 1, 1, 32)),
    Sample("one", "7 x 9", lambda: _photos(1, 1, 7, 9, bgr=True), traced=True),
    Sample("channels_last", "images", lambda: _photos(layout="channels_last")),
    Sample("channels_last", "both", lambda: _photos(layout="channels_last", veil_layout="channels_last", bgr=True)),
    *(
        Sample("strided", layout, lambda layout=layout: _photos(layout=layout, veil_layout=layout))
        for layout in ("crop", "every_other", "transposed", "reversed_order")
    ),
    *(Sample("ordinary", f"out {_spelled(dtype)}", lambda dtype=dtype: _out(dtype)) for dtype in TOLERANCES),
    *(Sample("extreme", f"black and white, {levels} levels", lambda m=levels: _ends(m)) for levels in (16, 64, 128)),
    Sample("many", "", lambda: _photos(40, 3, 50, 61), light=False),
    Sample("many", "float16", lambda: _photos(40, 3, 50, 61, dtype=torch.float16), light=False),
)  # fmt: skip

BAD = (
    Bad({"images": torch.zeros(4, 3, 6, 7)}, TypeError, "seal_normalize: images must be uint8"),
    Bad({"mean": (0,)}, ValueError, "mean must be three numbers"),
    Bad({"std": (1, 0, 1)}, ValueError, "std must not be zero"),
    Bad({"dtype": torch.int32}, TypeError, "dtype must be float32"),
    Bad({"rows": torch.tensor([0, 1, 3, 0])}, ValueError, "rows must lie in 0..1"),
    Bad({"veils": torch.zeros(2, 3, 6, 7, dtype=torch.uint8)}, TypeError, "veils must be float32 or float64"),
    Bad({"veils": torch.zeros(2, 3, 6, 6)}, ValueError, "veils must hold photos like images"),
    Bad({"images": torch.zeros(4, 3, 5, 6, dtype=torch.uint8), "veils": torch.zeros(2, 3, 5, 6)}, ValueError,
        "images must have at least 96 values a photo"),
    Bad({"keys": bytes8(2, 31)}, ValueError, r"keys must be uint8 \[2, 32\], got \[2, 31\]"),
    Bad({"nonces": bytes8(4, 8)}, ValueError, r"nonces must be uint8 \[4, 12\], got \[4, 8\]"),
    Bad({"levels": 65}, ValueError, "levels must be one of"),
    Bad({"rounds": "20"}, TypeError, "rounds must be an integer"),
    Bad({"out": torch.zeros(4, 3, 6, 7)}, ValueError, "out must be channels_last"),
    Bad({"out": torch.zeros(4, 3, 6, 7, dtype=torch.float64)}, TypeError, "out must be float32"),
    Bad(
        {"veils": lambda good: good["veils"].requires_grad_(), "out": lambda good: _out(torch.float32)["out"]},
        ValueError, "out must not be given where veils require a gradient",
    ),
)  # fmt: skip


def sizes(on_gpu: bool) -> tuple[Size, ...]:
    """Photos read as bytes, written in the network's dtype."""
    photos = 32768 if on_gpu else 512
    half = {"mean": (0.5,) * 3, "std": (0.5,) * 3}

    def make(device, dtype):
        made = on(device, sealable_photos(photos, 64, SIDE, SIDE))
        return made | {"veils": made["veils"] / 255.0, "dtype": dtype} | half

    return tuple(
        Size(
            f"{photos} photos to {_spelled(dtype)}",
            lambda device, dtype=dtype: make(device, dtype),
            photos * 3 * SIDE * SIDE * (1 + dtype.itemsize),
        )
        for dtype in (torch.float32, torch.bfloat16)
    )


def _kernel(work: Workload, own: torch.dtype, dtype: torch.dtype) -> Arguments:
    count, people = len(work.images), len(work.veils)
    made = {"keys": bytes8(people, 32, seed=5).to(work.veils), "nonces": bytes8(count, 12, seed=6).to(work.veils)}
    made |= {"images": work.images, "veils": work.veils.to(own) / 255, "rows": work.rows}
    half = [0.5] * 3
    return made | {"mean": half, "std": half, "dtype": dtype}


CALLS = (
    KernelCall("f32", "", lambda work: _kernel(work, torch.float32, torch.float32)),
    KernelCall("bf16", "f32", lambda work: _kernel(work, torch.float32, torch.bfloat16)),
    KernelCall("f64", "f64", lambda work: _kernel(work, torch.float64, torch.float64)),
)
ENTRIES = (
    Entry(
        "seal_normalize", "seal_normalize", reference.seal_normalize, SAMPLES, BAD, registered, TOLERANCES,
        writes=("out",), sizes=sizes, calls=CALLS,
    ),
)  # fmt: skip
