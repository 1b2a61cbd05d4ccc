"""block_variance (eq. 9-11): how uneven a photo is in its sliding box sums."""

from __future__ import annotations

import torch

from veilkern.backends import select
from veilkern.ops._checks import check_block, check_choice, check_tensor


def block_variance(
    images: torch.Tensor, *, block: tuple[int, int] = (3, 3), stride: int = 1, form: str = "consistent"
) -> torch.Tensor:
    """Loss [N] of images float32 or float64 [N, C, H, W] in [0, 1]; differentiable.

    S are the valid sums over h x w boxes (`block`) at `stride` (stride 3 with block 3 x 3: tiles), Var their population
    variance per channel. form `consistent`: sum_c (1 + 1 / (hw)^2) Var(S_c). form `literal`, as the paper prints it:
    sum_c Var(S_c) + mean_i (S_i / (hw) - mean S)^2, mostly a penalty on brightness. Raises TypeError or
    ValueError naming the argument.
    """
    images = check_tensor("block_variance", "images", images, [torch.float32, torch.float64], "[N, C, H, W]")
    check_choice("block_variance", "form", form, ("consistent", "literal"))
    check_block("block_variance", block, stride, *images.shape[2:])
    return select("block_variance", images)(images, block=tuple(block), stride=stride, form=form)
