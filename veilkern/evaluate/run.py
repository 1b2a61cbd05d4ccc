"""evaluate: everything that can be said of a bank, a network and photos, as plain numbers."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from veilkern.crafting.config import CraftConfig
from veilkern.data.people import People
from veilkern.data.photos import photo_id
from veilkern.evaluate import metrics
from veilkern.evaluate.gallery import Gallery
from veilkern.evaluate.identification import TAR, identify
from veilkern.evaluate.lpips import SMALLEST, Lpips
from veilkern.evaluate.pages import plain
from veilkern.evaluate.verdict import Verdict, judge
from veilkern.networks.ensemble import crafted_for
from veilkern.networks.face_model import FaceModel
from veilkern.networks.matching import Features
from veilkern.veils.bank import VeilBank
from veilkern.veils.protect import protect, recover
from veilkern.veils.sealing import MasterKeys, keyring_of

# Photos the veil was crafted on, other photos of the person, and photos of which the bank does not say.
SETS = ("crafting", "unseen", "unrecorded")
MEASURES = {
    "rank1": "MSR rank-1",
    "rank5": "MSR rank-5",
    "rank10": "MSR rank-10",
    "own_rank1": "rank-1, own clean photo",
    "tar_1e3": "TAR at FAR 1e-3",
    "tar_1e4": "TAR at FAR 1e-4",
    "cosine": "cosine to clean",
    "ssim_protected": "SSIM protected",
    "psnr_protected": "PSNR protected, dB",
    "contour2": "|contour| sigma 2",
    "contour2_others": "  by chance (others' photos)",
    "contour4": "|contour| sigma 4",
    "ssim_recovered": "SSIM recovered",
    "psnr_recovered": "PSNR recovered, dB",
    "max_error": "max error of recover",
}
# Measured where LPIPS' weights are given.
LPIPS = {"lpips_protected": "LPIPS protected", "lpips_recovered": "LPIPS recovered"}
FOUND = ("rank1", "rank5", "rank10", "own_rank1", *TAR)  # what `identify` finds
# The same measured on clean photos: what the network reaches without protection.
CLEAN = {name: f"clean_{name}" for name in FOUND if name != "own_rank1"}
# Of these a person's worst photo is told too, as <measure>_worst.
WORST = ("cosine", "ssim_protected", "contour2", "contour4", "ssim_recovered")
MORE_IS_WORSE = frozenset(
    {"ssim_protected", "psnr_protected", "contour2", "contour2_others", "contour4", "max_error", "lpips_recovered"}
)
# What of a bank goes into a report: no seed (the key follows from it), no key, no photo ids.
_RECORD = ("name", "photos", "status", "steps", "feature_distance", "cosine", "visual", "variance", "total")
_HELD_OUT = ("photos", "cosine", "rank1")
_CONFIG = frozenset(f.name for f in dataclasses.fields(CraftConfig)) - {"seed"}


@dataclass
class Evaluation:
    """persons: one dict a person and set: `name`, `set`, `photos`, `measures`, the clean baseline (CLEAN) and the value
    of the worst photo (`contour2_worst` ...). overall: per set, the mean over persons (max_error: the largest), with
    `worst`, the worst person of each measure, and `impostor_pairs`, which TAR is measured against. photos: per set, per
    photo figures, with `file` and `photo`, its number among the people evaluated. lossless_exact: whether every photo
    came back bit for bit from the lossless form. gallery: photos of others used. notices: what the reader must know.
    lpips: about LPIPS' weights, None where it was not measured."""

    persons: list[dict[str, Any]]
    overall: dict[str, dict[str, Any]]
    photos: dict[str, dict[str, list[Any]]]
    lossless_exact: bool
    model: dict[str, Any]
    bank: dict[str, Any]
    gallery: int
    notices: list[str] = field(default_factory=list)
    lpips: dict[str, Any] | None = None

    @property
    def measures(self) -> dict[str, str]:
        """What was measured, by name, with what the reader sees."""
        return MEASURES if self.lpips is None else MEASURES | LPIPS

    def verdicts(self) -> list[Verdict]:
        """Recognised? Hidden? Recoverable? By the thresholds of veilkern.evaluate.verdict."""
        return judge(self)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: numbers that are not finite (rank of a person with one photo) become null."""
        return plain({"verdict": [dataclasses.asdict(v) for v in self.verdicts()]} | self.__dict__)


def evaluate(
    model: FaceModel,
    people: People,
    bank: VeilBank,
    *,
    gallery: torch.Tensor | Gallery | None = None,
    key: MasterKeys | None = None,
    lpips: Lpips | None = None,
) -> Evaluation:
    """Measure the protection of `people` (those with a veil in `bank`) as `model` and a human see it.

    Photos that the veil was crafted on (by the bank's record), unseen ones, and those of which the bank has no record
    apart. key: the master key of a sealed bank. gallery: uint8 photos [G, 3, H, W] of other people, the distractors of
    MSR beside the other persons, or a `Gallery`, of any length, that this network embedded; a picture that is among the
    people's too is left out. lpips: measures LPIPS too. A photo that the network answers with NaN is left out and
    listed; a protected one counts as not recognised. Warns when the bank was crafted for another network. Raises
    ValueError when nobody has a veil or a size does not fit, ModelError when the network answers no photo, or when the
    gallery is of another one.
    """
    _check_sizes(model, people, bank, gallery, lpips)
    keyring = keyring_of("evaluate", bank, key)
    if keyring is not None:
        keyring.check()
    notices = _notices(model, people, bank)
    known = set(bank.names)
    with_veil = torch.tensor([name in known for name in people.names])[people.rows].nonzero().flatten()
    if not len(with_veil):
        raise ValueError("evaluate: nobody in people has a veil in the bank")
    clean = model.features(people.take(with_veil).images, check=False)
    readable = clean.isfinite().all(1)
    if not readable.any():
        model.features(people.images[with_veil[:1]])  # raises with the cause
    _list_files(notices, people, with_veil[~readable], "the network has no feature of the clean photo, left out")
    place, clean = with_veil[readable], clean[readable]
    chosen = people.take(place)
    ids = [photo_id(image) for image in chosen.images]
    distractors = _distractors(model, gallery, ids, clean, notices)
    rows = bank.rows(chosen.names)[chosen.rows]
    hidden_photos = protect(chosen.images, bank, rows, key=key)
    hidden = model.features(hidden_photos, check=False)
    _list_files(notices, chosen, ~hidden.isfinite().all(1), "no feature of the protected photo: not recognised")
    back = recover(protect(chosen.images, bank, rows, key=key, lossless=True), bank, rows, key=key)
    inexact = (back != chosen.images).flatten(1).any(1)
    _list_files(notices, chosen, inexact, "NOT given back exactly by the lossless form")
    figures = _figures(chosen, hidden_photos, recover(hidden_photos, bank, rows, key=key), lpips)
    sets = _sets(chosen, ids, bank)
    persons, photos, impostors = [], {}, {}
    for number, label in enumerate(SETS):
        index = (sets == number).nonzero().flatten()
        if len(index):
            part = chosen.take(index)
            records, by_photo, impostors[label] = _measure(
                part, hidden[index], clean[index], distractors, figures, index
            )
            persons += [record | {"set": label} for record in records]
            photos[label] = {"file": part.files, "photo": place[index].tolist(), **by_photo}
    overall = {label: _overall([r for r in persons if r["set"] == label]) for label in photos}
    for label, pairs in impostors.items():
        overall[label]["impostor_pairs"] = pairs
    about_model, about_lpips = model.about(), None if lpips is None else lpips.about
    exact = not bool(inexact.any())
    return Evaluation(
        persons, overall, photos, exact, about_model, _about(bank), len(distractors), notices, about_lpips
    )


def _check_sizes(
    model: FaceModel, people: People, bank: VeilBank, gallery: torch.Tensor | Gallery | None, lpips: Lpips | None
) -> None:
    wanted = tuple(people.images.shape[2:])
    if bank.size != wanted:
        raise ValueError(f"evaluate: the bank's veils are {_by(bank.size)}, the photos of people {_by(wanted)}")
    if tuple(model.input.size) != wanted:
        raise ValueError(f"evaluate: {model.name} reads photos of {_by(model.input.size)}, people has {_by(wanted)}")
    if lpips is not None and min(wanted) < SMALLEST:
        raise ValueError(f"evaluate: lpips takes photos of {SMALLEST} x {SMALLEST} or more, people has {_by(wanted)}")
    if isinstance(gallery, Gallery):
        gallery.require(model)
    elif gallery is not None and (gallery.dtype != torch.uint8 or tuple(gallery.shape[1:]) != (3, *wanted)):
        raise ValueError(
            f"evaluate: gallery must be uint8 [G, 3, {wanted[0]}, {wanted[1]}] as the photos of people are, got "
            f"{gallery.dtype} {list(gallery.shape)}"
        )


def _by(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"


def _notices(model: FaceModel, people: People, bank: VeilBank) -> list[str]:
    notices = []
    if not crafted_for(bank.model, model):
        notices.append(
            f"the veils were crafted for another network ({bank.model.get('name')}) than this one ({model.name}): "
            "recognition by this network was never promised"
        )
        warnings.warn(f"evaluate: {notices[-1]}", UserWarning, stacklevel=3)
    if missing := sorted(set(people.names) - set(bank.names)):
        notices.append(f"no veil, left out: {', '.join(missing)}")
    if absent := sorted(set(bank.names) - set(people.names)):
        notices.append(f"a veil but no photos here: {', '.join(absent)}")
    return notices


def _list_files(notices: list[str], people: People, which: torch.Tensor, cause: str) -> None:
    """One notice that names these photos (a mask or their numbers), if there are any."""
    index = which.nonzero().flatten() if which.dtype == torch.bool else which
    if len(index):
        more = f" and {len(index) - 10} more" if len(index) > 10 else ""
        notices.append(f"{cause}: {', '.join(people.files[i] for i in index[:10].tolist())}{more}")


def _distractors(
    model: FaceModel, gallery: torch.Tensor | Gallery | None, ids: list[str], clean: torch.Tensor, notices: list[str]
) -> Features:
    """Features [G, d] of the gallery without the pictures that are the people's own and those without a feature."""
    if gallery is None or not len(gallery):
        return clean[:0]
    if isinstance(gallery, Gallery):
        return _embedded(gallery, ids, notices)
    own = set(ids)
    strangers = torch.tensor([photo_id(image) not in own for image in gallery])
    if twins := int((~strangers).sum()):
        notices.append(f"{twins} of {len(gallery)} gallery photos are pictures of the people themselves, left out")
    if not strangers.any():
        return clean[:0]
    features = model.features(gallery[strangers], check=False)
    good = features.isfinite().all(1)
    if bad := int((~good).sum()):
        notices.append(f"the network has no feature of {bad} of {len(gallery)} gallery photos, left out")
    return features[good]


def _embedded(gallery: Gallery, ids: list[str], notices: list[str]) -> Features:
    """The same of a gallery that was embedded before."""
    others = gallery.without(ids)
    total = len(gallery) + gallery.left_out
    if twins := len(gallery) - len(others):
        notices.append(f"{twins} of {total} gallery photos are pictures of the people themselves, left out")
    if gallery.left_out:
        notices.append(f"the network had no feature of {gallery.left_out} of {total} gallery photos, left out")
    return others


def _sets(people: People, ids: list[str], bank: VeilBank) -> torch.Tensor:
    """Which of SETS each photo belongs to, int64 [N]."""
    crafted: dict[str, set[Any] | None] = dict.fromkeys(bank.names)
    for name, record in zip(bank.names, bank.records, strict=False):
        listed = record.get("photo_ids") if isinstance(record, Mapping) else None
        crafted[name] = set(map(str, listed)) if isinstance(listed, (list, tuple)) else None

    def number(name: str, mark: str) -> int:
        known = crafted[name]
        return SETS.index("unrecorded") if known is None else int(mark not in known)

    names = [people.names[p] for p in people.rows.tolist()]
    return torch.tensor([number(name, mark) for name, mark in zip(names, ids, strict=True)], dtype=torch.int64)


def _figures(
    people: People, hidden_photos: torch.Tensor, back: torch.Tensor, lpips: Lpips | None
) -> dict[str, torch.Tensor]:
    """Per photo figures, float64 [N] each; contour keeps its sign."""
    x = people.images
    figures = {
        "ssim_protected": metrics.ssim(x, hidden_photos),
        "psnr_protected": metrics.psnr(x, hidden_photos),
        "ssim_recovered": metrics.ssim(x, back),
        "psnr_recovered": metrics.psnr(x, back),
        "contour2": metrics.contour(x, hidden_photos, 2.0),
        "contour2_others": _contour_by_chance(people, hidden_photos),
        "contour4": metrics.contour(x, hidden_photos, 4.0),
        "max_error": (x.int() - back.int()).abs().flatten(1).max(1).values.double(),
    }
    if lpips is not None:
        clean = lpips.tower(x)
        figures |= dict(zip(LPIPS, (lpips.distance(clean, y) for y in (hidden_photos, back)), strict=True))
    return figures


def _contour_by_chance(people: People, hidden_photos: torch.Tensor) -> torch.Tensor:
    """Contour [N] of each protected photo with a photo of somebody else: what is no likeness at all. NaN for one alone.

    Photo k of a person meets photo k of those who come after (from the end on: from the first person).
    """
    total, counts = len(people.images), people.counts[people.rows]
    if len(people) < 2:
        return torch.full((total,), math.nan, dtype=torch.float64)
    place = torch.arange(total) - people.offsets[people.rows]
    other = (people.offsets[people.rows + 1] + place % (total - counts)) % total
    return metrics.contour(people.images[other], hidden_photos, 2.0)


def _measure(
    part: People,
    hidden: torch.Tensor,
    clean: torch.Tensor,
    gallery: Features,
    figures: Any,
    index: torch.Tensor | None,
) -> tuple[list[dict[str, Any]], dict[str, list[Any]], int]:
    """The records of one set's persons, the figures of its photos, and how many impostor pairs there were."""
    found, baseline_found = identify(hidden, clean, part, gallery), identify(clean, clean, part, gallery)
    values = {name: v[index] for name, v in figures.items()} | {"cosine": _cosine_to_clean(hidden, clean, part)}
    records = []
    for p, name in enumerate(part.names):
        at = slice(int(part.offsets[p]), int(part.offsets[p + 1]))
        sizes = {k: v[at].abs() if k.startswith("contour") else v[at] for k, v in values.items()}
        record = {"name": name, "photos": int(part.counts[p])}
        record |= {k: v.nanmean().item() for k, v in sizes.items()}
        record |= {k: getattr(found[p], k) for k in FOUND}
        record |= {key: getattr(baseline_found[p], k) for k, key in CLEAN.items()}
        record |= {f"{k}_worst": _worst(k, sizes[k].tolist()) for k in WORST}
        records.append(record | {"max_error": int(sizes["max_error"].max())})
    by_photo = {k: [round(v, 6) for v in column.tolist()] for k, column in values.items()}
    by_photo["rank1"] = [round(share, 6) for one in found for share in one.by_photo]
    return records, by_photo, found[0].impostors


def _cosine_to_clean(hidden: torch.Tensor, clean: torch.Tensor, part: People) -> torch.Tensor:
    """Cosine [N] of each protected photo to its person's mean clean feature."""
    sums = torch.zeros(len(part), clean.shape[1], dtype=clean.dtype).index_add_(0, part.rows, clean)
    return (hidden * torch.nn.functional.normalize(sums)[part.rows]).sum(1).double()


def _worst(measure: str, values: list[float]) -> float:
    """The worst of these that is a number (infinity is one); NaN when none is."""
    good = [v for v in values if not math.isnan(v)]
    return (max if measure in MORE_IS_WORSE else min)(good, default=math.nan)


def _overall(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over persons of what is finite; persons with one photo have no MSR and are not counted in it."""
    measures = [name for name in MEASURES | LPIPS if name in records[0]]
    result: dict[str, Any] = {"people": len(records), "photos": sum(r["photos"] for r in records)}
    for name in [*measures, *CLEAN.values()]:
        values = [r[name] for r in records if math.isfinite(r[name])]
        result[name] = (max(values) if name == "max_error" else sum(values) / len(values)) if values else math.nan
    worst = {}
    for name in measures:
        values = [r[name] for r in records]
        value = _worst(name, values)
        alike = len(set(values)) == 1 < len(values)  # nobody is worse than the others
        who = None if alike else next((r["name"] for r in records if r[name] == value), None)
        worst[name] = {"name": who, "value": value}
    return result | {"worst": worst}


def _about(bank: VeilBank) -> dict[str, Any]:
    """What a report says of a bank."""
    return {
        "people": len(bank),
        "scheme": bank.scheme,
        "blend": bank.blend,
        "levels": bank.levels,
        "error_bound": bank.error_bound,
        "version": bank.version,
        "model": _network(bank.model),
        "config": _only(bank.config, _CONFIG),
        "records": [_only(r, _RECORD) | _held_out(r) for r in bank.records if isinstance(r, Mapping)],
    }


def _network(model: Mapping[str, Any]) -> dict[str, Any]:
    """What a bank says of its network, and of each of them where they are several."""
    found, members = _only(model, ("name", "fingerprint")), model.get("members")
    if isinstance(members, list):
        shares = [_only(m, ("name", "fingerprint", "weight")) for m in members if isinstance(m, Mapping)]
        found["members"] = shares
    return found


def _only(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key in names}


def _held_out(record: Mapping[str, Any]) -> dict[str, Any]:
    held_out = record.get("held_out")
    return {"held_out": _only(held_out, _HELD_OUT)} if isinstance(held_out, Mapping) else {}


def baseline(model: FaceModel, people: People, gallery: torch.Tensor) -> float:
    """MSR rank-1 of the clean photos themselves, mean over persons: what the network reaches without any protection.
    Each evaluation has it beside its MSR (`clean_rank1`)."""
    clean = model.features(people.images)
    found = identify(clean, clean, people, model.features(gallery))
    return sum(i.rank1 for i in found) / len(found)
