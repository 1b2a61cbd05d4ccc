"""Does a network tell people apart? And if it does not: why?"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from veilkern.errors import ModelError
from veilkern.networks.input_spec import InputSpec

if TYPE_CHECKING:
    from veilkern.networks.face_model import FaceModel

_STEADY = 0.02  # features in [-1, 1]: above what bfloat16 and other orders of sums change


@dataclass(frozen=True)
class Check:
    """How well a network tells people apart: mean cosine of same-person and different-person pairs, and the chance
    (area under the ROC curve) that a same-person pair scores above a different-person pair."""

    same: float
    different: float
    auc: float

    def __str__(self) -> str:
        return f"cosine same person {self.same:.3f}, different {self.different:.3f}, separation (AUC) {self.auc:.4f}"


def diagnose(model: FaceModel, images: torch.Tensor, rows: torch.Tensor, *, least_auc: float = 0.9) -> Check:
    """Compare same-person and different-person cosines; ModelError with the likely cause when they do not separate.

    images uint8 [N, 3, H, W], rows int64 [N]: the person of each photo. Needs two persons, one of them with two
    different photos (ValueError). Tries the usual mistakes (channel order, normalisation, value range) and names the
    one that would separate better. Refuses a network whose features of a photo hang on its neighbours in the batch or
    on chance (batch statistics, dropout: a network in train mode).
    """
    same, different = _pairs(images, rows)
    if not bool(same.any()) or not bool(different.any()):
        raise ValueError(
            "FaceModel.check: people must hold two persons at least, one of them with two different photos"
        )
    _check_steady(model, images[:8])
    result = _separation(model, images, same, different)
    if result.auc >= least_auc:
        return result
    cause = (
        "none of the usual input mistakes explains it: are the faces aligned to the ArcFace template, and is the "
        "network trained?"
    )
    best = (result.auc + least_auc) / 2  # what makes up for less than half of what is missing explains nothing
    for label, spec in _alternatives(model.input).items():
        other = copy.copy(model)
        other.input = spec
        try:
            trial = _separation(other, images, same, different)
        except ModelError:
            continue
        if trial.auc > best:
            best, cause = trial.auc, f"likely cause: {label} (that separates with AUC {trial.auc:.3f})"
    raise ModelError(f"{model.name}: the network does not tell these people apart: {result}; {cause}")


def _check_steady(model: FaceModel, images: torch.Tensor) -> None:
    """ModelError unless these photos have the same features in another order and other batches."""
    apart = model.features(images.flip(0), batch=2).flip(0)
    change = (model.features(images) - apart).abs().max().item()
    if change > _STEADY:
        raise ModelError(
            f"{model.name}: the features of the same photos change by {change:.3f} when they come in other batches: "
            "dropout or batch statistics are at work, as in train mode; save or export the network in eval mode"
        )


def _separation(model: FaceModel, images: torch.Tensor, same: torch.Tensor, different: torch.Tensor) -> Check:
    features = model.features(images).cpu().double()
    cosine = features @ features.T
    inside, across = cosine[same], cosine[different].sort().values
    # Ties count half: the rank of each same-person score among the different-person scores.
    below = torch.searchsorted(across, inside).double() + torch.searchsorted(across, inside, right=True).double()
    return Check(inside.mean().item(), across.mean().item(), (below / 2 / len(across)).mean().item())


def _pairs(images: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which pairs (i, j), i < j, of photos are of one person and of two, bool [N, N] each; a picture with itself, also
    when it is there twice, is no pair."""
    number: dict[bytes, int] = {}
    pictures = torch.tensor([number.setdefault(image.numpy().tobytes(), len(number)) for image in images.cpu()])
    pair = (pictures[:, None] != pictures).triu(1)
    same = rows.cpu()[:, None] == rows.cpu()
    return same & pair, ~same & pair


def _alternatives(spec: InputSpec) -> dict[str, InputSpec]:
    """The usual mistakes, undone."""
    half, none, imagenet = (0.5,) * 3, ((0.0,) * 3, (1.0,) * 3), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    inputs = {
        "values to be normalised to [-1, 1] (mean 0.5, std 0.5)": (half, half, 1.0),
        "values in [0, 1] without normalisation": (*none, 1.0),
        "values in 0..255": (*none, 255.0),
        "ImageNet mean and std": (*imagenet, 1.0),
    }
    found = {}
    for bgr in (spec.bgr, not spec.bgr):
        order = "" if bgr == spec.bgr else f"{'BGR' if bgr else 'RGB'} channel order"
        if order:
            found[order] = InputSpec(spec.size, spec.mean[::-1], spec.std[::-1], bgr, spec.value_range)
        for label, (mean, std, value_range) in inputs.items():
            found[" and ".join(filter(None, [order, label]))] = InputSpec(spec.size, mean, std, bgr, value_range)
    return {label: other for label, other in found.items() if other != spec}
