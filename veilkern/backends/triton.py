"""The Triton kernels as a backend: from tensors to pointers, strides and a grid. The ops have checked everything.

A launch goes to the current stream of the tensors' device and nothing here waits for it. Strides are passed on: no
tensor is copied to be read. Batches lie on the first axis of the grid, whose limit is 2^31 - 1. With TRITON_INTERPRET=1
the kernels run on the CPU in Triton's interpreter: slow, the same arithmetic, for tests.
"""

from __future__ import annotations

import contextlib
import functools
import os

import torch

from veilkern.launches import launch_of
from veilkern.reference.recover import gaussian_weights
from veilkern.reference.ssim import gaussian_taps

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"

try:
    import triton
except ImportError as error:
    raise ImportError(f"Triton is not installed ({error}): pip install 'veilkern[triton]'") from error
if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 6):
    raise ImportError(f"Triton {triton.__version__} is too old: the kernels need 3.6 or newer, as torch 2.11 brings")
if not INTERPRETED and not torch.cuda.is_available():
    raise ImportError(
        f"no GPU: torch {torch.__version__} sees none (TRITON_INTERPRET=1 runs the kernels on the CPU, for tests)"
    )

from veilkern.kernels.blend import blend_kernel
from veilkern.kernels.blend_normalize import blend_normalize_kernel
from veilkern.kernels.block_variance import block_variance_kernel
from veilkern.kernels.hull_distance import hull_distance_kernel
from veilkern.kernels.recover import recover_gaussian_kernel, recover_kernel
from veilkern.kernels.ssim import ssim_gradient_kernel, ssim_kernel
from veilkern.kernels.veil_step import veil_losses_kernel, veil_move_kernel

DEVICES = ("cpu",) if INTERPRETED else ("cuda",)
DETAIL = f"Triton {triton.__version__}" + (", interpreted on the CPU" if INTERPRETED else "")
_KIND = {torch.uint8: "u8", torch.uint16: "u16", torch.float32: "f32", torch.float64: "f64"}


def run(kernel, programs: int, like: torch.Tensor, *arguments, **options) -> None:
    """Launch `programs` programs on the device and the current stream of `like`."""
    device = contextlib.nullcontext() if like.device.type == "cpu" else torch.cuda.device(like.device)
    with device:
        kernel[(programs,)](*arguments, **options)


def _compiled(launch: dict[str, int]) -> dict[str, int]:
    """The compiler's options of a launch: warps of a program and, where the table has it, the most registers."""
    options = {"num_warps": launch["num_warps"]}
    return options | {"maxnreg": launch["registers"]} if "registers" in launch else options


def _power(number: int) -> int:
    """The next power of two."""
    return 1 << max(number - 1, 0).bit_length()


def _tiled(tile: int, width: int, widest: int = 128) -> dict[str, int]:
    """Rows and columns of a tile of about `tile` values for planes of this width."""
    columns = min(_power(width), widest)
    return {"ROWS": max(tile // columns, 1), "COLS": columns}


def _whole(*photos: torch.Tensor) -> bool:
    """Whether each photo of each batch lies in one piece, all of them in the same order of values."""
    _, channels, height, width = photos[0].shape
    orders = {(height * width, width, 1), (1, width * channels, channels)}
    found = {t.stride()[1:] for t in photos}
    return len(found) == 1 and found <= orders


def _capturing(device: torch.device) -> bool:
    """Whether what is launched on the device now goes into a CUDA graph."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


_captured: dict[tuple, torch.Tensor] = {}  # tables that a CUDA graph reads: kept for good, whatever becomes of it


def _constant(make, arguments: tuple, device: torch.device) -> torch.Tensor:
    """A small table on the device, made at the first call with these arguments; the last 64 are kept, and those that a
    CUDA graph has captured, whose addresses are in it."""
    key, capturing = (make, arguments, device), _capturing(device)
    table = _captured[key] if key in _captured else _recent(*key)
    if capturing:
        _captured[key] = table
    elif device.type == "cuda":
        table.record_stream(torch.cuda.current_stream(device))  # one that is dropped may still be read there
    return table


@functools.lru_cache(maxsize=64)
def _recent(make, arguments: tuple, device: torch.device) -> torch.Tensor:
    if _capturing(device):
        raise RuntimeError("veilkern: call this op with these arguments once before it is captured in a CUDA graph")
    table = torch.as_tensor(make(*arguments)).to(device)
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()  # once: other streams may read it next
    return table


def _photos(kernel, op, source, veils, rows, out, *numbers):
    """Value by value: blend and recover."""
    launch = launch_of(op, _KIND[out.dtype if op == "blend" else source.dtype], out.device)
    count, channels, height, width = source.shape
    size = channels * height * width
    chunks = triton.cdiv(size, launch["block"])
    run(
        kernel, count * chunks, out, source, veils, rows.contiguous(), out, len(veils), size, height * width, width,
        chunks, *numbers, *source.stride(), *veils.stride(), *out.stride(), WHOLE=_whole(source, veils, out),
        BLOCK=launch["block"], **_compiled(launch),
    )  # fmt: skip


def blend(images, veils, rows, a, lossless, out):
    """Launcher of `blend`: writes `out`."""
    _photos(blend_kernel, "blend", images, veils, rows, out, a)


def recover(protected, veils, rows, a, gaussian_sigma, out):
    """Launcher of `recover`: writes `out`."""
    magic = 2**31 // (2 * a) + 1
    if gaussian_sigma is None:
        return _photos(recover_kernel, "recover", protected, veils, rows, out, a, magic)
    if protected.data_ptr() == out.data_ptr():  # in place: a program reads rows that another one writes
        protected = protected.clone()
    launch = launch_of("recover", "gaussian", out.device)
    count, channels, height, width = protected.shape
    weights = _constant(gaussian_weights, (gaussian_sigma,), out.device)
    radius = len(weights) // 2
    columns = _power(width) if width <= 1024 else 1024  # gaussian_sigma is at most 100: radius at most 200
    rows_each = max(launch["tile"] // columns, 1)
    bands, pieces = triton.cdiv(height, rows_each), 1 if width <= columns else triton.cdiv(width, columns - 2 * radius)
    run(
        recover_gaussian_kernel, count * channels * bands * pieces, out, protected, veils, rows.contiguous(), weights,
        out, len(veils), channels, height, width, bands, pieces, radius, a, magic, *protected.stride(), *veils.stride(),
        *out.stride(), WIDE=pieces > 1, ROWS=rows_each, COLS=columns, **_compiled(launch),
    )  # fmt: skip
    return None


def blend_normalize(images, veils, rows, a, mean, std, bgr, out):
    """Launcher of `blend_normalize`: writes `out`, which is channels_last."""
    launch = launch_of("blend_normalize", _KIND[veils.dtype], out.device)
    count, _, height, width = images.shape
    chunks = triton.cdiv(height * width, launch["block"])
    order = (2, 1, 0) if bgr else (0, 1, 2)
    strides = [
        (t.stride(0), *(channel * t.stride(1) for channel in order), t.stride(2), t.stride(3)) for t in (images, veils)
    ]
    run(
        blend_normalize_kernel, count * chunks, out, images, veils, rows.contiguous(), out, len(veils),
        height * width, width, chunks, *strides[0], *strides[1], *(a / 255 / 255 / s for s in std),
        *((255 - a) / 255 / s for s in std),
        *(-m / s for m, s in zip(mean, std, strict=True)),
        WHOLE=all(t.stride()[2:] == (width, 1) for t in (images, veils)), BLOCK=launch["block"],
        **_compiled(launch),
    )  # fmt: skip


def _boxes(images, block, stride) -> tuple[int, ...]:
    """Block height and width, stride, and how many boxes there are down and across."""
    return (*block, stride, *((side - b) // stride + 1 for side, b in zip(images.shape[2:], block, strict=True)))


def block_variance(images, block, stride, form, scale, gradient):
    """Launcher of `block_variance`: returns the loss and, where `gradient` is a tensor, writes that."""
    launch = launch_of("block_variance", _KIND[images.dtype], images.device)
    count, channels, height, width = images.shape
    loss = images.new_empty((count, channels))
    run(
        block_variance_kernel, count * channels, images, images, gradient,
        None if scale is None else scale.contiguous(), loss, channels, height, width, *_boxes(images, block, stride),
        *images.stride(), *(images if gradient is None else gradient).stride(), LITERAL=form == "literal",
        WALK=block == (3, 3) and stride == 1, **_tiled(launch["tile"], width), **_compiled(launch),
    )  # fmt: skip
    return loss.sum(1)


def hull_distance(features, clean, offsets, clean_offsets, kind, weights, own, width):
    """Launcher of `hull_distance`: returns distance, weights [N, width] and gradient."""
    count, dimensions = features.shape
    if len(offsets) == 1:  # nobody: no program to say so
        return tuple(features.new_full(shape, float("nan")) for shape in ((count,), (count, width), features.shape))
    people, most = len(offsets) - 1, max(_power(width), 2)
    exact = torch.float64 if kind in ("affine", "span") else features.dtype
    launch = launch_of("hull_distance", f"{'narrow' if most <= 64 else 'wide'} {_KIND[exact]}", features.device)
    group, chunk = (max(launch[name] * 64 // max(most, 64), 2) for name in ("group", "chunk"))
    distance, found = features.new_empty(count), features.new_empty((count, width))
    gradient = torch.empty_like(features, memory_format=torch.contiguous_format)
    solved = kind in ("convex", "affine", "span")
    scratch = [
        features.new_empty((people if solved else 0, *shape), dtype=exact)
        for shape in ((dimensions,), (width, width), (most, group), (group, most))
    ]
    single = features.dtype == torch.float32
    bound = {"convex": 2.5e-7 if single else 2.5e-12}.get(kind, 100 * torch.finfo(features.dtype).eps)
    run(
        hull_distance_kernel, people, features, features, clean, offsets.contiguous(), clean_offsets.contiguous(),
        weights, None if own is None else own.contiguous(), distance, found, gradient, *scratch, people, count,
        len(clean), dimensions, width, bound, *features.stride(), *clean.stride(),
        *(weights.stride() if weights is not None else (0, 0)), KIND=kind, MOST=most, GROUP=group, CHUNK=chunk,
        **_compiled(launch),
    )  # fmt: skip
    return distance, found, gradient


@functools.cache
def _processors(device: torch.device) -> int:
    return 2 if device.type == "cpu" else torch.cuda.get_device_properties(device).multi_processor_count


def _ssim_tiles(launch, width, before, after) -> tuple[int, int, dict[str, int]]:
    """Columns to the left of a tile's own, columns of its own (both in sixteens), and its rows and columns."""
    lead = triton.cdiv(before, 16) * 16
    columns = min(_power(width + lead + after), max(128, _power(2 * (lead + after + 16))))
    free = columns - lead - after
    room = triton.cdiv(width, 16) * 16 if width <= free else free // 16 * 16
    return lead, room, {"ROWS": max(launch["tile"] // columns, 1), "COLS": columns}


def ssim(x, y, window, sigma, borders, data_range, scale, gradient_x, gradient_y):
    """Launcher of `ssim`: returns the score and, where gradients are tensors, writes those (dense)."""
    launch = launch_of("ssim", _KIND[x.dtype], x.device)
    count, channels, height, width = x.shape
    pad = window // 2 if borders == "same" else 0
    out_h, out_w = (side + 2 * pad - window + 1 for side in (height, width))
    pitch = triton.cdiv(out_w, 16) * 16
    planes, taps = count * channels, _constant(gaussian_taps, (window, sigma, torch.float64), x.device)

    def tiles_of(high, wide, before, after):
        lead, room, shape = _ssim_tiles(launch, wide, before, after)
        pieces = triton.cdiv(wide, room)
        tiles = triton.cdiv(high, shape["ROWS"]) * pieces
        programs = min(planes * tiles, launch["slots_per_processor"] * _processors(x.device))
        slots = x.new_empty((programs, 5, shape["ROWS"] * shape["COLS"]))
        return programs, tiles, pieces, lead, room, slots, shape | _compiled(launch)

    programs, tiles, pieces, lead, room, slots, shape = tiles_of(out_h, out_w, pad, window - 1 - pad)
    partial = x.new_empty((planes, tiles))
    maps = None if gradient_x is None else x.new_empty((planes, 4, out_h, pitch))
    sizes = (channels, height, width, out_h, out_w, out_h * pitch, pitch, window, pad)
    run(
        ssim_kernel, programs, x, x, y, taps, None if scale is None else scale.contiguous(), partial, maps, slots,
        planes * tiles, tiles, pieces, *sizes, lead, room, (0.01 * data_range) ** 2, (0.03 * data_range) ** 2,
        *x.stride(), *y.stride(), **shape,
    )  # fmt: skip
    if maps is not None:
        programs, tiles, pieces, lead, room, slots, shape = tiles_of(height, width, window - 1 - pad, pad)
        run(
            ssim_gradient_kernel, programs, x, x, y, taps, maps, gradient_x, gradient_y, slots, planes * tiles, tiles,
            pieces, *sizes, lead, room, *x.stride(), *y.stride(), **shape,
        )  # fmt: skip
    return partial.view(count, -1).sum(1) / (channels * out_h * out_w)


def veil_step_(
    veils, momentum, gradients, images, offsets, gradient_offsets, blend, lam, mu, step, decay, active, mean_images,
    visual, block, stride, form,
):  # fmt: skip
    """Launcher of `veil_step_`: changes veils and momentum, returns the statistics. Two launches."""
    launch = launch_of("veil_step_", _KIND[veils.dtype], veils.device)
    people, channels, height, width = veils.shape
    tiling = _tiled(launch["tile"], width)
    pieces = triton.cdiv(width, tiling["COLS"])
    tiles = triton.cdiv(height, tiling["ROWS"]) * pieces
    norm, compiled = visual == "norm", _compiled(launch)
    mixed, slopes = (torch.empty_like(veils, memory_format=torch.contiguous_format) for _ in range(2))
    means = None if norm else torch.empty_like(mixed)
    squares = veils.new_empty((len(images), channels * tiles))
    sums, variances, absolutes = (veils.new_empty((people, channels * tiles)) for _ in range(3))  # each aligned
    counters = torch.empty(people, dtype=torch.int32, device=veils.device)
    statistics = veils.new_empty((people, 3))
    marks = offsets.contiguous()
    moving = None if active is None else active.contiguous()
    sizes = (channels, height, width, tiles, pieces, blend, *_boxes(veils, block, stride))
    rates = (lam, mu, step, decay)
    tables = [value if isinstance(value, torch.Tensor) else None for value in rates]
    numbers = [0.0 if isinstance(value, torch.Tensor) else value for value in rates]
    run(
        veil_losses_kernel, people * channels * tiles, veils, veils, images, marks, moving, mean_images, mixed, means,
        squares, sums, counters, len(images), *sizes, *veils.stride(), *images.stride(),
        *(veils if mean_images is None else mean_images).stride(), **tiling, **compiled,
    )  # fmt: skip
    run(
        veil_move_kernel, people * channels * tiles, veils, veils, momentum, gradients, images, marks,
        gradient_offsets.contiguous(), moving, *tables, mixed, means, squares, sums, variances, absolutes, slopes,
        counters, statistics, *numbers, len(images), len(gradients), *sizes, *veils.stride(), *momentum.stride(),
        *gradients.stride(), *images.stride(), NORM=norm, LITERAL=form == "literal",
        PLAIN=block == (3, 3) and stride == 1, **tiling, PARTS=_power(channels * tiles), TILES=_power(tiles),
        **compiled,
    )  # fmt: skip
    return statistics


OPS = {
    launch.__name__: launch
    for launch in (blend, blend_normalize, recover, block_variance, hull_distance, ssim, veil_step_)
}
