"""Checks that the ops share; every message names the op, the argument, what was wanted and what came."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch


def check_tensor(op: str, name: str, value: object, dtypes: Sequence[torch.dtype], shape: str) -> torch.Tensor:
    """`value` is a tensor of one of `dtypes` with as many dimensions as `shape` (such as "[N, 3, H, W]") names.

    A number in `shape` must match exactly. TypeError for another type or dtype, ValueError for another shape.
    """
    wanted = _parse(shape) if torch.compiler.is_compiling() else _sides(shape)
    if (
        isinstance(value, torch.Tensor)
        and value.dtype in dtypes
        and value.ndim == len(wanted)
        and all(w is None or w == n for w, n in zip(wanted, value.shape, strict=True))
    ):
        return value
    kinds = " or ".join(str(d).removeprefix("torch.") for d in dtypes)
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{op}: {name} must be a tensor, {kinds} {shape}, got {type(value).__name__}")
    if value.dtype not in dtypes:
        raise TypeError(
            f"{op}: {name} must be {kinds} {shape}, got {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        )
    raise ValueError(f"{op}: {name} must be {kinds} {shape}, got {list(value.shape)}")


def _parse(shape: str) -> tuple[int | None, ...]:
    """Each side of a shape as written: a number, or None for a letter."""
    return tuple([int(part) if part.strip().isdigit() else None for part in shape.strip("[]").split(",")])


_sides = functools.lru_cache(maxsize=1024)(_parse)  # torch.compile does not trace caches


def check_same_photo(op: str, name: str, value: torch.Tensor, other_name: str, other: torch.Tensor) -> None:
    """Both hold photos of one size, [.., 3, H, W], on one device."""
    if value.shape[1:] != other.shape[1:]:
        raise ValueError(
            f"{op}: {name} must hold photos like {other_name}, {list(other.shape[1:])}, got {list(value.shape[1:])}"
        )
    check_device(op, name, value, other_name, other)


def check_device(op: str, name: str, value: torch.Tensor, other_name: str, other: torch.Tensor) -> None:
    """Both are on one device."""
    if value.device != other.device:
        raise ValueError(f"{op}: {name} must be on the device of {other_name}, {other.device}, got {value.device}")


def check_rows(op: str, rows: object, count: int, like: torch.Tensor) -> torch.Tensor:
    """rows is int64 [count]; its values are checked where the op runs (see check_row_range)."""
    rows = check_tensor(op, "rows", rows, [torch.int64], "[N]")
    if len(rows) != count:
        raise ValueError(f"{op}: rows must have one entry per photo, {count}, got {len(rows)}")
    check_device(op, "rows", rows, "images", like)
    return rows


def check_row_range(op: str, rows: torch.Tensor, people: int) -> None:
    """Every row names a veil. On the CPU only: elsewhere it would make the host wait."""
    if rows.device.type == "cpu" and rows.numel():
        low, high = (int(v) for v in torch.aminmax(rows))
        if low < 0 or high >= people:
            raise ValueError(f"{op}: rows must lie in 0..{people - 1} (there are {people} veils), got {low}..{high}")


def check_blend(op: str, a: object, low: int) -> int:
    """The blend a of alpha = a / 255, an integer."""
    if isinstance(a, bool) or not isinstance(a, int):
        raise TypeError(f"{op}: a must be an integer (alpha = a / 255), got {a!r}")
    if not low <= a <= 255:
        raise ValueError(f"{op}: a must lie in {low}..255 (alpha = a / 255), got {a}")
    return a


def check_offsets(op: str, name: str, offsets: object, like_name: str, like: torch.Tensor) -> torch.Tensor:
    """offsets is int64 [P + 1]; its values are checked where the op runs (see check_offset_range)."""
    offsets = check_tensor(op, name, offsets, [torch.int64], "[P + 1]")
    if len(offsets) < 1:
        raise ValueError(f"{op}: {name} must have P + 1 entries, got none")
    check_device(op, name, offsets, like_name, like)
    return offsets


def check_offset_range(op: str, name: str, offsets: torch.Tensor, count: int) -> None:
    """offsets rise from 0 to count. On the CPU only: elsewhere it would make the host wait."""
    if offsets.device.type == "cpu":
        marks = offsets.detach().numpy()
        if marks[0] != 0 or marks[-1] != count or (marks[1:] < marks[:-1]).any():
            shown = marks.tolist() if len(marks) <= 20 else f"{marks[:10].tolist()} .. {marks[-10:].tolist()}"
            raise ValueError(f"{op}: {name} must rise from 0 to {count}, got {shown}")


def check_block(op: str, block: object, stride: object, height: int, width: int) -> None:
    """block (h, w) and stride are positive integers and the block fits the image."""
    if not (isinstance(block, (tuple, list)) and len(block) == 2 and all(isinstance(b, int) and b > 0 for b in block)):
        raise ValueError(f"{op}: block must be two positive integers (h, w), got {block!r}")
    if isinstance(stride, bool) or not isinstance(stride, int) or stride < 1:
        raise ValueError(f"{op}: stride must be a positive integer, got {stride!r}")
    if block[0] > height or block[1] > width:
        raise ValueError(f"{op}: block must fit the image, {height} x {width}, got {block[0]} x {block[1]}")


def check_choice(op: str, name: str, value: object, choices: Sequence[str]) -> None:
    """value is one of choices."""
    if value not in choices:
        raise ValueError(f"{op}: {name} must be one of {', '.join(choices)}, got {value!r}")
