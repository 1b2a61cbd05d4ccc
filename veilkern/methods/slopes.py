"""Features of photos in [0, 1] and the slope of a loss on them, through the network: of loops that are not craft's."""

from __future__ import annotations

from collections.abc import Callable

import torch

from veilkern.crafting.features import padded
from veilkern.errors import ModelError
from veilkern.networks.face_model import FaceModel

FeatureSlope = Callable[[torch.Tensor, slice], torch.Tensor]


def slopes(model: FaceModel, pixels: torch.Tensor, width: int, slope_of: FeatureSlope) -> torch.Tensor:
    """dL / dx [n, 3, H, W] of pixels x float [n, 3, H, W] in [0, 1], RGB, on the network's device; one image-step each.

    slope_of(features [k, d], piece): dL / df [k, d] of the photos pixels[piece]. `width` photos go through the network
    at a time, always that many, so that no bit depends on how many there are. ModelError where the network fails, or
    passes no gradient.
    """
    found = torch.empty_like(pixels)
    for start in range(0, len(pixels), width):
        piece = slice(start, min(start + width, len(pixels)))
        count = piece.stop - piece.start
        x = padded(pixels[piece], width).detach().clone().requires_grad_()
        features = model.embed(x.clone())  # a copy: some networks write to their input
        gradient = None
        if features.requires_grad:
            slope = slope_of(features[:count].detach(), piece)
            (gradient,) = torch.autograd.grad(features[:count], x, slope, allow_unused=True)
        if gradient is None:
            raise ModelError(
                f"{model.name}: the network passes no gradient to its input (torch.no_grad, inference_mode or "
                "detach in its forward?)"
            )
        found[piece] = gradient[:count]
    return found


def scaled(gradients: torch.Tensor) -> torch.Tensor:
    """g / mean|g| of each of [n, ..] (MI-FGSM); of one that is all zeros, zeros."""
    size = gradients.flatten(1).abs().mean(1).view(-1, *[1] * (gradients.ndim - 1))
    return gradients / size.clamp_min(torch.finfo(gradients.dtype).tiny)
