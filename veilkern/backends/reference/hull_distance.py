"""hull_distance in plain PyTorch."""

from __future__ import annotations

import torch

from veilkern import reference


def hull_distance(features, clean, offsets, clean_offsets, subspace, weights, own, width):
    """Launcher of `hull_distance`: returns distance, weights [N, width] and gradient."""
    most = int(clean_offsets.diff().max())
    start = None if weights is None else weights[:, :most]
    distance, found, gradient = reference.hull_distance(
        features, clean, offsets, clean_offsets=clean_offsets, subspace=subspace, weights=start, own=own
    )
    return distance, torch.nn.functional.pad(found, (0, width - most)), gradient
