"""protect and recover: a bank's veils on photos and off again, at memory speed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from veilkern import ops
from veilkern.veils import VeilBank

Rows = torch.Tensor | Sequence[int] | Sequence[str]


def protect(
    images: torch.Tensor, bank: VeilBank, rows: Rows, *, out: torch.Tensor | None = None, lossless: bool = False
) -> torch.Tensor:
    """Protected photos x' = (a x + (255 - a) v + 127) div 255 of uint8 photos [N, 3, H, W].

    rows: the veil of each photo, as int64 [N] bank rows or as N names. Returns uint8, or with lossless uint16
    [N, 3, H, W] (recovered exactly); out: where to write. Raises TypeError, ValueError, or KeyError for a name without
    a veil.
    """
    _check_size("protect", images, bank)
    return ops.blend(
        images, bank.veils.to(images.device), _rows(rows, bank, images), bank.blend, lossless=lossless, out=out
    )


def recover(
    protected: torch.Tensor,
    bank: VeilBank,
    rows: Rows,
    *,
    out: torch.Tensor | None = None,
    gaussian_sigma: float | None = None,
) -> torch.Tensor:
    """Originals, uint8 [N, 3, H, W], of protected uint8 or uint16 photos; exact from uint16, within (a + 254) div (2 a)
    levels (2 at a = 51) from uint8. gaussian_sigma: smooth the result, in pixels. Raises as `protect` does."""
    _check_size("recover", protected, bank)
    return ops.recover(
        protected,
        bank.veils.to(protected.device),
        _rows(rows, bank, protected),
        bank.blend,
        gaussian_sigma=gaussian_sigma,
        out=out,
    )


def _check_size(op: str, images: torch.Tensor, bank: VeilBank) -> None:
    if not isinstance(bank, VeilBank):
        raise TypeError(f"{op}: bank must be a VeilBank, got {type(bank).__name__}")
    if isinstance(images, torch.Tensor) and images.ndim == 4 and tuple(images.shape[2:]) != bank.size:
        raise ValueError(
            f"{op}: the bank's veils are {bank.size[0]} x {bank.size[1]}, the photos "
            f"{images.shape[2]} x {images.shape[3]}"
        )


def _rows(rows: Rows, bank: VeilBank, images: torch.Tensor) -> torch.Tensor:
    if isinstance(rows, torch.Tensor):
        return rows
    if len(rows) and isinstance(rows[0], str):
        return bank.rows(rows).to(images.device)  # type: ignore[arg-type]
    return torch.as_tensor(rows, dtype=torch.int64, device=images.device)
