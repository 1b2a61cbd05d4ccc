"""Features of which no bit depends on how many photos are at work."""

from __future__ import annotations

import torch

from veilkern.crafting.templates import Subjects, Templates
from veilkern.networks.face_model import FaceModel


def padded(photos: torch.Tensor, width: int) -> torch.Tensor:
    """`photos` [n, ..], the last of them repeated until there are `width`.

    A network's kernels are chosen by the number of photos, and sum in another order for another number: measured on
    the CPU, features differ in their last bits between 1, 3 and 8 photos, but never by place or neighbours. So a craft
    always gives the network the same number, however many persons are still at work.
    """
    missing = width - len(photos)
    return torch.cat([photos, photos[-1:].expand(missing, *photos.shape[1:])]) if missing > 0 else photos


def fixed_features(model: FaceModel, images: torch.Tensor, width: int) -> torch.Tensor:
    """Features [N, d] of uint8 photos [N, 3, H, W], exactly `width` in the network at a time."""
    whole = len(images) // width * width
    found = [model.features(images[:whole], batch=width, check=False)] if whole else []
    if rest := len(images) - whole:
        found.append(model.features(padded(images[whole:], width), batch=width, check=False)[:rest])
    return torch.cat(found)


def clean_features(model: FaceModel, subjects: Subjects, width: int) -> torch.Tensor:
    """The clean features [N, d] of all photos, where these are; of templates, what they are."""
    if isinstance(subjects, Templates):
        return subjects.features
    return fixed_features(model, subjects.images, width)
