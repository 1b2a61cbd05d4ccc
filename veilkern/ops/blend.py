"""blend (eq. 12): protect photos with veils, bit for bit the same on every backend."""

from __future__ import annotations

import torch

from veilkern.backends import serve
from veilkern.ops._checks import (
    check_blend,
    check_output,
    check_row_range,
    check_rows,
    check_same_photo,
    check_tensor,
)
from veilkern.ops._library import register, runs_now


def blend(
    images: torch.Tensor,
    veils: torch.Tensor,
    rows: torch.Tensor,
    a: int,
    *,
    lossless: bool = False,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """x' = (a x + (255 - a) v + 127) div 255, the veil of photo i being veils[rows[i]].

    images uint8 [N, 3, H, W], veils uint8 [P, 3, H, W], rows int64 [N], a integer 0..255 (alpha = a / 255). Returns
    uint8 [N, 3, H, W], or with lossless uint16 p = a x + (255 - a) v (0..65025), which `recover` inverts exactly.
    out: where to write (that dtype and shape). It may be `images` itself, value on value; it must not overlap anything
    else. Without it the result has the memory layout of images: channels-last photos stay so, without a copy. Raises
    TypeError or ValueError naming the argument; rows out of range are ValueError on the CPU; on a GPU, where nobody
    waits to look, such a photo comes out black.
    """
    a = _check(images, veils, rows, a, lossless, out)
    if out is None:
        return (_blend if runs_now(images) else torch.ops.veilkern.blend)(images, veils, rows, a, lossless)
    (_blend_out if runs_now(images) else torch.ops.veilkern.blend_out)(images, veils, rows, a, lossless, out)
    return out


def _check(images, veils, rows, a, lossless, out) -> int:
    check_tensor("blend", "images", images, [torch.uint8], "[N, 3, H, W]")
    check_tensor("blend", "veils", veils, [torch.uint8], "[P, 3, H, W]")
    check_same_photo("blend", "veils", veils, "images", images)
    check_rows("blend", rows, len(images), images)
    a = check_blend("blend", a, 0)
    if out is not None:
        check_tensor("blend", "out", out, [torch.uint16 if lossless else torch.uint8], "[N, 3, H, W]")
        if out.shape != images.shape:
            raise ValueError(f"blend: out must be {list(images.shape)}, got {list(out.shape)}")
        check_same_photo("blend", "out", out, "images", images)
    return a


def check_call(images, veils, rows, a, lossless, out) -> None:
    """All that `blend` checks, of a call that is served elsewhere than where its tensors are (veils/staging.py)."""
    _check(images, veils, rows, a, lossless, out)
    _check_places(images, veils, rows, out)
    check_row_range("blend", rows, len(veils))


def _check_places(images, veils, rows, out):
    check_output("blend", ("out", out), (("images", images), ("veils", veils), ("rows", rows)), same="images")


def _fake(images, veils, rows, a, lossless):
    return torch.empty_like(images, dtype=torch.uint16 if lossless else torch.uint8)  # in the layout of the images


def _blend(images, veils, rows, a, lossless):
    out = _fake(images, veils, rows, a, lossless)
    _write(images, veils, rows, a, lossless, out)
    return out


def _blend_out(images, veils, rows, a, lossless, out):
    _check_places(images, veils, rows, out)
    _write(images, veils, rows, a, lossless, out)


def _write(images, veils, rows, a, lossless, out):
    check_row_range("blend", rows, len(veils))
    if out.numel():
        serve("blend", images, veils, rows, a, lossless, out)


register("blend(Tensor images, Tensor veils, Tensor rows, int a, bool lossless) -> Tensor", _blend, _fake)
register(
    "blend_out(Tensor images, Tensor veils, Tensor rows, int a, bool lossless, Tensor(a!) out) -> ()",
    _blend_out,
    lambda *arguments: None,
)
