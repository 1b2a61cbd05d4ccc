"""The C++ kernels as a backend: from tensors to addresses, sizes and strides. The ops have checked everything.

A tensor whose address is passed is held in a named local until the call returns: `.contiguous()` may have made it.
"""

from __future__ import annotations

import functools

import torch

from veilkern.backends import thread_count
from veilkern.reference.hull_distance import KINDS
from veilkern.reference.recover import gaussian_weights
from veilkern.reference.ssim import gaussian_taps

try:
    from veilkern import _cpu  # type: ignore[attr-defined]  # compiled
except ImportError as error:
    raise ImportError(
        f"the C++ module veilkern._cpu is missing ({error}); this package was built without a C++ "
        "compiler, or is run from its source tree: install a compiler (g++ or clang++) and reinstall "
        "with `pip install --force-reinstall --no-deps veilkern`"
    ) from error

DEVICES = ("cpu",)
DETAIL = f"C++, {_cpu.isa()}"
_NUMBERS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_SUFFIX = {torch.float32: "f32", torch.float64: "f64", torch.uint8: "u8", torch.uint16: "u16"}


def _kernel(op: str, like: torch.Tensor):
    return getattr(_cpu, f"{op}_{_SUFFIX[like.dtype]}")


def _address(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _channels_last(photos: torch.Tensor) -> bool:
    """Whether each photo lies whole in memory, channels side by side; photos may be apart, or in any order."""
    channels, _, width = photos.shape[1:]
    return photos.stride()[1:] == (1, width * channels, channels) and channels > 1


def _whole(photos: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """Photos that lie whole in memory in the wanted order: the tensor itself where they do, else a copy."""
    _, channels, height, width = photos.shape
    wanted = (1, width * channels, channels) if channels_last else (height * width, width, 1)
    if photos.stride()[1:] == wanted:
        return photos
    return photos.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _planes(images: torch.Tensor) -> torch.Tensor:
    """Images whose rows lie whole in memory: the tensor itself where they do, else a copy."""
    return images if images.stride(3) == 1 or images.shape[3] == 1 else images.contiguous()


def _batch(photos: torch.Tensor) -> tuple[int, int]:
    """Photos that lie whole in memory, as the kernels take them."""
    return photos.data_ptr(), photos.stride(0)


def _bank(veils: torch.Tensor) -> tuple[int, int, tuple[int, ...]]:
    """Veils as they lie: a bank may be large, so none of it is ever copied to be read."""
    return veils.data_ptr(), len(veils), veils.stride()


def _launch(kernel, images, veils, rows, a, out):
    """Value by value, so any order of the channels will do as long as images have that of `out`."""
    last = _channels_last(out)
    source, index, target = _whole(images, last), rows.contiguous(), _whole(out, last)
    kernel(
        _batch(source), _bank(veils), index.data_ptr(), _batch(target), tuple(source.shape), last, a, thread_count()
    )  # fmt: skip
    if target is not out:
        out.copy_(target)


def blend(images, veils, rows, a, lossless, out):
    """Launcher of `blend`: writes `out`."""
    _launch(_cpu.blend_u16 if lossless else _cpu.blend_u8, images, veils, rows, a, out)


def recover(protected, veils, rows, a, gaussian_sigma, out):
    """Launcher of `recover`: writes `out`."""
    if gaussian_sigma is None:
        return _launch(_kernel("recover", protected), protected, veils, rows, a, out)
    source, index, target = _whole(protected, False), rows.contiguous(), _whole(out, False)
    weights = gaussian_weights(gaussian_sigma)
    _kernel("recover_gaussian", protected)(
        _batch(source), _bank(veils), index.data_ptr(), _batch(target), tuple(source.shape), a,
        weights[len(weights) // 2 :], thread_count(),
    )  # fmt: skip
    if target is not out:
        out.copy_(target)
    return None


def blend_normalize(images, veils, rows, a, mean, std, bgr, out):
    """Launcher of `blend_normalize`: writes `out`, which is channels_last."""
    source, index = _whole(images, False), rows.contiguous()
    _kernel("blend_normalize", veils)(
        _batch(source), _bank(veils), index.data_ptr(), out.data_ptr(), _NUMBERS[out.dtype], tuple(source.shape),
        [2, 1, 0] if bgr else [0, 1, 2], [a / 255 / 255 / s for s in std], [(255 - a) / 255 / s for s in std],
        [-m / s for m, s in zip(mean, std, strict=True)], thread_count(),
    )  # fmt: skip


def block_variance(images, block, stride, form, scale, gradient):
    """Launcher of `block_variance`: returns the loss and, where `gradient` is a tensor, writes that."""
    source, loss = _planes(images), images.new_empty(len(images))
    target = None if gradient is None else _planes(gradient)
    factor = None if scale is None else scale.contiguous()
    _kernel("block_variance", source)(
        source.data_ptr(), source.stride()[:3], _address(target), (source if target is None else target).stride()[:3],
        _address(factor), loss.data_ptr(), tuple(source.shape), block, stride, form == "literal",
        thread_count(),
    )  # fmt: skip
    if target is not gradient:
        gradient.copy_(target)
    return loss


def hull_distance(features, clean, offsets, clean_offsets, kind, weights, own, width):
    """Launcher of `hull_distance`: returns distance, weights [N, width] and gradient."""
    source, hull, marks, clean_marks = (t.contiguous() for t in (features, clean, offsets, clean_offsets))
    start, chosen = (None if t is None else t.contiguous() for t in (weights, own))
    count, dimensions = source.shape
    distance, found = source.new_empty(count), source.new_empty((count, width))
    gradient = torch.empty_like(source)
    _kernel("hull_distance", source)(
        source.data_ptr(), hull.data_ptr(), marks.data_ptr(), clean_marks.data_ptr(),
        (len(marks) - 1, count, len(hull), dimensions), KINDS.index(kind), _address(start), _address(chosen),
        distance.data_ptr(), found.data_ptr(), width, gradient.data_ptr(), thread_count(),
    )  # fmt: skip
    return distance, found, gradient


_taps = functools.lru_cache(maxsize=16)(gaussian_taps)  # a tensor on the CPU, never written to


def ssim(x, y, window, sigma, borders, data_range, scale, gradient_x, gradient_y):
    """Launcher of `ssim`: returns the score and, where gradients are tensors, writes those (dense)."""
    left, right, score = _planes(x), _planes(y), x.new_empty(len(x))
    factor, taps = None if scale is None else scale.contiguous(), _taps(window, sigma, torch.float64)
    strides = [(left if g is None else g).stride()[:3] for g in (gradient_x, gradient_y)]
    _kernel("ssim", left)(
        left.data_ptr(), left.stride()[:3], right.data_ptr(), right.stride()[:3], _address(gradient_x), strides[0],
        _address(gradient_y), strides[1], _address(factor), score.data_ptr(), tuple(left.shape), taps.data_ptr(),
        window, borders == "same", data_range, thread_count(),
    )  # fmt: skip
    return score


def veil_step_(
    veils, momentum, gradients, images, offsets, gradient_offsets, blend, lam, mu, step, decay, active, mean_images,
    visual, block, stride, form,
):  # fmt: skip
    """Launcher of `veil_step_`: changes veils and momentum, returns the statistics."""
    own_veils, own_momentum = veils.contiguous(), momentum.contiguous()
    slopes, photos, marks, slope_marks = (t.contiguous() for t in (gradients, images, offsets, gradient_offsets))
    moving, means = (None if t is None else t.contiguous() for t in (active, mean_images))
    statistics = veils.new_empty((len(veils), 3))
    _kernel("veil_step", veils)(
        own_veils.data_ptr(), own_momentum.data_ptr(), slopes.data_ptr(), photos.data_ptr(), _address(means),
        marks.data_ptr(), slope_marks.data_ptr(), (len(photos), len(slopes)), lam.data_ptr(), mu.data_ptr(),
        step.data_ptr(), decay.data_ptr(), _address(moving), statistics.data_ptr(), tuple(veils.shape), blend,
        visual == "norm", block, stride, form == "literal", thread_count(),
    )  # fmt: skip
    for given, used in ((veils, own_veils), (momentum, own_momentum)):
        if used is not given:
            given.copy_(used)
    return statistics


OPS = {
    launch.__name__: launch
    for launch in (blend, blend_normalize, recover, block_variance, hull_distance, ssim, veil_step_)
}
