"""The figures of a person's record: her photos under the finished veil."""

from __future__ import annotations

import torch

from veilkern import ops
from veilkern.crafting.config import CraftConfig
from veilkern.crafting.contour import ContourLoss, contour


def figures_of(features, clean, images, veil, alpha: float, config: CraftConfig) -> dict:
    """The record's figures of one person under the finished veil."""
    own = torch.tensor([0, len(images)], device=images.device)
    distance, _, _ = ops.hull_distance(features, clean, own, subspace=config.subspace)
    x, v = images.float() / 255, veil.float() / 255
    mixed = alpha * x + (1 - alpha) * v
    gap = x - mixed
    visual = gap.flatten(1).norm(dim=1).mean() if config.visual == "norm" else gap.square().mean()
    variance = ops.block_variance(mixed, block=config.block, stride=config.block_stride, form=config.variance).mean()
    centre = torch.nn.functional.normalize(clean.mean(0), dim=0)
    seen = contour(x, mixed).abs()
    faded, _ = ContourLoss(images, own.cpu(), config.blend)(v.unsqueeze(0))
    figures = {
        "feature_distance": distance.mean(),
        "cosine": (features @ centre).mean(),
        "visual": visual,
        "variance": variance,
        "contour": seen.mean(),
        "contour_worst": seen.max(),
        "total": distance.mean() - config.lam * visual + config.mu * variance + config.nu * faded[0],
    }
    return {name: round(float(value), 6) for name, value in figures.items()}
