"""rectify_: ReLU, ReLU6 or PReLU in place, keeping a bit a value; rectify_gradient_: a slope by those bits."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from veilkern.backends import serve
from veilkern.ops._checks import check_device, check_output, check_tensor
from veilkern.ops._library import register, runs_now

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def rectify_(
    x: torch.Tensor, add: torch.Tensor | None = None, slope: torch.Tensor | None = None, top: float | None = None
) -> torch.Tensor:
    """y = z where 0 < z < top, top above, slope z else; z = x + add. Written into x; returns the bits of 0 < z < top.

    x float32, float64, bfloat16 or float16, [N, C, H, W] in channels_last or [N, C] contiguous; add: none, [C] or
    [C, H, W]; slope: none (0: ReLU), [1] or [C] (PReLU); both float32 (float64 for float64 x). top: none, or a positive
    number (6: ReLU6), without slope. bits: uint8 [N, (C H W + 7) // 8], bit j % 8 (the lowest first) of byte j // 8
    that of a photo's value j in memory; bits beyond the last value are 0. NaN stays, with a 0. 16-bit x are computed
    in float32 and rounded once. Not differentiable: rectify_gradient_ is its slope; a graph of autograd that holds x
    from before raises in backward. Raises TypeError or ValueError naming the argument.
    """
    op = "rectify_"
    _check_values(op, "x", x)
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    if add is not None:
        shape = "[C]" if not isinstance(add, torch.Tensor) or add.ndim == 1 or x.ndim == 2 else "[C, H, W]"
        check_tensor(op, "add", add, [exact], shape)
        if tuple(add.shape) not in ((x.shape[1],), tuple(x.shape[1:])):
            raise ValueError(f"{op}: add must be {list(x.shape[1:2])} or {list(x.shape[1:])}, got {list(add.shape)}")
        check_device(op, "add", add, "x", x)
    _check_slope(op, slope, "x", x, exact)
    if top is not None:
        if isinstance(top, bool) or not isinstance(top, (int, float)):
            raise TypeError(f"{op}: top must be a number, got {top!r}")
        if not 0 < top <= torch.finfo(exact).max:  # beyond, float32 would take it for none
            raise ValueError(f"{op}: top must be positive and finite, also as {str(exact)[6:]}, got {top}")
        if slope is not None:
            raise ValueError(f"{op}: top must be None where there is a slope, got {top}")
    run: Callable = _rectify if runs_now(x, add, slope) else torch.ops.veilkern.rectify_
    with torch.no_grad():
        return run(x, add, slope, None if top is None else float(top))


def rectify_gradient_(gradient: torch.Tensor, bits: torch.Tensor, slope: torch.Tensor | None = None) -> torch.Tensor:
    """gradient times 1 where rectify_ has set a bit, else times slope (None: 0, whatever the gradient); in place.

    gradient: of the dtypes, and in the layout, of rectify_'s x; bits: what that returned; slope: what it was given.
    Returns gradient. Raises TypeError or ValueError naming the argument.
    """
    op = "rectify_gradient_"
    _check_values(op, "gradient", gradient)
    check_tensor(op, "bits", bits, [torch.uint8], "[N, K]")
    if (wanted := _bits_of(gradient)) != tuple(bits.shape):
        raise ValueError(f"{op}: bits must be {list(wanted)}, as rectify_ returns them, got {list(bits.shape)}")
    check_device(op, "bits", bits, "gradient", gradient)
    _check_slope(op, slope, "gradient", gradient, torch.float64 if gradient.dtype == torch.float64 else torch.float32)
    run: Callable = _rectify_gradient if runs_now(gradient, slope) else torch.ops.veilkern.rectify_gradient_
    with torch.no_grad():
        run(gradient, bits, slope)
    return gradient


def _bits_of(x: torch.Tensor) -> tuple[int, int]:
    return x.shape[0], (math.prod(x.shape[1:]) + 7) // 8


def _check_values(op: str, name: str, x: torch.Tensor) -> None:
    two = isinstance(x, torch.Tensor) and x.ndim == 2
    check_tensor(op, name, x, DTYPES, "[N, C]" if two else "[N, C, H, W]")
    if not (x if two else x.permute(0, 2, 3, 1)).is_contiguous():  # of no values every order is
        kind = "contiguous" if two else "channels_last"
        raise ValueError(f"{op}: {name} must be {kind} {list(x.shape)}, got strides {x.stride()}")


def _check_slope(op: str, slope: torch.Tensor | None, name: str, x: torch.Tensor, kind: torch.dtype) -> None:
    if slope is None:
        return
    check_tensor(op, "slope", slope, [kind], "[C]")
    if len(slope) not in (1, x.shape[1]):
        raise ValueError(f"{op}: slope must be [1] or [{x.shape[1]}], got {list(slope.shape)}")
    check_device(op, "slope", slope, name, x)


def _rectify(x, add, slope, top):
    check_output("rectify_", ("x", x), [("add", add), ("slope", slope)])
    bits = torch.empty(_bits_of(x), dtype=torch.uint8, device=x.device)
    if x.numel():
        serve("rectify_", x, bits, add, slope, top, False)
    return bits


def _rectify_gradient(gradient, bits, slope):
    check_output("rectify_gradient_", ("gradient", gradient), [("bits", bits), ("slope", slope)])
    if gradient.numel():
        serve("rectify_", gradient, bits, None, slope, None, True)


def _fake(x, add, slope, top):
    return x.new_empty(_bits_of(x), dtype=torch.uint8)


register("rectify_(Tensor(a!) x, Tensor? add, Tensor? slope, float? top) -> Tensor", _rectify, _fake)
register(
    "rectify_gradient_(Tensor(a!) gradient, Tensor bits, Tensor? slope) -> ()",
    _rectify_gradient,
    lambda gradient, bits, slope: None,
)
