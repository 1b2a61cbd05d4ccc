"""Sums whose order is fixed, on every device."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def sums_in_order(
    values: torch.Tensor, rows: torch.Tensor, offsets: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Sums [G, k] of values [R, k] over groups of rows: group g adds values[rows[i]], i = offsets[g] .. offsets[g + 1]
    - 1, first to last, each times weights[i] where given.

    rows int64 [n], offsets int64 [G + 1], weights [n] of the dtype of values (float32 or float64), all on one device,
    which the host does not wait for. index_add_ and scatter_add_ add by atomics on a GPU, in any order; a reduction's
    order may change with how many others are reduced beside it.
    """
    return F.embedding_bag(rows, values, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)
