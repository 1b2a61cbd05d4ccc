"""hull_distance (eq. 3-7): how far features are from the hull of their person's clean features."""

from __future__ import annotations

import numpy as np
import torch

from veilkern.backends import serve
from veilkern.ops._checks import MAX_SIZE, check_choice, check_device, check_offset_range, check_offsets, check_tensor
from veilkern.ops._library import register, register_autograd, runs_now

SUBSPACES = ("convex", "affine", "span", "centre", "self")


def hull_distance(
    features: torch.Tensor,
    clean: torch.Tensor,
    offsets: torch.Tensor,
    *,
    clean_offsets: torch.Tensor | None = None,
    subspace: str = "convex",
    weights: torch.Tensor | None = None,
    own: torch.Tensor | None = None,
    width: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """D_i = min_w ||Y^T w - f_i||^2: distance [N], weights w [N, m], gradient [N, d] = 2 (f - Y^T w).

    features float32 or float64 [N, d], those of person p at offsets[p]:offsets[p + 1] (int64 [P + 1]); clean [M, d] of
    the same dtype by clean_offsets (default: offsets). subspace: `convex` (w >= 0, sum w = 1), `affine` (sum w = 1),
    `span` (least squares, eq. 5), `centre` (w = 1 / n), `self` (the photo's own clean feature, or the person's row
    own[i], int64 [N]). weights: a start [N, m] for `convex`. width: m, at least the most clean features of one person;
    by default that of weights, or that number itself, which is read from clean_offsets: on a GPU the host then waits,
    and torch.compile(fullgraph=True) cannot, so give one of the two there. The distance is differentiable (once) with
    respect to features. Raises TypeError or ValueError naming the argument.
    """
    op, floats = "hull_distance", [torch.float32, torch.float64]
    features = check_tensor(op, "features", features, floats, "[N, d]")
    clean = check_tensor(op, "clean", clean, [features.dtype], f"[M, {features.shape[1]}]")
    check_device(op, "clean", clean, "features", features)
    offsets = check_offsets(op, "offsets", offsets, "features", features)
    if clean_offsets is None and len(clean) != len(features):
        raise ValueError(
            f"{op}: clean_offsets must be given when clean has not one row a feature, {len(features)}, got "
            f"{len(clean)} rows"
        )
    same = clean_offsets is None
    clean_offsets = offsets if same else check_offsets(op, "clean_offsets", clean_offsets, "features", features)
    if len(clean_offsets) != len(offsets):
        raise ValueError(f"{op}: clean_offsets must have {len(offsets)} entries like offsets, got {len(clean_offsets)}")
    check_choice(op, "subspace", subspace, SUBSPACES)
    if weights is not None:
        weights = check_tensor(op, "weights", weights, [features.dtype], f"[{len(features)}, m]").detach()
        check_device(op, "weights", weights, "features", features)
    if width is None:
        width = weights.shape[1] if weights is not None else _most(clean_offsets)
    elif isinstance(width, bool) or not isinstance(width, int) or not 0 <= width <= MAX_SIZE:
        raise ValueError(f"{op}: width must be an integer 0..{MAX_SIZE}, got {width!r}")
    if weights is not None and weights.shape[1] != width:
        raise ValueError(f"{op}: weights must be [{len(features)}, {width}], got {list(weights.shape)}")
    if own is not None:
        own = check_tensor(op, "own", own, [torch.int64], f"[{len(features)}]")
        check_device(op, "own", own, "features", features)
    run = _hull_distance if runs_now(features, clean) else torch.ops.veilkern.hull_distance
    return run(features, clean.detach(), offsets, clean_offsets, subspace, weights, own, width)


def _most(clean_offsets: torch.Tensor) -> int:
    if clean_offsets.device.type == "cpu":
        return int(_counts(clean_offsets).max(initial=0))
    return int(clean_offsets.diff().max()) if len(clean_offsets) > 1 else 0


def _counts(offsets: torch.Tensor) -> np.ndarray:
    """How many belong to each person; by NumPy, whose calls are shorter than torch's."""
    marks = offsets.numpy()
    return marks[1:] - marks[:-1]


def _hull_distance(features, clean, offsets, clean_offsets, subspace, weights, own, width):
    _check_values(features, clean, offsets, clean_offsets, subspace, weights, own, width)
    if not len(features):
        return features.new_zeros(0), features.new_zeros((0, width)), features.new_zeros(features.shape)
    return serve("hull_distance", features.detach(), clean, offsets, clean_offsets, subspace, weights, own, width)


def _check_values(features, clean, offsets, clean_offsets, subspace, weights, own, width) -> None:
    """What depends on values. On the CPU only: elsewhere it would make the host wait."""
    if features.device.type != "cpu":
        return
    op = "hull_distance"
    check_offset_range(op, "offsets", offsets, len(features))
    clean_counts = counts = _counts(offsets)
    if clean_offsets is not offsets or len(clean) != len(features):
        check_offset_range(op, "clean_offsets", clean_offsets, len(clean))
        clean_counts = _counts(clean_offsets)
        if ((clean_counts == 0) & (counts > 0)).any():
            raise ValueError(f"{op}: clean_offsets must give every person with photos at least one clean feature")
    most = int(clean_counts.max(initial=0))
    if most > width:
        name = "width" if weights is None else "weights"
        raise ValueError(f"{op}: {name} must have room for the most clean features of a person, {most}, got {width}")
    if own is not None:
        chosen = own.numpy()
        if ((chosen < 0) | (chosen >= np.repeat(clean_counts, counts))).any():
            raise ValueError(f"{op}: own must name a clean feature of the person, 0..count - 1, got {chosen[:20]}")
    elif subspace == "self" and (clean_counts != counts).any():
        raise ValueError(f"{op}: own must say which clean feature belongs to which photo when the counts differ")


def _fake(features, clean, offsets, clean_offsets, subspace, weights, own, width):
    count = features.shape[0]
    return features.new_empty(count), features.new_empty((count, width)), features.new_empty(features.shape)


def _setup(ctx, inputs, output):
    _, weights, gradient = output
    ctx.save_for_backward(gradient)
    ctx.mark_non_differentiable(weights, gradient)


def _backward(ctx, upstream, *ignored):
    """Envelope theorem: the weights are at their optimum, so only f itself counts."""
    (gradient,) = ctx.saved_tensors
    return upstream[:, None] * gradient, None, None, None, None, None, None, None


register(
    "hull_distance(Tensor features, Tensor clean, Tensor offsets, Tensor clean_offsets, str subspace, Tensor? weights, "
    "Tensor? own, int width) -> (Tensor, Tensor, Tensor)",
    _hull_distance,
    _fake,
)
register_autograd("hull_distance", _backward, _setup)
