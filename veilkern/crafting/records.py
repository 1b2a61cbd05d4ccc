"""The figures of a person's record: what the network, and a blurred eye, make of the finished 8-bit veil."""

from __future__ import annotations

from typing import Any

import torch

from veilkern import ops
from veilkern.crafting.config import CraftConfig
from veilkern.crafting.contour import ContourLoss, contour
from veilkern.networks.face_model import FaceModel


def figures_of_photos(
    features: torch.Tensor,
    clean: torch.Tensor,
    images: torch.Tensor,
    veil: torch.Tensor,
    alpha: float,
    config: CraftConfig,
) -> dict[str, Any]:
    """Of one person's photos blended with the finished veil."""
    own = torch.tensor([0, len(images)], device=images.device)
    distance, _, _ = ops.hull_distance(features, clean, own, subspace=config.subspace)
    x, v = images.float() / 255, veil.float() / 255
    mixed = alpha * x + (1 - alpha) * v
    gap = x - mixed
    visual = gap.flatten(1).norm(dim=1).mean() if config.visual == "norm" else gap.square().mean()
    variance = ops.block_variance(mixed, block=config.block, stride=config.block_stride, form=config.block_form).mean()
    seen = contour(x, mixed).abs()
    faded, _ = ContourLoss(images, own.cpu(), config.blend)(v.unsqueeze(0))
    figures = {
        "feature_distance": distance.mean(),
        "cosine": _cosine(features, clean),
        "visual": visual,
        "variance": variance,
        "contour": seen.mean(),
        "contour_worst": seen.max(),
        "total": distance.mean() - config.lam * visual + config.mu * variance + config.nu * faded[0],
    }
    return _rounded(figures)


def figures_of_veil(
    features: torch.Tensor, clean: torch.Tensor, veil: torch.Tensor, config: CraftConfig
) -> dict[str, Any]:
    """Of a sealed veil under drawings of the noise that hides the photo. There is no photo to compare with, so neither
    `visual` nor `contour`; `variance` is that of the mean sealed photo, which is the veil but for its brightness."""
    own, drawn = (torch.tensor([0, n], device=veil.device) for n in (len(clean), len(features)))
    distance, _, _ = ops.hull_distance(features, clean, drawn, clean_offsets=own, subspace=config.subspace)
    variance = ops.block_variance(
        veil[None].float() / 255, block=config.block, stride=config.block_stride, form=config.block_form
    )[0]
    figures = {
        "feature_distance": distance.mean(),
        "cosine": _cosine(features, clean),
        "variance": variance,
        "total": distance.mean() + config.mu * variance,
    }
    return _rounded(figures)


def figures_by_network(model: FaceModel, features: torch.Tensor, clean: torch.Tensor) -> dict[str, Any]:
    """Of an Ensemble: what each of its networks makes of the veil, by its name under `networks`; of one nothing."""
    parts, own = model.by_network(features), model.by_network(clean)
    return {"networks": {name: _rounded({"cosine": _cosine(parts[name], own[name])}) for name in own}} if own else {}


def _cosine(features: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Mean cosine of features to the mean clean feature."""
    return (features @ torch.nn.functional.normalize(clean.mean(0), dim=0)).mean()


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: round(float(value), 6) for name, value in figures.items()}
