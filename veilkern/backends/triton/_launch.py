"""How a Triton kernel is launched: device, stream, compiler options, tables kept on the device."""

from __future__ import annotations

import contextlib
import functools
import os
from typing import Any

import torch

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

KIND = {torch.uint8: "u8", torch.uint16: "u16", torch.float32: "f32", torch.float64: "f64"}


def too_old(tensor: torch.Tensor, *others: object) -> str | None:
    """Why this tensor's GPU is not served; None when it is."""
    return None if tensor.device.type == "cpu" else _too_old(tensor.device)


@functools.cache
def _too_old(device: torch.device) -> str | None:
    major, minor = torch.cuda.get_device_capability(device)
    return None if major >= 8 else f"needs compute capability 8.0, {device} has {major}.{minor}"


def run(kernel, programs: int, like: torch.Tensor, *arguments, **options) -> None:
    """Launch `programs` programs on the device and the current stream of `like`."""
    if programs >= 2**31:
        raise ValueError(f"{kernel.__name__}: {programs} programs are more than a GPU takes: give fewer photos a call")
    device = contextlib.nullcontext() if like.device.type == "cpu" else torch.cuda.device(like.device)
    with device:
        start(kernel, programs, arguments, options)


def start(kernel, programs: int, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    """The launch itself; bench/resources.py and the tests put a recorder in its place."""
    kernel[(programs,)](*arguments, **options)


def compiled(launch: dict[str, int]) -> dict[str, int]:
    """The compiler's options of a launch: warps of a program and, where the table has it, the most registers."""
    options = {"num_warps": launch["num_warps"]}
    return options | {"maxnreg": launch["registers"]} if "registers" in launch else options


def power(number: int) -> int:
    """The next power of two."""
    return 1 << max(number - 1, 0).bit_length()


def tiled(tile: int, width: int, widest: int = 128) -> dict[str, int]:
    """Rows and columns of a tile of about `tile` values for planes of this width."""
    columns = min(power(width), widest)
    return {"ROWS": max(tile // columns, 1), "COLS": columns}


def boxes(images, block, stride) -> tuple[int, ...]:
    """Block height and width, stride, and how many boxes there are down and across."""
    return (*block, stride, *((side - b) // stride + 1 for side, b in zip(images.shape[2:], block, strict=True)))


def whole(*photos: torch.Tensor) -> bool:
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


# Tables that a CUDA graph reads: kept for good, whatever becomes of it.
_captured: dict[tuple[Any, ...], torch.Tensor] = {}


def constant(make, arguments: tuple[Any, ...], device: torch.device) -> torch.Tensor:
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
def _recent(make, arguments: tuple[Any, ...], device: torch.device) -> torch.Tensor:
    if _capturing(device):
        raise RuntimeError("veilkern: call this op with these arguments once before it is captured in a CUDA graph")
    table = torch.as_tensor(make(*arguments)).to(device)
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()  # once: other streams may read it next
    return table
