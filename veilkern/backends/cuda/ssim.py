"""ssim by the CUDA kernel: its launcher."""

from __future__ import annotations

import functools
import math

import torch

from veilkern.backends.cuda._launch import address, kernel_of, memory_of, processors_of, stream_of, strided
from veilkern.filters import gaussian_taps

LONGEST = 11  # of the windows; shorter ones are filled up with zeros to 7 or 11
THREADS = 256  # of a block, at most
WARPS = {torch.float32: 16, torch.float64: 8}  # that a processor has registers for
WAITING = 4  # warps whose work takes as long as what no other warp hides of barriers and memory


def limit(x, y, window, sigma, borders, data_range, scale, gradient_x, gradient_y) -> str | None:
    """Why a call is not served: registers hold a few rows of each column."""
    if window > LONGEST:
        return f"left to Triton: windows of more than {LONGEST} rows do not fit into a thread's registers"
    if max(x.shape[2:]) >= 2**30:
        return "planes of 2^30 rows or columns and more"
    if _pieces(x, window, gradient_x is not None or gradient_y is not None) is None:
        return "more than 2^31 blocks, or a block's columns do not fit into shared memory"
    return None


def ssim(x, y, window, sigma, borders, data_range, scale, gradient_x, gradient_y):
    """Launcher of `ssim`: returns the score and writes each gradient (dense) that is not None."""
    if gradient_x is None and gradient_y is not None:  # the score is the same the other way round
        x, y, gradient_x, gradient_y = y, x, gradient_y, None
    count, channels, height, width = x.shape
    pieces = _pieces(x, window, gradient_x is not None)
    assert pieces is not None  # see limit
    _, _, bands, _, strips, _ = pieces
    scores = x.new_empty((count, channels * bands * strips))
    factor = None if scale is None else scale.contiguous()
    kernel_of("ssim", x)(
        stream_of(x), strided(x), strided(y), (address(gradient_x), address(gradient_y)), address(factor),
        scores.data_ptr(), count * channels, (channels, height, width), _taps(window, sigma, x.dtype),
        (window, borders == "same"), data_range, pieces,
    )  # fmt: skip
    edge = 0 if borders == "same" else window - 1
    return scores.sum(1) / (channels * (height - edge) * (width - edge))


@functools.lru_cache(64)
def _taps(window: int, sigma: float, dtype: torch.dtype) -> tuple[float, ...]:
    """From the middle outwards, with zeros to the longest window's. The middle one makes up for rounding: added in the
    kernel's order all of them are 1 as near as can be, so that flat photos have no variance."""
    taps = gaussian_taps(window, sigma, torch.float64).to(dtype)
    for _ in range(4):
        total = functools.reduce(torch.add, taps)
        taps[window // 2] += 1 - total
    half = taps[window // 2 :].tolist()
    return (*half, *[0.0] * (LONGEST // 2 + 1 - len(half)))


def _pieces(x: torch.Tensor, window: int, gradients: bool) -> tuple[int, ...] | None:
    memory = kernel_of("ssim_memory", x)
    there, processors = memory_of(x.device), processors_of(x.device)
    return _shared_out(tuple(x.shape), window, gradients, WARPS[x.dtype], processors, there, memory)


@functools.lru_cache(256)
def _shared_out(shape, window, gradients, warps, processors, there, memory) -> tuple[int, ...] | None:
    """How planes are shared out (SsimPieces in csrc/cuda/ssim.h) so that the time is least: rounds of blocks, times a
    block's rows, times the warps that share a processor. None where it cannot be."""
    count, channels, height, width = shape
    half = 5 if window > 7 else 3
    beside = _fours(2 * half if gradients else half)  # columns on either side that a strip reads, too
    strips = 1 if width <= THREADS else math.ceil(width / (THREADS - 2 * beside))
    columns = _fours(math.ceil(width / strips))
    strips = math.ceil(width / columns)
    wide = min(_fours(width), columns + 2 * beside)
    best = None
    for together in range(1, THREADS // wide + 1):
        needed = together * memory(wide, window, gradients)
        of_block = math.ceil(together * wide / 32)
        at_once = min(warps // of_block, (there + 1024) // (needed + 1024))  # each block takes 1 KB more
        if at_once == 0:
            break
        for bands in _divisions(height):
            rows = _fours(math.ceil(height / bands))
            blocks = math.ceil(count * channels / together) * bands * strips
            rounds, left = divmod(blocks, processors * at_once)
            work = rounds * (at_once * of_block + WAITING)
            work += math.ceil(left / processors) * of_block + WAITING if left else 0
            time = work * (rows + (2 * half if bands > 1 else 0) + 4)
            if blocks < 2**31 and (best is None or time < best[0]):
                best = time, (together, wide, bands, rows, strips, columns)
    return None if best is None else best[1]


def _fours(number: int) -> int:
    return math.ceil(number / 4) * 4


def _divisions(height: int) -> list[int]:
    """Numbers of bands of at least four rows, each for another number of rows."""
    found, rows = [], _fours(height)
    while rows > 0:
        found.append(math.ceil(height / rows))
        rows = min(rows - 4, _fours(math.ceil(height / (found[-1] + 1))))
    return found


def examples():
    """Calls that a device is tried on."""
    x = (torch.arange(2 * 3 * 14 * 24, dtype=torch.float32, device="cpu") * 0.37).frac().view(2, 3, 14, 24)
    y, scale = (x + 0.2 * x.flip(3)).clamp(0, 1), torch.tensor([1.0, -2.0], dtype=torch.float32, device="cpu")
    for window, borders in ((11, "valid"), (7, "same")):
        yield x, y, window, 1.5, borders, 1.0, scale, torch.empty_like(x), torch.empty_like(x)
        yield x, y, window, 1.5, borders, 1.0, None, torch.empty_like(x), None
        yield x, y, window, 1.5, borders, 1.0, None, None, None
