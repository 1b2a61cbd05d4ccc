"""hull_distance (eq. 3-7): how far features are from the hull of their person's clean features."""

from __future__ import annotations

import torch

from veilkern.backends import select
from veilkern.ops._checks import check_choice, check_device, check_offsets, check_tensor
from veilkern.reference.hull_distance import KINDS


def hull_distance(
    features: torch.Tensor,
    clean: torch.Tensor,
    offsets: torch.Tensor,
    *,
    clean_offsets: torch.Tensor | None = None,
    kind: str = "convex",
    weights: torch.Tensor | None = None,
    own: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """D_i = min_w ||Y^T w - f_i||^2: distance [N], weights w [N, m], gradient [N, d] = 2 (f - Y^T w).

    features float32 or float64 [N, d], those of person p at offsets[p]:offsets[p + 1] (int64 [P + 1]); clean [M, d] of
    the same dtype by clean_offsets (default: offsets). kind: `convex` (w >= 0, sum w = 1), `affine` (sum w = 1), `span`
    (least squares, eq. 5), `centre` (w = 1 / n), `self` (the photo's own clean feature, or the person's row own[i],
    int64 [N]). weights: a start [N, m] for `convex`, m being the most clean features of one person. The distance is
    differentiable with respect to features. Raises TypeError or ValueError naming the argument.
    """
    op, floats = "hull_distance", [torch.float32, torch.float64]
    features = check_tensor(op, "features", features, floats, "[N, d]")
    clean = check_tensor(op, "clean", clean, [features.dtype], f"[M, {features.shape[1]}]")
    check_device(op, "clean", clean, "features", features)
    offsets = check_offsets(op, "offsets", offsets, len(features))
    if clean_offsets is None and len(clean) != len(features):
        raise ValueError(
            f"{op}: clean_offsets must be given when clean has not one row a feature, {len(features)}, got "
            f"{len(clean)} rows"
        )
    clean_offsets = offsets if clean_offsets is None else check_offsets(op, "clean_offsets", clean_offsets, len(clean))
    if len(clean_offsets) != len(offsets):
        raise ValueError(f"{op}: clean_offsets must have {len(offsets)} entries like offsets, got {len(clean_offsets)}")
    if bool(((clean_offsets.diff() == 0) & (offsets.diff() > 0)).any()):
        raise ValueError(f"{op}: clean_offsets must give every person with photos at least one clean feature")
    check_choice(op, "kind", kind, KINDS)
    most = int(clean_offsets.diff().max()) if len(clean_offsets) > 1 else 0
    if weights is not None:
        weights = check_tensor(op, "weights", weights, [features.dtype], f"[{len(features)}, {most}]")
    if own is not None:
        own = check_tensor(op, "own", own, [torch.int64], f"[{len(features)}]")
    elif kind == "self" and bool((clean_offsets != offsets).any()):
        raise ValueError(f"{op}: own must say which clean feature belongs to which photo when the counts differ")
    serve = select(op, features, clean, offsets)
    return serve(features, clean, offsets, clean_offsets=clean_offsets, kind=kind, weights=weights, own=own)
