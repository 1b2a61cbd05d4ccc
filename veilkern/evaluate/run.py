"""evaluate: everything that can be said of a bank, a network and photos, as plain numbers."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field

import torch

from veilkern.embedder import FaceModel
from veilkern.evaluate import metrics
from veilkern.evaluate.identification import identify
from veilkern.people import People
from veilkern.protect import protect, recover
from veilkern.veils import VeilBank, photo_id

SETS = ("crafting", "unseen")
# measure: (what it is, whether more is better)
MEASURES = {
    "rank1": "MSR rank-1",
    "rank5": "MSR rank-5",
    "rank10": "MSR rank-10",
    "own_rank1": "rank-1, own clean photo",
    "cosine": "cosine to clean",
    "ssim_protected": "SSIM protected",
    "psnr_protected": "PSNR protected, dB",
    "contour2": "|contour| sigma 2",
    "contour4": "|contour| sigma 4",
    "ssim_recovered": "SSIM recovered",
    "psnr_recovered": "PSNR recovered, dB",
    "max_error": "max error of recover",
}


@dataclass
class Evaluation:
    """persons: one dict a person and set (`name`, `set`, `photos` and MEASURES). overall: per set, the mean over
    persons (max_error: the largest). photos: per photo figures for histograms. notices: what the reader must know.
    lossless_exact: whether every photo came back bit for bit from the lossless form."""

    persons: list[dict]
    overall: dict[str, dict]
    photos: dict[str, dict[str, list[float]]]
    lossless_exact: bool
    model: dict
    bank: dict
    gallery: int
    notices: list[str] = field(default_factory=list)

    def as_dict(self) -> dict:
        """For JSON: numbers that are not finite (rank of a person with one photo) become null."""
        return _plain(self.__dict__)


def evaluate(model: FaceModel, people: People, bank: VeilBank, *, gallery: torch.Tensor | None = None) -> Evaluation:
    """Measure the protection of `people` (those with a veil in `bank`) as `model` and a human see it.

    Photos that the veil was crafted on (by the bank's record) and unseen ones apart. gallery: uint8 photos
    [G, 3, H, W] of other people, the distractors of MSR beside the other persons. Warns when the bank was crafted for
    another network. Raises ValueError when nobody has a veil.
    """
    notices = _notices(model, people, bank)
    known = set(bank.names)
    chosen = people.take([i for i, p in enumerate(people.rows.tolist()) if people.names[p] in known])
    if not len(chosen):
        raise ValueError("evaluate: nobody in people has a veil in the bank")
    crafted = _crafted(chosen, bank)
    distractors = None if gallery is None or not len(gallery) else model.features(gallery)
    persons, photos, exact = [], {}, True
    for label, mask in zip(SETS, (crafted, ~crafted), strict=True):
        part = chosen.take(mask.nonzero().flatten())
        if len(part):
            records, photos[label], same = _measure(model, part, bank, distractors, label)
            persons += records
            exact &= same
    overall = {label: _mean([r for r in persons if r["set"] == label]) for label in photos}
    about = {
        "people": len(bank),
        "blend": bank.blend,
        "version": bank.version,
        "model": bank.model,
        "config": bank.config,
        "records": [{k: v for k, v in r.items() if k != "photo_ids"} for r in bank.records],
    }
    return Evaluation(
        persons,
        overall,
        photos,
        exact,
        {"name": model.name, "fingerprint": model.fingerprint},
        about,
        0 if gallery is None else len(gallery),
        notices,
    )


def _notices(model: FaceModel, people: People, bank: VeilBank) -> list[str]:
    notices = []
    if bank.model.get("fingerprint") != model.fingerprint:
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


def _crafted(people: People, bank: VeilBank) -> torch.Tensor:
    """Which photos the veil of their person was crafted on, bool [N]."""
    ids = {name: set(record.get("photo_ids", ())) for name, record in zip(bank.names, bank.records, strict=False)}
    return torch.tensor(
        [
            photo_id(image) in ids.get(people.names[p], ())
            for image, p in zip(people.images, people.rows.tolist(), strict=True)
        ],
        dtype=torch.bool,
    )


def _measure(model: FaceModel, part: People, bank: VeilBank, gallery: torch.Tensor | None, label: str):
    rows = bank.rows(part.names)[part.rows]
    hidden = protect(part.images, bank, rows)
    back = recover(hidden, bank, rows)
    whole = protect(part.images, bank, rows, lossless=True)
    exact = torch.equal(recover(whole, bank, rows), part.images)
    clean_features = model.features(part.images)
    hidden_features = model.features(hidden)
    gallery = clean_features[:0] if gallery is None else gallery
    found = identify(hidden_features, clean_features, part, gallery)
    photos = {
        "ssim_protected": metrics.ssim(part.images, hidden),
        "psnr_protected": metrics.psnr(part.images, hidden),
        "ssim_recovered": metrics.ssim(part.images, back),
        "psnr_recovered": metrics.psnr(part.images, back),
        "contour2": metrics.contour(part.images, hidden, 2.0),
        "contour4": metrics.contour(part.images, hidden, 4.0),
        "max_error": (part.images.int() - back.int()).abs().flatten(1).max(1).values.double(),
        "cosine": _cosine_to_clean(hidden_features, clean_features, part),
    }
    records = []
    for p, name in enumerate(part.names):
        at = slice(int(part.offsets[p]), int(part.offsets[p + 1]))
        record = {"name": name, "set": label, "photos": int(part.counts[p])}
        record |= {
            k: v[at].abs().mean().item() if k.startswith("contour") else v[at].mean().item() for k, v in photos.items()
        }
        record |= {k: getattr(found[p], k) for k in ("rank1", "rank5", "rank10", "own_rank1")}
        records.append(record | {"max_error": int(photos["max_error"][at].max())})
    return records, {k: [round(v, 6) for v in values.tolist()] for k, values in photos.items()}, exact


def _cosine_to_clean(hidden: torch.Tensor, clean: torch.Tensor, part: People) -> torch.Tensor:
    """Cosine [N] of each protected photo to its person's mean clean feature."""
    sums = torch.zeros(len(part), clean.shape[1]).index_add_(0, part.rows, clean)
    return (hidden * torch.nn.functional.normalize(sums)[part.rows]).sum(1).double()


def _mean(records: list[dict]) -> dict:
    """Mean over persons of what is a number; persons with one photo have no MSR and are not counted in it."""
    result: dict = {"people": len(records), "photos": sum(r["photos"] for r in records)}
    for name in MEASURES:
        values = [r[name] for r in records if math.isfinite(r[name])]
        result[name] = (max(values) if name == "max_error" else sum(values) / len(values)) if values else math.nan
    return result


def _plain(value):
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def baseline(model: FaceModel, people: People, gallery: torch.Tensor) -> float:
    """MSR rank-1 of the clean photos themselves: what the network reaches without any protection."""
    clean = model.features(people.images)
    found = identify(clean, clean, people, model.features(gallery))
    return sum(i.rank1 for i in found) / len(found)
