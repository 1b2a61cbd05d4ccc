"""From tensors to what the C++ kernels take: addresses, sizes, strides in values.

A tensor whose address is passed is held in a named local until the call returns: `.contiguous()` may have made it.
"""

from __future__ import annotations

import torch

from veilkern.backends import thread_count

try:
    from veilkern import _cpu  # type: ignore[attr-defined]  # compiled
except ImportError as error:
    raise ImportError(
        f"the C++ module veilkern._cpu is missing ({error}); this package was built without a C++ "
        "compiler, or is run from its source tree: install a compiler (g++ or clang++) and reinstall "
        "with `pip install --force-reinstall --no-deps veilkern`"
    ) from error

NUMBERS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}

_SUFFIX = {torch.float32: "f32", torch.float64: "f64", torch.uint8: "u8", torch.uint16: "u16"}


def kernel_of(op: str, like: torch.Tensor):
    return getattr(_cpu, f"{op}_{_SUFFIX[like.dtype]}")


def address(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def channels_last(photos: torch.Tensor) -> bool:
    """Whether each photo lies whole in memory, channels side by side; photos may be apart, or in any order."""
    channels, _, width = photos.shape[1:]
    return photos.stride()[1:] == (1, width * channels, channels) and channels > 1


def whole(photos: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """Photos that lie whole in memory in the wanted order: the tensor itself where they do, else a copy."""
    _, channels, height, width = photos.shape
    wanted = (1, width * channels, channels) if channels_last else (height * width, width, 1)
    if photos.stride()[1:] == wanted:
        return photos
    return photos.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def planes(images: torch.Tensor) -> torch.Tensor:
    """Images whose rows lie whole in memory: the tensor itself where they do, else a copy."""
    return images if images.stride(3) == 1 or images.shape[3] == 1 else images.contiguous()


def batch(photos: torch.Tensor) -> tuple[int, int]:
    """Photos that lie whole in memory, as the kernels take them."""
    return photos.data_ptr(), photos.stride(0)


def table(rows: torch.Tensor) -> tuple[int, int, int]:
    """Keys or nonces, row after row."""
    return rows.data_ptr(), *rows.shape


def bank(veils: torch.Tensor) -> tuple[int, int, tuple[int, ...]]:
    """Veils as they lie: a bank may be large, so none of it is ever copied to be read."""
    return veils.data_ptr(), len(veils), veils.stride()


def by_value(kernel, images, veils, rows, *numbers, out, own=()):
    """Value by value, so any order of the channels will do as long as images have that of `out`. own: uint8 [P or N, K]
    that go between rows and out; numbers: what comes behind the sizes."""
    last = channels_last(out)
    source, index, target = whole(images, last), rows.contiguous(), whole(out, last)
    whole_own = [t.contiguous() for t in own]
    kernel(
        batch(source), bank(veils), index.data_ptr(), *map(table, whole_own), batch(target), tuple(source.shape), last,
        *numbers, thread_count(),
    )  # fmt: skip
    if target is not out:
        out.copy_(target)
