"""block_variance (eq. 9-11): how uneven a photo is in its sliding box sums."""

from __future__ import annotations

import torch

from veilkern.backends import serve
from veilkern.ops._checks import check_block, check_choice, check_device, check_output, check_same_photo, check_tensor
from veilkern.ops._library import recorded, records_now, register, register_autograd, runs_now

FLOATS = (torch.float32, torch.float64)


def block_variance(
    images: torch.Tensor, *, block: tuple[int, int] = (3, 3), stride: int = 1, form: str = "consistent"
) -> torch.Tensor:
    """Loss [N] of images float32 or float64 [N, C, H, W] in [0, 1]; differentiable (once).

    S are the valid sums over h x w boxes (`block`) at `stride` (stride 3 with block 3 x 3: tiles), Var their population
    variance per channel. form `consistent`: sum_c (1 + 1 / (hw)^2) Var(S_c). form `literal`, as the paper prints it:
    sum_c Var(S_c) + mean_i (S_i / (hw) - mean S)^2, mostly a penalty on brightness. Raises TypeError or
    ValueError naming the argument.
    """
    images, block = _check("block_variance", images, block, stride, form)
    if runs_now(images):
        return _loss(images, block, stride, form)
    return (_recorded if records_now(images) else torch.ops.veilkern.block_variance)(images, block, stride, form)


def block_variance_gradient(
    images: torch.Tensor,
    *,
    block: tuple[int, int] = (3, 3),
    stride: int = 1,
    form: str = "consistent",
    scale: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss [N] and d loss_n / d images [N, C, H, W] in one go, without a graph: for hot loops.

    Arguments as of `block_variance`. scale [N]: multiplies the gradient of each image (not its loss). out: where to
    write the gradient (shape and dtype of images; overlapping neither images nor scale).
    """
    op = "block_variance_gradient"
    images, block = _check(op, images, block, stride, form)
    if scale is not None:
        check_tensor(op, "scale", scale, [images.dtype], f"[{images.shape[0]}]")
        check_device(op, "scale", scale, "images", images)
        scale = scale.detach()
    images = images.detach()
    if out is None:
        return (_loss_and_gradient if runs_now(images) else torch.ops.veilkern.block_variance_gradient)(
            images, block, stride, form, scale
        )
    check_tensor(op, "out", out, [images.dtype], "[N, C, H, W]")
    if out.shape != images.shape:
        raise ValueError(f"{op}: out must be {list(images.shape)}, got {list(out.shape)}")
    check_same_photo(op, "out", out, "images", images)
    run = _gradient_out if runs_now(images, out) else torch.ops.veilkern.block_variance_gradient_out
    return run(images, block, stride, form, scale, out), out


def _check(op, images, block, stride, form):
    images = check_tensor(op, "images", images, FLOATS, "[N, C, H, W]")
    check_choice(op, "form", form, ("consistent", "literal"))
    check_block(op, block, stride, *images.shape[2:])
    return images, list(block)


def _loss(images, block, stride, form):
    return _serve(images, block, stride, form, None, None)


def _loss_and_gradient(images, block, stride, form, scale):
    gradient = torch.empty_like(images, memory_format=torch.contiguous_format)
    return _serve(images, block, stride, form, scale, gradient), gradient


def _gradient_out(images, block, stride, form, scale, out):
    check_output("block_variance_gradient", ("out", out), (("images", images), ("scale", scale)))
    return _serve(images, block, stride, form, scale, out)


def _serve(images, block, stride, form, scale, gradient, wanted=True):
    """The loss, if it is wanted: without it a backend may leave it out."""
    if not images.numel():
        return images.new_zeros(len(images))
    stride = min(stride, max(images.shape[2:]))  # the same one box, and no sum with it leaves 32 bits
    return serve("block_variance", images.detach(), tuple(block), stride, form, scale, gradient, wanted)


def _fake(images, *others):
    return images.new_empty(images.shape[0])


def _fake_gradient(images, *others):
    return _fake(images), torch.empty_like(images, memory_format=torch.contiguous_format)


def _setup(ctx, inputs, output):
    images, *ctx.others = inputs
    ctx.save_for_backward(images)


def _backward(ctx, upstream):
    """From the images again, not from a gradient kept by the forward pass: to read that, multiply and write moves as
    much as to read the images and write the gradient, and to make and keep it takes time and memory besides."""
    (images,) = ctx.saved_tensors
    if runs_now(images, upstream):
        gradient = torch.empty_like(images, memory_format=torch.contiguous_format)
        block, stride, form = ctx.others
        _serve(images, block, stride, form, upstream, gradient, wanted=False)
        return gradient, None, None, None
    _, gradient = torch.ops.veilkern.block_variance_gradient(images, *ctx.others, upstream.contiguous())
    return gradient, None, None, None


_ARGUMENTS = "Tensor images, int[] block, int stride, str form"
register(f"block_variance({_ARGUMENTS}) -> Tensor", _loss, _fake)
register(
    f"block_variance_gradient({_ARGUMENTS}, Tensor? scale) -> (Tensor, Tensor)", _loss_and_gradient, _fake_gradient
)
register(f"block_variance_gradient_out({_ARGUMENTS}, Tensor? scale, Tensor(a!) out) -> Tensor", _gradient_out, _fake)
register_autograd("block_variance", _backward, _setup)
_recorded = recorded("block_variance", _loss, _backward, _setup)
