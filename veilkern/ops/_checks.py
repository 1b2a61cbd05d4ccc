"""Checks that the ops share; every message names the op, the argument, what was wanted and what came."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch

_TooHard = getattr(np, "exceptions", np).TooHardError  # NumPy 1.25 moved it
INPUT_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)  # of a network's input
LEVELS, ROUNDS = (16, 32, 64, 128), (12, 20)  # of sealed photos
KEY_BYTES, NONCE_BYTES = 32, 12
CARRIERS = 8 * NONCE_BYTES  # values, the first of a photo, that carry a bit of its nonce each
MAX_SIZE = 2**31 - 1  # of a width, stride or the like: what every backend can count
_MAX_WORK = 100_000  # candidates that NumPy may try to find an overlap: milliseconds


def check_tensor(op: str, name: str, value: object, dtypes: Sequence[torch.dtype], shape: str) -> torch.Tensor:
    """`value` is a tensor of one of `dtypes` with as many dimensions as `shape` (such as "[N, 3, H, W]") names.

    A number in `shape` must match exactly. TypeError for another type or dtype, ValueError for another shape.
    """
    compiling = torch.compiler.is_compiling()  # there the dispatcher hands the op's body plain memory
    wanted = _parse(shape) if compiling else _sides(shape)
    if (
        isinstance(value, torch.Tensor)
        and value.dtype in dtypes
        and value.layout is torch.strided
        and value.ndim == len(wanted)
        and all(w is None or w == n for w, n in zip(wanted, value.shape, strict=True))
    ):
        if not compiling and type(value) is torch.Tensor:
            check_memory(op, name, value)
        return value
    kinds = " or ".join(str(d).removeprefix("torch.") for d in dtypes)
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{op}: {name} must be a tensor, {kinds} {shape}, got {type(value).__name__}")
    if value.dtype not in dtypes:
        raise TypeError(
            f"{op}: {name} must be {kinds} {shape}, got {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        )
    if value.layout is not torch.strided:
        raise TypeError(f"{op}: {name} must be a dense tensor, {kinds} {shape}, got {value.layout}: use .to_dense()")
    raise ValueError(f"{op}: {name} must be {kinds} {shape}, got {list(value.shape)}")


def check_memory(op: str, name: str, value: torch.Tensor) -> None:
    """The values lie in memory as they are: kernels read and write there. ValueError otherwise."""
    if value.is_neg():
        raise ValueError(f"{op}: {name} must hold its own values, got a negated view: use .resolve_neg()")
    if value.data_ptr() == 0 and value.numel() and value.device.type != "meta":
        raise ValueError(f"{op}: {name} must have memory, got {list(value.shape)} whose storage is empty or freed")
    if value.device.type != "meta" and value.untyped_storage().nbytes() < storage_needed(value):
        raise ValueError(f"{op}: {name} must have memory, got {list(value.shape)} whose storage is cut short")


def storage_needed(value: torch.Tensor) -> int:
    """Bytes that a storage must have to hold all values of a strided tensor. It may have fewer: untyped_storage()
    .resize_ leaves the tensor's shape alone."""
    if not value.numel():
        return 0
    if value.is_contiguous():
        return int(value.storage_offset() + value.numel()) * value.element_size()
    reach = sum(step * (side - 1) for step, side in zip(value.stride(), value.shape, strict=True))
    return int(value.storage_offset() + reach + 1) * value.element_size()


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


def check_sealing(op: str, photos: torch.Tensor, photos_name: str, levels: object, rounds: object) -> None:
    """What every op on sealed photos takes: levels 16 to 128, rounds 12 or 20, photos that can carry a nonce."""
    for name, value, choices in (("levels", levels, LEVELS), ("rounds", rounds, ROUNDS)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{op}: {name} must be an integer, got {value!r}")
        if value not in choices:
            raise ValueError(f"{op}: {name} must be one of {', '.join(map(str, choices))}, got {value}")
    if photos.shape[1:].numel() < CARRIERS:
        raise ValueError(
            f"{op}: {photos_name} must have at least {CARRIERS} values a photo, which carry its nonce, got "
            f"{list(photos.shape[1:])}"
        )


def check_bytes(op: str, name: str, value: object, count: int, size: int, like_name: str, like: torch.Tensor) -> None:
    """value is uint8 [count, size]: keys or nonces."""
    found = check_tensor(op, name, value, [torch.uint8], f"[{count}, {size}]")
    check_device(op, name, found, like_name, like)


def check_input_of_network(op: str, images, veils, mean, std, dtype: object, out: torch.Tensor | None) -> None:
    """mean, std, dtype and out of an op that writes a network's input [N, 3, H, W]."""
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != 3:
            raise ValueError(f"{op}: {name} must be three numbers, one a channel, got {list(values)}")
    if min(abs(s) for s in std) == 0:
        raise ValueError(f"{op}: std must not be zero, got {list(std)}")
    if dtype not in INPUT_DTYPES:
        raise TypeError(f"{op}: dtype must be float32, float64, bfloat16 or float16, got {dtype}")
    if out is None:
        return
    check_tensor(op, "out", out, [dtype], "[N, 3, H, W]")
    if out.shape != images.shape or not out.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(
            f"{op}: out must be channels_last {list(images.shape)}, got {list(out.shape)} with strides {out.stride()}"
        )
    check_same_photo(op, "out", out, "images", images)
    if torch.is_grad_enabled() and veils.requires_grad:
        raise ValueError(f"{op}: out must not be given where veils require a gradient")


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
    if isinstance(stride, bool) or not isinstance(stride, int) or not 1 <= stride <= MAX_SIZE:
        raise ValueError(f"{op}: stride must be a positive integer up to {MAX_SIZE}, got {stride!r}")
    if block[0] > height or block[1] > width:
        raise ValueError(f"{op}: block must fit the image, {height} x {width}, got {block[0]} x {block[1]}")


def check_choice(op: str, name: str, value: object, choices: Sequence[str]) -> None:
    """value is one of choices."""
    if value not in choices:
        raise ValueError(f"{op}: {name} must be one of {', '.join(choices)}, got {value!r}")


Named = tuple[str, torch.Tensor | None]


def check_output(op: str, output: Named, others: Sequence[Named], *, same: str = "") -> None:
    """What an op writes shares no memory with anything else that it is given, nor with itself.

    output, others: (name, tensor); where there is None there is no memory. same: the one of others that output may be
    as a whole, value on value: same address, shape, strides and size of a value; nor does it require a gradient.
    ValueError otherwise. It looks at addresses, so it belongs in an op's body, which no compiler traces. Autograd is
    told that the output changes.
    """
    name, out = output
    if out is None:
        return
    if out.requires_grad:
        raise ValueError(f"{op}: {name} must not require a gradient, for it is written in place: use .detach()")
    if not out.is_contiguous() and _overlaps_itself(out):
        raise ValueError(
            f"{op}: {name} must have memory of its own for every value, got {list(out.shape)} with strides "
            f"{list(out.stride())}, whose values overlap"
        )
    begin, end = _storage(out)
    for other_name, other in others:
        if other is None:
            continue
        other_begin, other_end = _storage(other)
        if other_end <= begin or end <= other_begin:
            continue  # the usual case: a storage of its own
        if other_name == same and _is_same(out, other):
            continue
        if _overlap(out, other):
            allowed = f" unless it is {same} itself" if other_name == same else ""
            raise ValueError(
                f"{op}: {name} must not overlap {other_name} in memory{allowed}: give it memory of its own"
            )
    tell_autograd(out)


def tell_autograd(written: torch.Tensor) -> None:
    """A kernel writes to this tensor, past torch: a graph that holds it from before then raises in backward, as after
    torch's own ops in place, and gives no gradient of other numbers."""
    if not written.is_inference():
        torch.autograd.graph.increment_version(written)


def _storage(tensor: torch.Tensor) -> tuple[int, int]:
    """Addresses of the first byte of the memory that the tensor is a view of, and of the first beyond."""
    storage = tensor.untyped_storage()
    begin = storage.data_ptr()
    return begin, begin + storage.nbytes() if begin else 0  # 0: no memory, as on the meta device


def _is_same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (
        a.data_ptr() == b.data_ptr()
        and a.element_size() == b.element_size()
        and a.shape == b.shape
        and a.stride() == b.stride()
    )


class _Places:
    """Where a tensor's values lie, on whatever device, as NumPy takes it. Nothing there is read."""

    def __init__(self, address: int, shape: Sequence[int], strides: Sequence[int], size: int):
        self.__array_interface__ = {
            "version": 3,
            "shape": tuple(shape),
            "strides": tuple(s * size for s in strides),
            "typestr": f"|V{size}",
            "data": (address, False),
        }


def _share(a: _Places, b: _Places) -> bool:
    """Whether a byte belongs to both. NumPy solves it exactly; what is too hard for it counts as an overlap."""
    try:
        return np.shares_memory(np.asarray(a), np.asarray(b), max_work=_MAX_WORK)  # type: ignore[arg-type]  # any number will do
    except _TooHard:
        return True


def _overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    return _share(*(_Places(t.data_ptr(), t.shape, t.stride(), t.element_size()) for t in (a, b)))


def _overlaps_itself(tensor: torch.Tensor) -> bool:
    """Whether two of its values lie at one address."""
    sides = sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1)
    reach, nested = 0, tensor.numel() > 0
    for stride, size in sides:
        nested &= stride > reach
        reach += stride * (size - 1)
    if nested or not tensor.numel():
        return False  # the usual case: each dimension steps over all that the shorter steps reach
    # Two places that differ first in dimension k: the block of the dimensions after k meets itself, some steps on.
    address, size = tensor.data_ptr(), tensor.element_size()
    for k, (side, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        inner_shape, inner_strides = tensor.shape[k + 1 :], tensor.stride()[k + 1 :]
        here = _Places(address, inner_shape, inner_strides, size)
        on = _Places(address + stride * size, (side - 1, *inner_shape), (stride, *inner_strides), size)
        if side > 1 and _share(here, on):
            return True
    return False
