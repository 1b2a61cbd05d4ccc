"""hull_distance by the C++ kernels: its launcher."""

from __future__ import annotations

import torch

from veilkern.backends import thread_count
from veilkern.backends.cpu._tensors import address, kernel_of

_NUMBERS = {"convex": 0, "affine": 1, "span": 2, "centre": 3, "self": 4}  # Subspace of csrc/cpu/hull_distance.h


def hull_distance(features, clean, offsets, clean_offsets, subspace, weights, own, width):
    """Launcher of `hull_distance`: returns distance, weights [N, width] and gradient."""
    source, hull, marks, clean_marks = (t.contiguous() for t in (features, clean, offsets, clean_offsets))
    start, chosen = (None if t is None else t.contiguous() for t in (weights, own))
    count, dimensions = source.shape
    distance, found = source.new_empty(count), source.new_empty((count, width))
    gradient = torch.empty_like(source)
    kernel_of("hull_distance", source)(
        source.data_ptr(), hull.data_ptr(), marks.data_ptr(), clean_marks.data_ptr(),
        (len(marks) - 1, count, len(hull), dimensions), _NUMBERS[subspace], address(start), address(chosen),
        distance.data_ptr(), found.data_ptr(), width, gradient.data_ptr(), thread_count(),
    )  # fmt: skip
    return distance, found, gradient
