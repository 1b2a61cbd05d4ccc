"""seal_normalize: sealed photos as the network's input, in one go."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from veilkern.backends import serve
from veilkern.ops._checks import (
    KEY_BYTES,
    NONCE_BYTES,
    check_bytes,
    check_input_of_network,
    check_output,
    check_row_range,
    check_rows,
    check_same_photo,
    check_sealing,
    check_tensor,
)
from veilkern.ops._library import register, register_autograd, runs_now
from veilkern.ops.blend_normalize import slope_of_veils


def seal_normalize(
    images: torch.Tensor,
    veils: torch.Tensor,
    rows: torch.Tensor,
    keys: torch.Tensor,
    nonces: torch.Tensor,
    *,
    levels: int = 64,
    rounds: int = 20,
    mean: Sequence[float],
    std: Sequence[float],
    bgr: bool = False,
    dtype: torch.dtype = torch.float32,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """((w (256 - M) + u) / 255 - mean) / std as channels_last [N, 3, H, W] of `dtype`: w = veils[rows], M = levels, u
    what `seal` adds to a veil of these photos, keys and nonces.

    veils float32 or float64 [P, 3, H, W] in [0, 1]; mean, std, bgr, dtype and out as of `blend_normalize`; all else as
    of `seal`. Over black photos u is the keystream itself: uniform noise of M levels. Differentiable with respect to
    veils, without out. Raises TypeError or ValueError naming the argument.
    """
    op = "seal_normalize"
    images = check_tensor(op, "images", images, [torch.uint8], "[N, 3, H, W]")
    veils = check_tensor(op, "veils", veils, [torch.float32, torch.float64], "[P, 3, H, W]")
    check_same_photo(op, "veils", veils, "images", images)
    rows = check_rows(op, rows, len(images), images)
    check_bytes(op, "keys", keys, len(veils), KEY_BYTES, "images", images)
    check_bytes(op, "nonces", nonces, len(images), NONCE_BYTES, "images", images)
    check_sealing(op, images, "images", levels, rounds)
    check_input_of_network(op, images, veils, mean, std, dtype, out)
    numbers = [float(m) for m in mean], [float(s) for s in std]
    given = (images, veils, rows, keys, nonces, levels, rounds, *numbers, bool(bgr))
    if out is None:
        return (_seal_normalize if runs_now(images, veils) else torch.ops.veilkern.seal_normalize)(*given, dtype)
    (_seal_normalize_out if runs_now(images) else torch.ops.veilkern.seal_normalize_out)(*given, out)
    return out


def _fake(images, veils, rows, keys, nonces, levels, rounds, mean, std, bgr, dtype):
    return torch.empty(images.shape, dtype=dtype, device=images.device, memory_format=torch.channels_last)


def _seal_normalize(images, veils, rows, keys, nonces, levels, rounds, mean, std, bgr, dtype):
    out = _fake(images, veils, rows, keys, nonces, levels, rounds, mean, std, bgr, dtype)
    _write(images, veils, rows, keys, nonces, levels, rounds, mean, std, bgr, out)
    return out


def _seal_normalize_out(images, veils, rows, keys, nonces, levels, rounds, mean, std, bgr, out):
    given = (("images", images), ("veils", veils), ("rows", rows), ("keys", keys), ("nonces", nonces))
    check_output("seal_normalize", ("out", out), given)
    _write(images, veils, rows, keys, nonces, levels, rounds, mean, std, bgr, out)


def _write(images, veils, rows, keys, nonces, levels, rounds, mean, std, bgr, out):
    check_row_range("seal_normalize", rows, len(veils))
    if out.numel():
        serve("seal_normalize", images, veils.detach(), rows, keys, nonces, levels, rounds, mean, std, bgr, out)


def _setup(ctx, inputs, output):
    _, veils, rows, _, _, levels, _, _, ctx.std, ctx.bgr, _ = inputs
    ctx.save_for_backward(rows)
    ctx.like, ctx.share = (veils.shape[0], veils.dtype), (256 - levels) / 255


def _backward(ctx, gradient):
    """d / dw: the gradient of each photo, times (256 - levels) / 255 / std, added to its veil's row."""
    (rows,) = ctx.saved_tensors
    slope = slope_of_veils(gradient, rows, ctx.like, ctx.share, ctx.std, ctx.bgr)
    return None, slope, *(None,) * 9


_ARGUMENTS = (
    "Tensor images, Tensor veils, Tensor rows, Tensor keys, Tensor nonces, int levels, int rounds, float[] mean, "
    "float[] std, bool bgr"
)
register(f"seal_normalize({_ARGUMENTS}, ScalarType dtype) -> Tensor", _seal_normalize, _fake)
register(f"seal_normalize_out({_ARGUMENTS}, Tensor(a!) out) -> ()", _seal_normalize_out, lambda *arguments: None)
register_autograd("seal_normalize", _backward, _setup)
