"""Which veil each photo gets: bank rows from whatever says so."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np
import torch

from veilkern.veils.arrays import as_tensor
from veilkern.veils.bank import VeilBank

Rows = torch.Tensor | np.ndarray | Sequence[int] | Sequence[str] | str
_WANTED = "int64 bank rows, names, or one name for all photos"


def rows_of(op: str, rows: object, bank: VeilBank, count: int, device: torch.device) -> torch.Tensor:
    """Bank rows, int64 [N] on `device`, of rows [N], of N names, or of one name for all `count` photos. TypeError for
    what is neither, ValueError for a listed row that is not there, KeyError for a name without a veil."""
    rows = as_tensor(op, "rows", rows)
    if isinstance(rows, str):
        return bank.rows([rows]).to(device).expand(count)
    if isinstance(rows, torch.Tensor):
        if rows.dtype.is_floating_point or rows.dtype.is_complex or rows.dtype == torch.bool:
            raise TypeError(f"{op}: rows must be {_WANTED}, got a tensor of {rows.dtype}")
        return rows.to(device, torch.int64)
    if isinstance(rows, np.ndarray) and rows.dtype.kind in "iu":
        return torch.from_numpy(rows.astype(np.int64)).to(device)
    if not isinstance(rows, (Sequence, np.ndarray)) or isinstance(rows, (bytes, bytearray)):
        raise TypeError(f"{op}: rows must be {_WANTED}, got {type(rows).__name__}")
    if len(rows) and all(isinstance(row, str) for row in rows):
        return bank.rows([str(row) for row in rows]).to(device)
    return torch.tensor([_row(op, row, len(bank)) for row in rows], dtype=torch.int64, device=device)


def _row(op: str, row: object, people: int) -> int:
    """A row as an integer; nothing is rounded to one, and a truth value is none."""
    try:
        found = operator.index(row)  # type: ignore[arg-type]
    except TypeError:
        found = None
    if found is None or (row.dtype if isinstance(row, torch.Tensor) else type(row)) in (bool, np.bool_, torch.bool):
        raise TypeError(f"{op}: rows must be {_WANTED}, got {row!r} among them")
    if not 0 <= found < people:
        raise ValueError(f"{op}: rows must lie in 0..{people - 1} (there are {people} veils), got {found}")
    return found
