"""ssim: structural similarity of pairs of photos."""

from __future__ import annotations

import torch

from veilkern.backends import serve
from veilkern.ops._checks import check_choice, check_device, check_tensor
from veilkern.ops._library import register, register_autograd, runs_now


def ssim(
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    window: int = 11,
    sigma: float = 1.5,
    borders: str = "valid",
    data_range: float = 1.0,
) -> torch.Tensor:
    """Mean SSIM [N] of float32 or float64 pairs [N, C, H, W] over channels and places; differentiable (once).

    The gradients that will be asked for are made together with the score and kept for the backward pass.
    window: odd side of the Gaussian window of standard deviation sigma (0.01..10000 pixels); borders `valid` (only
    where the window lies inside: Wang et al. 2004) or `same` (zeros around); data_range: the span of the values, 1 or
    255 (1e-6..1e9).
    Raises TypeError or ValueError naming the argument.
    """
    _check("ssim", x, y, window, sigma, borders, data_range)
    arguments = x, y, window, float(sigma), borders, float(data_range)
    if runs_now(x, y):
        return _score(*arguments)
    wanted = [torch.is_grad_enabled() and t.requires_grad for t in (x, y)]
    return torch.ops.veilkern.ssim(*arguments, *wanted)[0]


def ssim_gradient(
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    window: int = 11,
    sigma: float = 1.5,
    borders: str = "valid",
    data_range: float = 1.0,
    scale: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Score [N], d score_n / dx and d score_n / dy [N, C, H, W] in one go, without a graph.

    Arguments as of `ssim`. scale [N]: multiplies the gradients of each pair (not its score).
    """
    _check("ssim_gradient", x, y, window, sigma, borders, data_range)
    if scale is not None:
        check_tensor("ssim_gradient", "scale", scale, [x.dtype], f"[{x.shape[0]}]")
        check_device("ssim_gradient", "scale", scale, "x", x)
        scale = scale.detach()
    x, y = x.detach(), y.detach()
    return (_score_and_gradients if runs_now(x, y) else torch.ops.veilkern.ssim_gradient)(
        x, y, window, float(sigma), borders, float(data_range), scale
    )


def _check(op, x, y, window, sigma, borders, data_range):
    check_tensor(op, "x", x, [torch.float32, torch.float64], "[N, C, H, W]")
    check_tensor(op, "y", y, [x.dtype], "[N, C, H, W]")
    if x.shape != y.shape:
        raise ValueError(f"{op}: y must have the shape of x, {list(x.shape)}, got {list(y.shape)}")
    check_device(op, "y", y, "x", x)
    check_choice(op, "borders", borders, ("valid", "same"))
    if isinstance(window, bool) or not isinstance(window, int) or not 1 <= window < 2**16 or window % 2 == 0:
        raise ValueError(f"{op}: window must be an odd positive integer below 65536, got {window!r}")
    if borders == "valid" and window > min(x.shape[2:]):
        raise ValueError(f"{op}: window must fit the image, {x.shape[2]} x {x.shape[3]}, got {window}")
    _check_range(op, "sigma", sigma, 0.01, 1e4)  # beyond, squares of sigma leave the numbers: 0 / 0
    _check_range(op, "data_range", data_range, 1e-6, 1e9)  # beyond, its fourth power does, in single precision


def _check_range(op: str, name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{op}: {name} must be a number, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{op}: {name} must lie in {low:g}..{high:g}, got {value}")


def _score(x, y, window, sigma, borders, data_range):
    return _serve(x, y, window, sigma, borders, data_range, None, None, None)


def _score_and_gradients(x, y, window, sigma, borders, data_range, scale):
    gradients = _room(x), _room(x)
    return _serve(x, y, window, sigma, borders, data_range, scale, *gradients), *gradients


def _score_and_wanted(x, y, window, sigma, borders, data_range, for_x=True, for_y=True):
    """The score and the gradients that are wanted; in place of one that is not, a tensor without values."""
    gradients = [_room(x) if wanted else None for wanted in (for_x, for_y)]
    score = _serve(x, y, window, sigma, borders, data_range, None, *gradients)
    return score, *(x.new_empty(0) if gradient is None else gradient for gradient in gradients)


def _room(x):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _serve(x, y, window, sigma, borders, data_range, scale, gradient_x, gradient_y):
    if not x.numel():
        return x.new_zeros(len(x))
    return serve("ssim", x.detach(), y.detach(), window, sigma, borders, data_range, scale, gradient_x, gradient_y)


def _fake(x, y, window, sigma, borders, data_range, for_x=True, for_y=True):
    return x.new_empty(x.shape[0]), *(_room(x) if wanted else x.new_empty(0) for wanted in (for_x, for_y))


def _fake_gradients(x, *others):
    return x.new_empty(x.shape[0]), _room(x), _room(x)


def _setup(ctx, inputs, output):
    _, *gradients = output
    ctx.save_for_backward(*gradients)
    ctx.mark_non_differentiable(*gradients)


def _backward(ctx, upstream, *ignored):
    """The score's gradients are there already, for an upstream of 1; they stay as they are for the next backward."""
    found = (
        upstream[:, None, None, None] * gradient if needed else None
        for gradient, needed in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False)
    )
    return *found, None, None, None, None, None, None


_ARGUMENTS = "Tensor x, Tensor y, int window, float sigma, str borders, float data_range"
_RESULTS = "(Tensor, Tensor, Tensor)"
register(f"ssim({_ARGUMENTS}, bool for_x=True, bool for_y=True) -> {_RESULTS}", _score_and_wanted, _fake)
register(f"ssim_gradient({_ARGUMENTS}, Tensor? scale) -> {_RESULTS}", _score_and_gradients, _fake_gradients)
register_autograd("ssim", _backward, _setup)
