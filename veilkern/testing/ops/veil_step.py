"""veil_step_ in the table."""

from __future__ import annotations

import itertools

import torch

from veilkern import reference
from veilkern.testing.compare import EVERY_OP, Arguments, require_near
from veilkern.testing.entry import Bad, Entry, KernelCall, Results, Sample, Size, Workload
from veilkern.testing.making import SIDE, bytes8, laid_out, normal, offsets_of, on, uniform

RATES = {"lam": 0.04, "mu": 0.01, "step": 0.1, "decay": 0.9}


def state(
    counts=(3, 1, 4), h=8, w=8, *, dtype=torch.float32, layout="dense", gradient_counts=None, seed=0, **options
) -> Arguments:
    """The arguments of a step: people with so many photos of 3 x h x w each, and as many gradients (or
    gradient_counts)."""
    people, slopes = len(counts), sum(counts if gradient_counts is None else gradient_counts)
    made: Arguments = {
        "veils": uniform(people, 3, h, w, seed=seed, dtype=dtype),
        "momentum": normal(people, 3, h, w, seed=seed + 1, dtype=dtype),
        "gradients": 0.01 * normal(slopes, 3, h, w, seed=seed + 2, dtype=dtype),
        "images": bytes8(sum(counts), 3, h, w, seed=seed + 3),
    }
    made = {name: laid_out(value, layout) for name, value in made.items()}
    made |= {"offsets": offsets_of(counts), "a": 51} | RATES
    return made | ({} if gradient_counts is None else {"gradient_offsets": offsets_of(gradient_counts)}) | options


def _everything(dtype: torch.dtype) -> Arguments:
    """Every tensor that may be given."""
    rates = {name: torch.full((3,), rate, dtype=torch.float64) for name, rate in RATES.items()}
    more = {"active": torch.tensor([True, False, True]), "mean_images": uniform(3, 3, 8, 8, seed=5, dtype=dtype)}
    return state(dtype=dtype, gradient_counts=(1, 1, 2)) | rates | more


def _a_veil_that_is_a_photo() -> Arguments:
    made = state(dtype=torch.float64)
    made["veils"][1] = made["images"][3].double() / 255
    return made


def _not_finite(value: float) -> Arguments:
    made = state()
    made["gradients"][3, 0, 0, 0] = value
    return made


def agree(found: Results, wanted: Results, made: Arguments) -> None:
    """Statistics, veils and momentum are the reference's; a pixel whose momentum is within rounding of zero may go
    either way."""
    (statistics, veils, momentum), (truth, wanted_veils, wanted_momentum) = found, wanted
    tolerance, eps = EVERY_OP[veils.dtype], torch.finfo(veils.dtype).eps
    for column, name in enumerate(("mean|g|", "L_vis", "L_var")):
        require_near(name, statistics[:, column], truth[:, column], tolerance.bound(truth[:, column]))
    require_near("momentum", momentum, wanted_momentum, tolerance.bound(wanted_momentum))
    clear = wanted_momentum.abs() > 1e3 * eps * (1 + wanted_momentum.abs())
    if clear.numel() >= 100 and clear.float().mean() <= 0.99:
        raise AssertionError("too many pixels whose momentum is near zero to compare veils")
    require_near("veils", veils, wanted_veils, torch.where(clear, 4 * eps, float("inf")))


def registered(made: Arguments) -> list[tuple[str, tuple]]:
    """The torch op of a call."""
    rates = [made[name] for name in RATES]
    tensors = [rate if isinstance(rate, torch.Tensor) else None for rate in rates]
    numbers = [0.0 if isinstance(rate, torch.Tensor) else float(rate) for rate in rates]
    names = ("veils", "momentum", "gradients", "images", "offsets")
    return [
        (
            "veil_step_",
            (
                *(made[name] for name in names), made.get("gradient_offsets", made["offsets"]), made["a"], *tensors,
                numbers, made.get("active"), made.get("mean_images"), made.get("visual", "norm"),
                list(made.get("block", (3, 3))), made.get("stride", 1), made.get("form", "consistent"),
            ),
        )
    ]  # fmt: skip


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


FORMS: tuple[Arguments, ...] = ({}, {"form": "literal"}, {"block": (2, 3), "stride": 2})
SIDES = (
    ((5, 5), (3, 1, 12), True), ((16, 16), (3, 1, 12), False), ((13, 37), (3, 1, 12), False),
    ((112, 112), (3, 1, 12), False), ((12, 37), (3, 1, 4), True),
    ((12, 112), (3, 1, 4), True),  # the last: two tiles of the Triton kernel
)  # fmt: skip
SAMPLES = (
    Sample("ordinary", "", state, traced=True),
    Sample("ordinary", "float64", lambda: state(dtype=torch.float64)),
    Sample("ordinary", "every tensor", lambda: _everything(torch.float32), traced=True),
    Sample("ordinary", "every tensor, float64", lambda: _everything(torch.float64)),
    *(
        Sample("odd", f"{h} x {w}, {sum(counts)} photos, {visual}, {form}, {_short(dtype)}",
               lambda h=h, w=w, c=counts, v=visual, f=form, d=dtype: state(c, h, w, visual=v, dtype=d, **f),
               light and (w < 100 or dtype == torch.float32))
        for ((h, w), counts, light), visual, form, dtype in itertools.product(SIDES, ("norm", "mse"), FORMS, EVERY_OP)
    ),
    *(
        Sample("ragged", f"people without photos, {visual}", lambda v=visual: state((2, 0, 5, 0), visual=v))
        for visual in ("norm", "mse")
    ),
    Sample("ragged", "a gradient a person", lambda: state((2, 1, 5), gradient_counts=(1, 1, 1))),
    Sample("ragged", "people without gradients", lambda: state((2, 1, 5), gradient_counts=(1, 0, 3))),
    Sample("ragged", "some not active", lambda: state((2, 0, 5), active=torch.tensor([True, True, False]))),
    Sample("empty", "nobody", lambda: state(())),
    Sample("empty", "no photos", lambda: state((0, 0))),
    Sample("one", "photo", lambda: state((1,))),
    Sample("one", "photo of 3 x 3", lambda: state((1,), 3, 3)),
    *(
        Sample("strided", layout, lambda layout=layout: state(layout=layout, dtype=torch.float64),
               light=layout == "transposed")
        for layout in ("crop", "every_other", "transposed", "reversed_order")
    ),
    Sample("channels_last", "", lambda: state(layout="channels_last")),
    Sample("channels_last", "mse", lambda: state(layout="channels_last", visual="mse"), light=False),
    Sample("extreme", "a veil that is a photo", _a_veil_that_is_a_photo, light=False),
    Sample("extreme", "a gradient that is not finite", lambda: _not_finite(float("nan")), light=False),
    Sample("extreme", "a stride beyond the photo", lambda: state(block=(2, 3), stride=2**31 - 1), light=False),
    Sample("extreme", "an infinite gradient", lambda: _not_finite(float("-inf")), light=False),
    *(Sample("extreme", f"blend {a}", lambda a=a: state(a=a), light=a == 0) for a in (0, 255)),
    Sample("extreme", "a step over all values", lambda: state(step=2.0), light=False),
    Sample("many", "", lambda: state((3, 1, 4), 40, 40), light=False),
)  # fmt: skip

BAD = (
    Bad({"veils": torch.zeros(3, 3, 8, 8, dtype=torch.uint8)}, TypeError, "veils must be float32 or float64"),
    Bad({"momentum": torch.zeros(2, 3, 8, 8)}, ValueError, r"momentum must be float32 \[3, 3, H, W\]"),
    Bad({"momentum": None}, TypeError, "momentum must be a tensor"),
    Bad({"momentum": lambda good: good["veils"]}, ValueError, "veils must not overlap momentum"),
    Bad({"gradients": None}, TypeError, "gradients must be a tensor"),
    Bad({"images": torch.zeros(8, 3, 9, 9, dtype=torch.uint8)}, ValueError, "images must hold photos like veils"),
    Bad({"gradients": torch.zeros(5, 3, 8, 8)}, ValueError, "gradient_offsets must be given when gradients"),
    Bad({"gradient_offsets": torch.tensor([0, 3, 2, 8])}, ValueError, "gradient_offsets must rise from 0 to 8"),
    Bad({"offsets": torch.tensor([0, 3, 4, 9])}, ValueError, "offsets must rise from 0 to 8"),
    Bad({"offsets": torch.tensor([0, 8])}, ValueError, "offsets must have 4 entries"),
    Bad({"mean_images": torch.zeros(2, 3, 8, 8)}, ValueError, r"mean_images must be float32 \[3, 3, H, W\]"),
    Bad({"lam": torch.zeros(2)}, ValueError, r"lam must be a number or \[3\]"),
    Bad({"lam": "0.1"}, TypeError, "lam must be a number"),
    Bad({"decay": True}, TypeError, "decay must be a number"),
    Bad({"visual": "l1"}, ValueError, "visual must be one of norm, mse"),
    Bad({"form": "other"}, ValueError, "form must be one of consistent, literal"),
    Bad({"block": (9, 9)}, ValueError, "block must fit the image, 8 x 8"),
    Bad({"a": 1.5}, TypeError, "a must be an integer"),
    Bad({"a": 256}, ValueError, "a must lie in 0..255"),
    Bad({"active": torch.ones(3)}, TypeError, "active must be bool"),
)

PHOTOS = 10  # of a person, in the benchmark


def _crowd(device: torch.device | str, people: int) -> Arguments:
    g = torch.Generator().manual_seed(0)
    shape = (people * PHOTOS, 3, SIDE, SIDE)
    veils, means = (torch.rand(people, *shape[1:], generator=g) for _ in range(2))
    made = {
        "veils": veils, "momentum": torch.zeros_like(veils), "gradients": 1e-3 * torch.randn(shape, generator=g),
        "images": torch.randint(0, 256, shape, dtype=torch.uint8, generator=g),
        "offsets": torch.arange(people + 1) * PHOTOS, "mean_images": means,
    }  # fmt: skip
    return on(device, made) | {"a": 51, "lam": 0.04, "mu": 0.01, "step": 8 / 255, "decay": 1.0}


def sizes(on_gpu: bool) -> tuple[Size, ...]:
    """Gradients, photos, veils, momentum and mean photos are read, veils and momentum written."""
    people, values = 640 if on_gpu else 64, 3 * SIDE * SIDE
    read = people * values * (PHOTOS * (4 + 1) + 4 + 4 + 4)
    words = f"{people} people x {PHOTOS} photos, f32"
    return (Size(words, lambda device: _crowd(device, people), read + people * values * 8, copied=2 * read),)


def _kernel(
    work: Workload, dtype: torch.dtype = torch.float32, visual: str = "norm", numbers: bool = False
) -> Arguments:
    veils, people = work.veils.to(dtype) / 255, len(work.veils)
    rates = {"lam": 0.04, "mu": 0.01, "step": 8 / 255, "decay": 1.0}
    made = {
        "veils": veils, "momentum": torch.zeros_like(veils), "gradients": work.images.to(dtype) / 255 - 0.5,
        "images": work.images, "offsets": work.offsets, "a": 51, "visual": visual,
    }  # fmt: skip
    tensors = {name: torch.full((people,), rate, dtype=torch.float64) for name, rate in rates.items()}
    return made | (rates if numbers else tensors)


STEADY = (0, 2)  # statistics and momentum; a veil's pixel whose momentum is near zero may go either way
CALLS = (
    KernelCall("norm", "f32", _kernel, STEADY),
    KernelCall("mse", "", lambda work: _kernel(work, visual="mse"), STEADY),
    KernelCall("f64", "f64", lambda work: _kernel(work, torch.float64), STEADY),
    KernelCall("numbers", "", lambda work: _kernel(work, numbers=True), STEADY),
)
ENTRIES = (
    Entry(
        "veil_step_", "veil_step_", reference.veil_step_, SAMPLES, BAD, registered, EVERY_OP,
        writes=("veils", "momentum"), agree=agree, sizes=sizes, calls=CALLS,
    ),
)  # fmt: skip
