"""When results agree: tolerances by dtype, and comparisons that name the first place that differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Tolerance:
    """How far a value may be from the truth: relative * |its value there| + absolute + largest * (the largest value of
    the result there, or `least`, whichever is more). least: a number, or made of the call's arguments."""

    relative: float = 0.0
    absolute: float = 0.0
    largest: float = 0.0
    least: float | Callable[[Arguments], float] = 1e-3

    def bound(self, wanted: torch.Tensor, arguments: Arguments | None = None) -> torch.Tensor:
        """The largest error allowed in each place of `wanted` (float64, any shape)."""
        least = self.least(arguments or {}) if callable(self.least) else self.least
        known = wanted.abs()[wanted.isfinite()]
        size = max(float(known.max()) if known.numel() else 0.0, least)
        return self.relative * wanted.abs() + (self.absolute + self.largest * size)


# Of an op: by the coarsest dtype in the call, one for all results or one for each.
Tolerances = Mapping[torch.dtype, Tolerance | Sequence[Tolerance]]
EVERY_OP = {torch.float64: Tolerance(largest=1e-10), torch.float32: Tolerance(largest=2e-5)}


def coarsest(dtypes: Sequence[torch.dtype]) -> torch.dtype | None:
    """The floating dtype with the fewest digits, None without any."""
    floats = [dtype for dtype in dtypes if dtype.is_floating_point]
    return max(floats, key=lambda dtype: torch.finfo(dtype).eps) if floats else None


def first_difference(found: torch.Tensor, wanted: torch.Tensor, bound: torch.Tensor | float = 0.0) -> str | None:
    """What is wrong, in words, with the first place that differs and how many do; None where all agree.

    found and wanted: of one shape, any dtype and strides. bound: the largest error allowed, a number or one a place.
    NaN agrees with NaN, infinity with itself.
    """
    if found.shape != wanted.shape:
        return f"shape {list(found.shape)}, wanted {list(wanted.shape)}"
    a, b = (t.detach().cpu().to(torch.float64 if t.is_floating_point() else torch.int64) for t in (found, wanted))
    a, b = (a, b) if a.dtype == b.dtype else (a.double(), b.double())
    error = (a - b).abs()
    agrees = (a == b) | (error <= bound)
    if a.is_floating_point():
        agrees |= a.isnan() & b.isnan()
    wrong = (~agrees).nonzero()
    if not len(wrong):
        return None
    place = tuple(wrong[0].tolist())
    allowed = bound[place] if isinstance(bound, torch.Tensor) and bound.shape == b.shape else bound
    return (
        f"{len(wrong)} of {a.numel()} values differ, first at {list(place)}: {a[place].item()}, wanted "
        f"{b[place].item()} within {float(allowed):.3g}"
    )


def require_near(label: str, found: torch.Tensor, wanted: torch.Tensor, bound: torch.Tensor | float = 0.0) -> None:
    """AssertionError with label and the first place that differs by more than `bound`."""
    if (wrong := first_difference(found, wanted, bound)) is not None:
        raise AssertionError(f"{label}: {wrong}")


def require_same_bits(label: str, found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> None:
    """AssertionError unless both are the same tensors, bit for bit, NaN included (any NaN is as good as another)."""
    for index, (a, b) in enumerate(zip(found, wanted, strict=True)):
        if a.dtype != b.dtype:
            raise AssertionError(f"{label}, result {index}: {a.dtype}, wanted {b.dtype}")
        require_near(f"{label}, result {index}", a, b)
        if a.is_floating_point() and not torch.equal(torch.signbit(a) & ~a.isnan(), torch.signbit(b) & ~b.isnan()):
            raise AssertionError(f"{label}, result {index}: a zero of the other sign")


def require_results(
    found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor], arguments: Arguments, tolerances: Tolerances
) -> None:
    """AssertionError unless every result is that of the float64 reference, by the tolerance of the coarsest dtype of
    the call and its results; exactly where there is none."""
    given = [value.dtype for value in arguments.values() if isinstance(value, torch.Tensor)]
    dtype = coarsest([*given, *(t.dtype for t in found)])
    for index, (a, b) in enumerate(zip(found, wanted, strict=True)):
        bound: torch.Tensor | float = 0.0
        if tolerances and dtype is not None:
            chosen = tolerances[dtype]
            bound = (chosen if isinstance(chosen, Tolerance) else chosen[index]).bound(b.double(), arguments)
        require_near(f"result {index}", a, b, bound)
