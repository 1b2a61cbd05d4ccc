"""The ops as a target: odd shapes, strides, offsets, overlaps, values and arguments of the wrong kind.

An input is a number: the arguments are drawn from it, the same ones each time they are wanted. Right is: TypeError,
ValueError or the library's own error from both backends, or from both the result of the reference called without `out`;
and not one byte changed outside of what the op may write. A quarter of the inputs are samples of the table of ops
(veilkern/testing), their tensors anywhere in memory; it also says which ops are exact and what each writes.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from file_targets import Wrong, require
from op_case import FLOATS, Case, native

import veilkern as vk
from veilkern.errors import BackendError

SIDES = (1, 2, 3, 5, 7, 8, 11, 13, 16, 17, 31, 32, 33, 48, 63, 64, 65, 97, 101, 113)
BOUNDS = {torch.float64: 1e-8, torch.float32: 2e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2}  # of the largest value


def _photos(case: Case) -> tuple[int, int, int, int]:
    """Photos, people, height and width: together small."""
    rng = case.rng
    height, width = rng.choice(SIDES), rng.choice(SIDES)
    most = max(1, min(60, 200_000 // (3 * height * width)))
    return rng.choice((0, 1, 2, 3, rng.randint(1, most))), rng.choice((1, 2, 3)), height, width


def _blend(case: Case):
    n, people, h, w = _photos(case)
    images = case.place(case.bytes8(n, 3, h, w))
    options: dict = {"lossless": case.rng.random() < 0.4}
    out = case.out((n, 3, h, w), torch.uint16 if options["lossless"] else torch.uint8, images)
    if out is not None:
        options["out"] = out
    veils = case.place(case.bytes8(people, 3, h, w))
    return {
        "images": images, "veils": veils, "rows": case.rows(n, people), "a": case.rng.choice((0, 1, 51, 128, 254, 255)),
    }, options  # fmt: skip


def _recover(case: Case):
    n, people, h, w = _photos(case)
    rng = case.rng
    deep = rng.random() < 0.4
    values = case.bytes8(n, 3, h, w)
    protected = case.place((values.int() * rng.choice((1, 255, 257))).to(torch.uint16) if deep else values)
    options = {}
    if rng.random() < 0.5:
        options["gaussian_sigma"] = rng.choice((None, 0.1, 0.3, 0.8, 1.0, 2.5, 31.9, 50.0, 100, 0.0, -1.0, 1e9))
    out = case.out((n, 3, h, w), torch.uint8, protected)
    if out is not None:
        options["out"] = out
    veils = case.place(case.bytes8(people, 3, h, w))
    return {
        "protected": protected, "veils": veils, "rows": case.rows(n, people), "a": rng.choice((0, 1, 51, 254, 255)),
    }, options  # fmt: skip


def _blend_normalize(case: Case):
    n, people, h, w = _photos(case)
    rng = case.rng
    veils = case.place(case.floats(people, 3, h, w, dtype=rng.choice(FLOATS)))
    dtype = rng.choice((*FLOATS, torch.float16, torch.bfloat16))
    options = {
        "mean": rng.choice(((0.5, 0.5, 0.5), [0.4, 0.5, 0.6], (0.0, 0.0, 0.0))),
        "std": rng.choice(((0.5, 0.5, 0.5), (0.2, 0.3, 0.25), (1.0, -1.0, 2.0))),
        "bgr": rng.random() < 0.5,
        "dtype": dtype,
    }
    if rng.random() < 0.4:
        out = torch.zeros((n, 3, h, w), dtype=dtype).to(memory_format=torch.channels_last)
        if rng.random() < 0.2:
            out = case.place(out, written=True)
        options["out"] = out
    images = case.place(case.bytes8(n, 3, h, w))
    return {
        "images": images, "veils": veils, "rows": case.rows(n, people), "a": rng.choice((0, 51, 255)),
    }, options  # fmt: skip


def _sealing(case: Case, name: str, photos: torch.Tensor, veils: torch.Tensor) -> tuple[dict, dict]:
    """Photos with keys; levels and rounds. Photos of fewer than 96 values are among them, which are refused."""
    rng, people = case.rng, len(veils)
    positional = {
        name: case.place(photos), "veils": case.place(veils), "rows": case.rows(len(photos), people),
        "keys": case.place(case.bytes8(people, 32)),
    }  # fmt: skip
    return positional, {"levels": rng.choice((16, 32, 64, 64, 128)), "rounds": rng.choice((12, 20))}


def _seal(case: Case):
    n, people, h, w = _photos(case)
    positional, options = _sealing(case, "images", case.bytes8(n, 3, h, w), case.bytes8(people, 3, h, w))
    positional["nonces"] = case.place(case.bytes8(n, 12))
    options["lossless"] = case.rng.random() < 0.4
    dtype = torch.uint16 if options["lossless"] else torch.uint8
    out = case.out((n, 3, h, w), dtype, positional["images"])
    return positional, options if out is None else options | {"out": out}


def _unseal(case: Case):
    n, people, h, w = _photos(case)
    values = case.bytes8(n, 3, h, w)
    sealed = (values.int() * case.rng.choice((1, 256, 257))).to(torch.uint16) if case.rng.random() < 0.4 else values
    positional, options = _sealing(case, "sealed", sealed, case.bytes8(people, 3, h, w))
    out = case.out((n, 3, h, w), torch.uint8, positional["sealed"])
    return positional, options if out is None else options | {"out": out}


def _seal_normalize(case: Case):
    given, options = _blend_normalize(case)
    n, people = len(given["images"]), len(given["veils"])
    positional = {name: given[name] for name in ("images", "veils", "rows")}
    positional |= {"keys": case.place(case.bytes8(people, 32)), "nonces": case.place(case.bytes8(n, 12))}
    return positional, options | {"levels": case.rng.choice((16, 64, 128)), "rounds": case.rng.choice((12, 20))}


def _block_options(case: Case) -> dict:
    rng = case.rng
    options: dict = {
        "block": rng.choice(((3, 3), (1, 1), (2, 5), (4, 4), (3, 3), (64, 2))),
        "stride": rng.choice((1, 1, 2, 3, 9)),
    }
    options["form"] = rng.choice(("consistent", "literal"))
    return options


def _block_variance(case: Case):
    n, _, h, w = _photos(case)
    return {"images": case.place(case.floats(n, case.rng.choice((1, 3, 4)), h, w, dtype=case.rng.choice(FLOATS)))}, (
        _block_options(case)
    )


def _block_variance_gradient(case: Case):
    positional, options = _block_variance(case)
    images = positional["images"]
    if case.rng.random() < 0.4:
        options["scale"] = case.place(case.floats(len(images), dtype=images.dtype))
    out = case.out(tuple(images.shape), images.dtype, images)
    if out is not None:
        options["out"] = out
    return positional, options


def _hull_distance(case: Case):
    rng = case.rng
    dtype, d = rng.choice(FLOATS), rng.choice((1, 2, 5, 16, 33, 128))
    counts = [rng.choice((0, 1, 2, 5)) for _ in range(rng.randint(1, 4))]
    clean_counts = counts if rng.random() < 0.5 else [rng.choice((1, 2, 6, 9)) for _ in counts]
    features = case.floats(sum(counts), d, dtype=dtype, low=-1)
    clean = case.floats(sum(clean_counts), d, dtype=dtype, low=-0.5)
    options: dict = {"subspace": rng.choice(("convex", "affine", "span", "centre", "self"))}
    if clean_counts is not counts or rng.random() < 0.3:
        options["clean_offsets"] = case.offsets(clean_counts)
    if options["subspace"] == "self" and rng.random() < 0.7:
        rows = [rng.randrange(max(m, 1)) for n, m in zip(counts, clean_counts, strict=True) for _ in range(n)]
        options["own"] = case.place(torch.tensor(rows, dtype=torch.int64))
    if rng.random() < 0.3:
        options["width"] = rng.choice((0, 1, max(clean_counts), max(clean_counts) + 3))
    if rng.random() < 0.3:
        options["weights"] = case.place(case.floats(sum(counts), max(clean_counts), dtype=dtype))
    positional = {"features": case.place(features), "clean": case.place(clean), "offsets": case.offsets(counts)}
    return positional, options


def _ssim(case: Case):
    n, _, h, w = _photos(case)
    rng, dtype = case.rng, case.rng.choice(FLOATS)
    shape = (n, rng.choice((1, 3)), h, w)
    x = case.place(case.floats(*shape, dtype=dtype))
    y = x if rng.random() < 0.1 else case.place(case.floats(*shape, dtype=dtype))
    options = {
        "window": rng.choice((1, 3, 7, 11, 11, 33)), "sigma": rng.choice((1.5, 0.5, 10.0, 1e-3)),
        "borders": rng.choice(("valid", "same")), "data_range": rng.choice((1.0, 1, 2.0)),
    }  # fmt: skip
    return {"x": x, "y": y}, options


def _ssim_gradient(case: Case):
    positional, options = _ssim(case)
    if case.rng.random() < 0.4:
        x = positional["x"]
        options["scale"] = case.place(case.floats(len(x), dtype=x.dtype))
    return positional, options


def _veil_step_(case: Case):
    rng = case.rng
    height, width, dtype = rng.choice(SIDES[:14]), rng.choice(SIDES[:14]), rng.choice(FLOATS)
    counts = [rng.choice((0, 1, 2, 4)) for _ in range(rng.randint(1, 3))]
    people, photos = len(counts), sum(counts)
    gradient_counts = counts if rng.random() < 0.5 else [1] * people
    options: dict = {"a": rng.choice((0, 51, 255)), **_block_options(case)}
    for name, values in (("lam", (0.0, 0.04)), ("mu", (0.0, 0.01)), ("step", (0.0, 0.1)), ("decay", (0.0, 0.9, 1.0))):
        options[name] = rng.choice(values)
        if rng.random() < 0.2:
            options[name] = case.place(torch.full((people,), options[name], dtype=rng.choice(FLOATS)))
    if gradient_counts is not counts:
        options["gradient_offsets"] = case.offsets(gradient_counts)
    if rng.random() < 0.4:
        options["active"] = case.place(torch.tensor([rng.random() < 0.5 for _ in counts]))
    if rng.random() < 0.4:
        options["mean_images"] = case.place(case.floats(people, 3, height, width, dtype=dtype))
    options["visual"] = rng.choice(("norm", "mse"))
    shape = (3, height, width)
    positional = {
        "veils": case.place(case.floats(people, *shape, dtype=dtype), written=True, overlapping=False),
        "momentum": case.place(case.floats(people, *shape, dtype=dtype, low=-1), written=True, overlapping=False),
        "gradients": case.place(case.floats(sum(gradient_counts), *shape, dtype=dtype, low=-0.01, high=0.01)),
        "images": case.place(case.bytes8(photos, *shape)),
        "offsets": case.offsets(counts),
    }
    if rng.random() < 0.04:
        positional["momentum"] = positional["veils"]
    return positional, options


def _activations(case: Case) -> tuple[torch.Tensor, dict]:
    """Values in channels_last more often than not, and a slope."""
    rng = case.rng
    n, _, h, w = _photos(case)
    shape = (n, rng.choice((1, 3, 8, 16, 24)), h, w) if rng.random() < 0.8 else (n, rng.choice((1, 5, 64)))
    dtype = rng.choice((*FLOATS, torch.bfloat16, torch.float16))
    values = case.floats(*shape, dtype=dtype, low=-8, high=8)
    if rng.random() < 0.1:
        x = case.place(values, written=True, overlapping=False)
    else:
        ordered = values.permute(0, 2, 3, 1) if values.ndim == 4 else values
        flat = case.place(ordered.reshape(-1), written=True, overlapping=False).view(ordered.shape)
        x = flat.permute(0, 3, 1, 2) if values.ndim == 4 else flat
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    size = rng.choice((1, shape[1], shape[1], shape[1] + 1))
    return x, {"slope": case.place(case.floats(size, dtype=kind, low=-0.5))} if rng.random() < 0.6 else {}


def _rectify_(case: Case):
    x, options = _activations(case)
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    if case.rng.random() < 0.5:
        shape = tuple(x.shape[1:]) if case.rng.random() < 0.5 else (x.shape[1],)
        options["add"] = case.place(case.floats(*shape, dtype=kind, low=-2))
    if case.rng.random() < 0.3:
        options["top"] = case.rng.choice((6.0, 0.5, 1e-40, 1e39, 0.0, float("inf")))
    return {"x": x}, options


def _rectify_gradient_(case: Case):
    gradient, options = _activations(case)
    count = (gradient[:1].numel() + 7) // 8 if len(gradient) else case.rng.choice((1, 2))
    return {"gradient": gradient, "bits": case.place(case.bytes8(len(gradient), count))}, options


DRAWS = {
    "blend": _blend, "recover": _recover, "blend_normalize": _blend_normalize, "block_variance": _block_variance,
    "block_variance_gradient": _block_variance_gradient, "hull_distance": _hull_distance, "ssim": _ssim,
    "ssim_gradient": _ssim_gradient, "veil_step_": _veil_step_, "seal": _seal, "unseal": _unseal,
    "seal_normalize": _seal_normalize, "rectify_": _rectify_, "rectify_gradient_": _rectify_gradient_,
}  # fmt: skip


class Ops:
    """Every op on the reference and on the C++ kernels."""

    name = "ops"

    def __init__(self, folder: Path):
        self.isas = [None]
        if {b.name: b for b in vk.list_backends()}["cpu"].available:
            known = ("baseline", "avx2", "avx512")
            self.isas = list(known[: known.index(native().best_isa()) + 1])

    def input(self, number: int, rng: random.Random) -> bytes:
        """A number, from which everything is drawn."""
        return b"%d" % rng.getrandbits(60)

    def check(self, data: bytes) -> None:
        """Both backends, and the reference without `out`."""
        seed = data.decode()
        rng = random.Random(f"how {seed}")
        plain = Case(random.Random(seed), DRAWS)
        with_out = plain.options.pop("out", None) is not None
        wanted = plain.call("reference")
        for backend in ("reference", "cpu")[: 1 + (self.isas != [None])]:
            case = Case(random.Random(seed), DRAWS)
            outside = case.bytes_outside()
            found = case.call(backend, rng.randint(1, 4), rng.choice(self.isas) if backend == "cpu" else None)
            label = f"{backend}, {case.op}"
            for before, after in zip(outside, case.bytes_outside(), strict=True):
                require(torch.equal(before, after), f"{label}: bytes changed outside of what it may write")
            if isinstance(found, BackendError):  # asked for by name, and it does not serve that device
                continue
            if isinstance(found, Exception) or isinstance(wanted, Exception):
                alone_refused = isinstance(found, Exception) and not isinstance(wanted, Exception)
                both = isinstance(found, Exception) and isinstance(wanted, Exception)
                require(
                    both or (alone_refused and with_out), f"{label}: {found!r:.300}; the reference: {wanted!r:.300}"
                )
                continue
            try:
                _compare(label, case, found, plain, wanted)
            except Wrong:  # the reference rounds too: is it the one that is off?
                if not case.entry.tolerances or case.entry.writes:
                    raise
                precise = Case(random.Random(seed), DRAWS).in_float64()
                _compare(label, case, found, plain, tuple(t.to(f.dtype) for t, f in zip(precise, found, strict=True)))


def _least(case: Case, index: int) -> float:
    """What the table counts as small for this result of this call: where it depends on the arguments, 0 otherwise."""
    tolerance = case.entry.tolerances.get(torch.float64)
    if isinstance(tolerance, tuple) and callable(tolerance[index].least):
        return tolerance[index].least({**case.positional, **case.options})
    return 0.0


def _compare(label: str, case: Case, found, plain: Case, wanted) -> None:
    """The results are the reference's, as nearly as they can be."""
    pairs = list(zip(found, wanted, strict=True))
    if case.op == "hull_distance":
        if case.argument("subspace", "convex") in ("affine", "span"):
            return  # ill conditioned where there are more photos than dimensions
        pairs = pairs[:1]  # weights need not be the same
    if case.op == "rectify_":
        pairs += [(case.argument("x"), plain.argument("x"))]
    if case.op == "veil_step_":
        pairs += [(case.argument("momentum"), plain.argument("momentum"))]
    for index, (a, b) in enumerate(pairs):
        require(isinstance(a, torch.Tensor) and a.shape == b.shape and a.dtype == b.dtype, f"{label}: shape or dtype")
        if a.device.type != "cpu":
            continue
        if case.entry.exact:
            require(torch.equal(a, b), f"{label}: {int((a != b).sum())} of {a.numel()} values differ")
        elif case.tame and a.numel() and bool(b.isfinite().all()):
            bound = max(BOUNDS[dtype] for dtype in (a.dtype, *case.dtypes()) if dtype in BOUNDS)
            # A score is a mean of terms up to 1 that may cancel, and so are slopes: the reference itself is off by 4e-7
            # and 1e-6 in float32 (of two equal photos its slope is not quite 0).
            least = 1e-2 if case.op.startswith("ssim") else 1e-3
            scale = max(float(b.detach().abs().max()), least, _least(case, index))
            error = float((a.detach().double() - b.detach().double()).abs().max())
            require(error <= bound * scale, f"{label}: off by {error}, largest {scale}")
