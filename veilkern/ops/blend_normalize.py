"""blend_normalize: protected photos as the network's input, in one go."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from veilkern.backends import serve
from veilkern.ops._checks import (
    check_blend,
    check_input_of_network,
    check_output,
    check_row_range,
    check_rows,
    check_same_photo,
    check_tensor,
)
from veilkern.ops._library import register, register_autograd, runs_now


def blend_normalize(
    images: torch.Tensor,
    veils: torch.Tensor,
    rows: torch.Tensor,
    a: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    bgr: bool = False,
    dtype: torch.dtype = torch.float32,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """((alpha x / 255 + (1 - alpha) v[rows]) - mean) / std as channels_last [N, 3, H, W] of `dtype`.

    images uint8 [N, 3, H, W], veils float32 or float64 [P, 3, H, W] in [0, 1], rows int64 [N], a integer 0..255; mean
    and std: three numbers in the order the network sees (bgr: blue first). dtype float32, float64, bfloat16, float16,
    rounded once from the dtype of veils. out: where to write (channels_last, of `dtype`, overlapping nothing that is
    given). Differentiable with respect to veils, without out. Raises TypeError or ValueError naming the argument.
    """
    op = "blend_normalize"
    images = check_tensor(op, "images", images, [torch.uint8], "[N, 3, H, W]")
    veils = check_tensor(op, "veils", veils, [torch.float32, torch.float64], "[P, 3, H, W]")
    check_same_photo(op, "veils", veils, "images", images)
    rows = check_rows(op, rows, len(images), images)
    a = check_blend(op, a, 0)
    check_input_of_network(op, images, veils, mean, std, dtype, out)
    arguments = (images, veils, rows, a, [float(m) for m in mean], [float(s) for s in std], bool(bgr))
    if out is None:
        return (_blend_normalize if runs_now(images, veils) else torch.ops.veilkern.blend_normalize)(*arguments, dtype)
    (_blend_normalize_out if runs_now(images) else torch.ops.veilkern.blend_normalize_out)(*arguments, out)
    return out


def _fake(images, veils, rows, a, mean, std, bgr, dtype):
    return torch.empty(images.shape, dtype=dtype, device=images.device, memory_format=torch.channels_last)


def _blend_normalize(images, veils, rows, a, mean, std, bgr, dtype):
    out = _fake(images, veils, rows, a, mean, std, bgr, dtype)
    _write(images, veils, rows, a, mean, std, bgr, out)
    return out


def _blend_normalize_out(images, veils, rows, a, mean, std, bgr, out):
    check_output("blend_normalize", ("out", out), (("images", images), ("veils", veils), ("rows", rows)))
    _write(images, veils, rows, a, mean, std, bgr, out)


def _write(images, veils, rows, a, mean, std, bgr, out):
    check_row_range("blend_normalize", rows, len(veils))
    if out.numel():
        serve("blend_normalize", images, veils.detach(), rows, a, mean, std, bgr, out)


def _setup(ctx, inputs, output):
    _, veils, rows, ctx.a, _, ctx.std, ctx.bgr, _ = inputs
    ctx.save_for_backward(rows)
    ctx.like = veils.shape[0], veils.dtype


def _backward(ctx, gradient):
    """d / dv: the gradient of each photo, times (1 - alpha) / std, added to its veil's row in the order of photos."""
    (rows,) = ctx.saved_tensors
    slope = slope_of_veils(gradient, rows, ctx.like, 1 - ctx.a / 255, ctx.std, ctx.bgr)
    return None, slope, None, None, None, None, None, None


def slope_of_veils(gradient, rows, like: tuple[int, torch.dtype], share: float, std, bgr: bool) -> torch.Tensor:
    """d / dv [people, 3, H, W] (like: people, dtype) of a gradient [N, 3, H, W] at a network's input, a pixel being
    share v + what does not depend on v: added in the order of photos, row by row."""
    people, dtype = like
    # Channel by channel: a tensor made of the list would have to be sent to the device, which the host waits for.
    channels = [gradient[:, c].to(dtype) * (share / s) for c, s in enumerate(std)]
    return _add_by_row(torch.stack(channels[::-1] if bgr else channels, 1), rows, people)


def _add_by_row(values: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    """[count, ...]: the sum of the values [N, ...] of each row, in the order of N and so the same bits in every run.

    On a GPU index_add_ adds by atomics, in any order; index_put_ sorts the rows first (stably) and adds those of a row
    one after the other. A row that is none of count (not checked there: the host would wait) is left out.
    """
    known = (rows >= 0) & (rows < count)
    total = values.new_zeros((count + 1, *values.shape[1:]))
    place = torch.where(known, rows, count)
    if values.device.type == "cpu":
        total.index_add_(0, place, values)
    else:
        total.index_put_((place,), values, accumulate=True)
    return total[:count]


_ARGUMENTS = "Tensor images, Tensor veils, Tensor rows, int a, float[] mean, float[] std, bool bgr"
register(f"blend_normalize({_ARGUMENTS}, ScalarType dtype) -> Tensor", _blend_normalize, _fake)
register(f"blend_normalize_out({_ARGUMENTS}, Tensor(a!) out) -> ()", _blend_normalize_out, lambda *arguments: None)
register_autograd("blend_normalize", _backward, _setup)
