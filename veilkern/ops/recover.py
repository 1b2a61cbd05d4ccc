"""recover (eq. 14, corrected): originals back from protected photos and veils, bit for bit the same everywhere."""

from __future__ import annotations

import torch

from veilkern.backends import serve
from veilkern.filters import gaussian_radius
from veilkern.ops._checks import (
    check_blend,
    check_output,
    check_row_range,
    check_rows,
    check_same_photo,
    check_tensor,
)
from veilkern.ops._library import register, runs_now


def recover(
    protected: torch.Tensor,
    veils: torch.Tensor,
    rows: torch.Tensor,
    a: int,
    *,
    gaussian_sigma: float | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """x = clamp(floor((2 t + a) / (2 a)), 0, 255), t = 255 x' - (255 - a) v, the veil of photo i being veils[rows[i]].

    protected uint8 [N, 3, H, W], or uint16 from the lossless blend (then t = p - (255 - a) v and the result exact);
    veils uint8 [P, 3, H, W], rows int64 [N], a integer 1..255. Returns uint8 [N, 3, H, W]; from uint8 the error is at
    most (a + 254) div (2 a) levels (2 at a = 51). gaussian_sigma: filter the result (5 x 5 at sigma 1, borders
    reflected), as the paper does. out: where to write; it may be a uint8 `protected` itself, value on value, with and
    without the filter, and must not overlap anything else. Raises TypeError or ValueError naming the argument.
    """
    a, gaussian_sigma = _check(protected, veils, rows, a, gaussian_sigma, out)
    if out is None:
        return (_recover if runs_now(protected) else torch.ops.veilkern.recover)(
            protected, veils, rows, a, gaussian_sigma
        )
    (_recover_out if runs_now(protected) else torch.ops.veilkern.recover_out)(
        protected, veils, rows, a, gaussian_sigma, out
    )
    return out


def _check(protected, veils, rows, a, gaussian_sigma, out) -> tuple[int, float | None]:
    check_tensor("recover", "protected", protected, [torch.uint8, torch.uint16], "[N, 3, H, W]")
    check_tensor("recover", "veils", veils, [torch.uint8], "[P, 3, H, W]")
    check_same_photo("recover", "veils", veils, "protected", protected)
    check_rows("recover", rows, len(protected), protected)
    a = check_blend("recover", a, 1)
    if gaussian_sigma is not None:
        gaussian_sigma = check_sigma(gaussian_sigma, protected)
    if out is not None:
        check_tensor("recover", "out", out, [torch.uint8], "[N, 3, H, W]")
        if out.shape != protected.shape:
            raise ValueError(f"recover: out must be {list(protected.shape)}, got {list(out.shape)}")
        check_same_photo("recover", "out", out, "protected", protected)
    return a, gaussian_sigma


def check_call(protected, veils, rows, a, gaussian_sigma, out) -> None:
    """All that `recover` checks, of a call that is served elsewhere than where its tensors are (veils/staging.py)."""
    _check(protected, veils, rows, a, gaussian_sigma, out)
    _check_places(protected, veils, rows, out)
    check_row_range("recover", rows, len(veils))


def _check_places(protected, veils, rows, out):
    given = (("protected", protected), ("veils", veils), ("rows", rows))
    check_output("recover", ("out", out), given, same="protected")


def check_sigma(sigma: float, photos: torch.Tensor) -> float:
    if isinstance(sigma, bool) or not isinstance(sigma, (int, float)):
        raise TypeError(f"recover: gaussian_sigma must be a number of pixels or None, got {sigma!r}")
    if not 0.1 <= sigma <= 100:
        raise ValueError(f"recover: gaussian_sigma must lie in 0.1..100 pixels, got {sigma}")
    radius = gaussian_radius(sigma)
    if radius >= min(photos.shape[2:]):
        raise ValueError(
            f"recover: gaussian_sigma {sigma} reaches {radius} pixels, too far for photos of "
            f"{photos.shape[2]} x {photos.shape[3]}"
        )
    return float(sigma)


def _fake(protected, veils, rows, a, gaussian_sigma):
    return torch.empty_like(protected, dtype=torch.uint8)  # in the layout of the protected photos


def _recover(protected, veils, rows, a, gaussian_sigma):
    out = _fake(protected, veils, rows, a, gaussian_sigma)
    _write(protected, veils, rows, a, gaussian_sigma, out)
    return out


def _recover_out(protected, veils, rows, a, gaussian_sigma, out):
    _check_places(protected, veils, rows, out)
    _write(protected, veils, rows, a, gaussian_sigma, out)


def _write(protected, veils, rows, a, gaussian_sigma, out):
    check_row_range("recover", rows, len(veils))
    if out.numel():
        serve("recover", protected, veils, rows, a, gaussian_sigma, out)


register(
    "recover(Tensor protected, Tensor veils, Tensor rows, int a, float? gaussian_sigma) -> Tensor", _recover, _fake
)
register(
    "recover_out(Tensor protected, Tensor veils, Tensor rows, int a, float? gaussian_sigma, Tensor(a!) out) -> ()",
    _recover_out,
    lambda *arguments: None,
)
