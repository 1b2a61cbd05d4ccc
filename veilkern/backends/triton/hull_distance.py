"""hull_distance by the Triton kernels: its launcher."""

from __future__ import annotations

import torch

from veilkern.backends.launch_tables import launch_of
from veilkern.backends.triton._launch import KIND, compiled, power, run, too_old
from veilkern.kernels.hull_distance import hull_distance_kernel

_WIDEST = 2**19  # clean features of a person: a program's tiles are two numbers wide, and Triton's hold 2^20 at most


def limit(features, clean, offsets, clean_offsets, subspace, weights, own, width) -> str | None:
    """Why a call is not served."""
    if reason := too_old(features):
        return reason
    return f"serves at most {_WIDEST} clean features a person, these have up to {width}" if width > _WIDEST else None


def hull_distance(features, clean, offsets, clean_offsets, subspace, weights, own, width):
    """Launcher of `hull_distance`: returns distance, weights [N, width] and gradient."""
    count, dimensions = features.shape
    if len(offsets) == 1:  # nobody: no program to say so
        return tuple(features.new_full(shape, float("nan")) for shape in ((count,), (count, width), features.shape))
    people, most = len(offsets) - 1, max(power(width), 2)
    exact = torch.float64 if subspace in ("affine", "span") else features.dtype
    launch = launch_of("hull_distance", f"{'narrow' if most <= 64 else 'wide'} {KIND[exact]}", features.device)
    group, chunk = (max(launch[name] * 64 // max(most, 64), 2) for name in ("group", "chunk"))
    distance, found = features.new_empty(count), features.new_empty((count, width))
    gradient = torch.empty_like(features, memory_format=torch.contiguous_format)
    solved = subspace in ("convex", "affine", "span")
    scratch = [
        features.new_empty((people if solved else 0, *shape), dtype=exact)
        for shape in ((dimensions,), (width, width), (most, group), (group, most))
    ]
    single = features.dtype == torch.float32
    bound = {"convex": 2.5e-7 if single else 2.5e-12}.get(subspace, 100 * torch.finfo(features.dtype).eps)
    run(
        hull_distance_kernel, people, features, features, clean, offsets.contiguous(), clean_offsets.contiguous(),
        weights, None if own is None else own.contiguous(), distance, found, gradient, *scratch, people, count,
        len(clean), dimensions, width, bound, *features.stride(), *clean.stride(),
        *(weights.stride() if weights is not None else (0, 0)), SUBSPACE=subspace, MOST=most, GROUP=group, CHUNK=chunk,
        **compiled(launch),
    )  # fmt: skip
    return distance, found, gradient
