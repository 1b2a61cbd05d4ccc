"""hull_distance in the table."""

from __future__ import annotations

import itertools

import torch

from veilkern import reference
from veilkern.testing.compare import Arguments, require_near
from veilkern.testing.entry import Bad, Entry, KernelCall, Results, Sample, Size, Workload
from veilkern.testing.making import normal, offsets_of, on

SUBSPACES = ("convex", "affine", "span", "centre", "self")
SLACK = {torch.float32: 4e-6, torch.float64: 1e-8}  # of the distance between features of unit length


def _unit(count: int, d: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(normal(count, d, seed=seed, dtype=torch.float64) + 1.0)


def _people(counts=(3, 2), clean_counts=None, d=16, *, dtype=torch.float32, **options) -> Arguments:
    made = {
        "features": _unit(sum(counts), d, 0).to(dtype),
        "clean": _unit(sum(counts if clean_counts is None else clean_counts), d, 1).to(dtype),
        "offsets": offsets_of(counts),
    }
    return made | ({} if clean_counts is None else {"clean_offsets": offsets_of(clean_counts)}) | options


def _strided(subspace: str) -> Arguments:
    made = _people((4, 2), subspace=subspace)
    wide = torch.stack([made["features"], made["clean"]], 2).repeat_interleave(2, 0)
    return made | {"features": wide[::2, :, 0], "clean": wide[::2, :, 1], "offsets": offsets_of((4, 2, 1))[:3]}


def _flat(subspace: str) -> Arguments:
    """Clean features that are all the same."""
    made = _people((4,), subspace=subspace, dtype=torch.float64)
    return made | {"clean": made["clean"][:1].expand(4, -1).contiguous()}


def _not_finite(subspace: str) -> Arguments:
    made = _people(subspace=subspace, dtype=torch.float64)
    made["features"][1, 0] = float("nan")
    return made


def _apart(subspace: str, dtype: torch.dtype) -> Arguments:
    """Photos and clean features in other counts, with a start and room for more weights."""
    made = _people((2, 1, 0), (5, 3, 4), subspace=subspace, dtype=dtype, own=torch.tensor([4, 0, 2]))
    return made | ({"weights": torch.full((3, 5), 0.2, dtype=dtype)} if subspace == "convex" else {"width": 6})


def _clean_offsets(made: Arguments) -> torch.Tensor:
    return made["clean_offsets"] if "clean_offsets" in made else made["offsets"]


def agree(found: Results, wanted: Results, made: Arguments) -> None:
    """The distance is the reference's; the weights need not be, but distance and gradient are those of the weights, and
    there is none beyond a person's own."""
    (distance, weights, gradient), truth, subspace = found, wanted[0], made.get("subspace", "convex")
    double = distance.dtype == torch.float64
    slack = torch.full_like(truth, SLACK[distance.dtype])
    if subspace in ("affine", "span") and not double:  # the ridge, 1.2e-5, and rounded Gram matrices weigh with w^2
        slack = 2e-5 * (1 + weights.double().square().sum(1))
    require_near("distance", distance, truth, slack)
    clean_offsets = _clean_offsets(made).tolist()
    person = torch.repeat_interleave(torch.arange(len(clean_offsets) - 1), made["offsets"].diff()).tolist()
    for i, p in enumerate(person):
        hull = made["clean"][clean_offsets[p] : clean_offsets[p + 1]].double()
        residual = made["features"][i].double() - weights[i, : len(hull)].double() @ hull
        bound = (1e-9 if double else 2e-4) + 1e-4 * residual.abs()
        require_near(f"gradient of feature {i}", gradient[i], 2 * residual, bound)
        beyond = weights[i, len(hull) :]
        require_near(f"weights of feature {i} beyond its person", beyond, torch.zeros_like(beyond))
    if subspace in ("convex", "affine", "centre"):
        known = weights.isfinite().all(1)
        total = weights[known].double().sum(1)
        require_near("sum of weights", total, torch.ones_like(total), 1e-4)
    if subspace == "convex":
        require_near("negative weights", weights.clamp_max(0).nan_to_num(), torch.zeros_like(weights))


def registered(made: Arguments) -> list[tuple[str, tuple]]:
    """The torch op of a call: as it is, and with a gradient to come."""
    clean_offsets = _clean_offsets(made)
    most = int(clean_offsets.diff().max()) if len(clean_offsets) > 1 else 0
    rest = (
        made["clean"], made["offsets"], clean_offsets, made.get("subspace", "convex"), made.get("weights"),
        made.get("own"), made.get("width", most),
    )  # fmt: skip
    features = made["features"]
    return [("hull_distance", (features, *rest)), ("hull_distance", (features.clone().requires_grad_(), *rest))]


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


PAIRS = tuple(itertools.product(SUBSPACES, SLACK))
SAMPLES = (
    *(
        Sample("ordinary", f"{k}, {_short(t)}", lambda k=k, t=t: _people(subspace=k, dtype=t),
               traced=k in ("convex", "self"))
        for k, t in PAIRS
    ),
    *(
        Sample("ragged", f"{k}, {_short(t)}", lambda k=k, t=t: _people((4, 0, 1, 10, 0, 2), subspace=k, dtype=t),
               light=(k, t) != ("convex", torch.float64))
        for k, t in PAIRS
    ),
    *(Sample("ragged", f"other counts, {k}, {_short(t)}", lambda k=k, t=t: _apart(k, t), traced=k == "convex")
      for k, t in PAIRS),
    *(Sample("empty", f"{k}, no photos", lambda k=k: _people((0,), (3,), subspace=k)) for k in ("convex", "affine")),
    Sample("empty", "nobody", lambda: _people(())),
    *(Sample("one", k, lambda k=k: _people((1,), subspace=k)) for k in SUBSPACES),
    Sample("one", "of one number", lambda: _people((1,), d=1)),
    *(Sample("odd", f"{k}, 37 numbers", lambda k=k: _people((5, 3), d=37, subspace=k)) for k in SUBSPACES),
    *(
        Sample("odd", f"{k}, more photos than numbers",
               lambda k=k: _people((17,), d=5, subspace=k, dtype=torch.float64), light=k != "convex")
        for k in ("convex", "centre", "self")
    ),
    *(Sample("strided", k, lambda k=k: _strided(k)) for k in SUBSPACES),
    *(Sample("extreme", f"a flat hull, {k}", lambda k=k: _flat(k)) for k in ("convex", "affine")),
    *(Sample("extreme", f"not finite, {k}", lambda k=k: _not_finite(k)) for k in ("centre", "self")),
    *(
        Sample("many", f"{k}, {_short(t)}",
               lambda k=k, t=t: _people((10, 1, 17, 3), d=70, subspace=k, dtype=t), light=False)
        for k, t in PAIRS
    ),
)  # fmt: skip

BAD = (
    Bad({"features": torch.zeros(5, 16, dtype=torch.int64)}, TypeError, "features must be float32 or float64"),
    Bad({"clean": torch.zeros(5, 8)}, ValueError, r"clean must be float32 \[M, 16\]"),
    Bad({"clean": torch.zeros(5, 16, dtype=torch.float64)}, TypeError, "clean must be float32"),
    Bad({"offsets": torch.tensor([0, 2, 7])}, ValueError, "offsets must rise from 0 to 5"),
    Bad({"offsets": torch.tensor([0, 3, 2, 5])}, ValueError, "offsets must rise from 0 to 5"),
    Bad({"offsets": torch.tensor([0, 3, 5], dtype=torch.int32)}, TypeError, "offsets must be int64"),
    Bad({"subspace": "cone"}, ValueError, "subspace must be one of"),
    Bad({"clean": torch.zeros(6, 16)}, ValueError, "clean_offsets must be given"),
    Bad({"clean_offsets": torch.tensor([0, 5])}, ValueError, "clean_offsets must have 3 entries like offsets"),
    Bad({"clean_offsets": torch.tensor([0, 0, 5])}, ValueError, "clean_offsets must give every person with photos"),
    Bad({"weights": torch.zeros(2, 3)}, ValueError, "weights must be"),
    Bad({"weights": torch.zeros(5, 2)}, ValueError, "weights must have room for the most"),
    Bad({"weights": torch.zeros(5, 4), "width": 3}, ValueError, r"weights must be \[5, 3\]"),
    Bad({"width": 2}, ValueError, "width must have room for the most clean features of a person, 3, got 2"),
    Bad({"width": 2.0}, ValueError, "width must be an integer"),
    Bad({"subspace": "self", "own": torch.tensor([0, 1, 3, 0, 0])}, ValueError, "own must name a clean feature of"),
    Bad(
        {"subspace": "self", "clean_offsets": torch.tensor([0, 2, 5])}, ValueError,
        "own must say which clean feature belongs to which photo",
    ),
)  # fmt: skip

PEOPLE, PHOTOS, DIMENSIONS = (1024, 64), 10, 512


def _problem(device: torch.device | str, people: int) -> Arguments:
    """Features of unit length; photos of one person have a cosine of about 0.6, as real ones do."""
    person = torch.nn.functional.normalize(normal(people, 1, DIMENSIONS), dim=2)

    def photos(seed: int) -> torch.Tensor:
        noise = normal(people, PHOTOS, DIMENSIONS, seed=seed) * (0.8 / DIMENSIONS**0.5)
        return torch.nn.functional.normalize(person + noise, dim=2).flatten(0, 1)

    made = {"features": photos(1), "clean": photos(2), "offsets": torch.arange(people + 1) * PHOTOS}
    return on(device, made) | {"width": PHOTOS}


def sizes(on_gpu: bool) -> tuple[Size, ...]:
    """People of ten photos; both features read, the gradient written."""
    people = PEOPLE[0] if on_gpu else PEOPLE[1]
    return (
        Size(
            f"convex, {people} people x {PHOTOS} photos x {DIMENSIONS}",
            lambda device: _problem(device, people),
            3 * 4 * people * PHOTOS * DIMENSIONS,
            parts=people,
        ),
    )


def _kernel(work: Workload, subspace: str, width: int = 10) -> Arguments:
    most = int(work.offsets.diff().max())
    return {
        "features": work.features, "clean": work.features.flip(1), "offsets": work.offsets, "subspace": subspace,
        "width": max(width, most),
    }  # fmt: skip


FIRST = (0,)  # weights, and with them the gradient, need not be the same
CALLS = (
    KernelCall("convex", "narrow f32", lambda work: _kernel(work, "convex"), FIRST),
    KernelCall("affine", "narrow f64", lambda work: _kernel(work, "affine"), FIRST),
    KernelCall("centre", "", lambda work: _kernel(work, "centre"), FIRST),
    KernelCall("100 wide", "wide f32", lambda work: _kernel(work, "convex", 100), FIRST),
    KernelCall("", "wide f64", lambda work: _kernel(work, "affine", 100), FIRST),
)
ENTRIES = (
    Entry(
        "hull_distance", "hull_distance", reference.hull_distance, SAMPLES, BAD, registered, unknown=("out", "width"),
        missing={"channels_last": "features are rows: there are no channels"}, agree=agree, sizes=sizes,
        calls=CALLS,
    ),
)  # fmt: skip
