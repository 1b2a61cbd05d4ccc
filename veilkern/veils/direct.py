"""protect and recover of plain photos on the CPU by their addresses: the short way, a few microseconds a call.

It serves what it sees at a glance to be right: photos that lie whole and one after another, rows that are plainly rows,
an output apart from all else, the C++ kernels not refused, of a sealed bank persons whose keys are made already. Of
anything else it returns None, nothing written, and the long way of `apply.py` serves the call or says what is wrong
with it. So there is no message here.
"""

from __future__ import annotations

import functools
import os
from array import array
from typing import Any

import numpy as np
import torch

from veilkern.backends import choice
from veilkern.ops._checks import KEY_BYTES, NONCE_BYTES, tell_autograd
from veilkern.ops._library import is_watched
from veilkern.veils.bank import VeilBank
from veilkern.veils.resident import Resident
from veilkern.veils.sealing import Keyring
from veilkern.veils.task import Task

_U8, _U16, _INT64 = np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.int64)  # of this machine's byte order alone
_DTYPES: dict[np.dtype, torch.dtype] = {_U8: torch.uint8, _U16: torch.uint16}


@functools.cache
def _native() -> tuple[Any, dict[Any, Any]]:
    """The call by addresses, and kernels by op and dtypes; none without the C++ module."""
    try:
        from veilkern.backends.cpu._by_address import KERNELS, run_by_address
    except ImportError:
        return None, {}
    return run_by_address, KERNELS


def direct(
    task: Task,
    bank: VeilBank,
    resident: Resident,
    keyring: Keyring | None,
    photos: Any,
    who: Any,
    out: Any,
    option: Any,
    layout: str,
) -> Any:
    """The result as of `apply`, `resident` being the bank's veils on the CPU, keyring the keys of a sealed one; or
    None, and nothing is written."""
    asked, threads = choice()
    if asked not in (None, "cpu") or not resident.lies_there() or torch.compiler.is_compiling() or is_watched():
        return None
    last, tail = layout == "NHWC", resident.shapes.get(layout) if type(layout) is str else None
    source = _place(photos, tail, last)
    if source is None or not (option is None or option is True or option is False):
        return None
    address, pixels, dtype, count = source
    wanted, veils, rows = task.plain.get(option), resident.veils.data_ptr(), _rows(bank, who, count)
    run, kernels = _native()
    kernel = None if wanted is None else kernels.get((task.op, dtype, wanted))
    if wanted is None or kernel is None or rows is None or veils == 0:
        return None
    if keyring is not None and type(rows[0]) is torch.Tensor:  # somebody may write to it while keys are looked for
        copied = array("q", rows[0].numpy().tobytes())
        rows = copied, copied.buffer_info()[0]
    sealing = ((), (bank.blend,), None) if keyring is None else _sealing(task, keyring, rows[0], count)
    if sealing is None:
        return None
    own, how, _held = sealing  # _held: what has to be there until the kernel is done
    if out is None:
        found, target = _new(photos, wanted)
    else:
        others = [(veils, resident.span), (rows[1], 8 * count), *((place, n * size) for place, n, size in own)]
        found, target = out, _output(out, tail, last, source, wanted, *others)
    if target is None:
        return None
    try:
        run(
            kernel, address, (veils, resident.people, resident.strides), rows[1], own, target,
            (count, 3, *bank.size), pixels, how, threads or torch.get_num_threads(),
        )  # fmt: skip
    except ValueError:  # a row without a veil, and nothing is written
        return None
    if out is found and type(out) is torch.Tensor:
        tell_autograd(out)
    return found


def _place(photos: Any, tail: tuple[int, ...] | None, last: bool) -> Any:
    """Address, whether channels lie side by side, dtype and number (1 or more) of photos of shape [N, *tail] that lie
    whole and one after another; None for any others. last: whether their layout has the channels last."""
    if type(photos) is np.ndarray:
        dtype = _DTYPES.get(photos.dtype)
        if dtype is None or photos.shape[1:] != tail or not photos.flags.c_contiguous or not len(photos):
            return None
        return _begin(photos), last, dtype, len(photos)
    if type(photos) is not torch.Tensor or not photos.is_cpu or photos.layout is not torch.strided:
        return None
    if photos.shape[1:] != tail or photos.is_neg():
        return None
    pixels = last
    if not photos.is_contiguous():
        pixels = True
        if last or not photos.is_contiguous(memory_format=torch.channels_last):
            return None
    address = _held(photos)
    return (address, pixels, photos.dtype, len(photos)) if address else None


def _begin(array: np.ndarray) -> int:
    """The address of a contiguous array; the quick way where torch takes it."""
    try:
        return torch.from_numpy(array).data_ptr() if array.flags.writeable else array.ctypes.data
    except ValueError:  # NumPy leaves any stride, negative ones too, to a side of 1
        return array.ctypes.data


def _held(tensor: torch.Tensor) -> int:
    """The address of a dense tensor's values; 0 where there are none, or their storage is gone or was cut short."""
    end = (tensor.storage_offset() + tensor.numel()) * tensor.itemsize
    return tensor.data_ptr() if tensor.untyped_storage().nbytes() >= end else 0


def _rows(bank: VeilBank, who: Any, count: int) -> Any:
    """What holds the bank rows of `count` photos, int64, and its address; None where that takes a closer look. Whether
    each row has a veil is seen by the kernel before it begins."""
    kind = type(who)
    if kind is str:
        row = bank.row_of(who)
        rows = None if row is None else array("q", (row,)) * count
    elif kind is list or kind is tuple:
        rows = _listed(bank, who)
    elif kind is torch.Tensor:
        plain = who.dtype is torch.int64 and who.is_cpu and who.layout is torch.strided and who.is_contiguous()
        held = _held(who) if plain and who.shape == (count,) and not who.is_neg() else 0
        return (who, held) if held else None
    elif kind is np.ndarray:
        rows = array("q", who.tobytes()) if who.dtype is _INT64 and who.shape == (count,) else None
    else:
        return None
    return None if rows is None or len(rows) != count else (rows, rows.buffer_info()[0])


def _listed(bank: VeilBank, who: list[Any] | tuple[Any, ...]) -> array[int] | None:
    kinds = {*map(type, who)}
    try:
        if kinds == {int}:
            return array("q", who)
        return array("q", map(bank.row_of, who)) if kinds == {str} else None  # type: ignore[arg-type]
    except (OverflowError, TypeError):  # beyond int64; a name without a veil, whose row is None
        return None


def _sealing(task: Task, keyring: Keyring, rows: array[int] | torch.Tensor, count: int) -> Any:
    """Keys, and nonces where the task takes them, as address, how many and how long; levels and rounds; and what holds
    the nonces. None where a key is still to be made."""
    if not keyring.has_made(rows):
        return None
    own, nonces = [(keyring.keys.data_ptr(), len(keyring.keys), KEY_BYTES)], None
    if task.op == "seal":
        nonces = array("B", os.urandom(NONCE_BYTES * count))
        own.append((nonces.buffer_info()[0], count, NONCE_BYTES))
    return own, (keyring.bank.levels, keyring.bank.rounds), nonces


def _new(photos: Any, dtype: torch.dtype) -> tuple[Any, int | None]:
    """An output like these photos, and its address."""
    if type(photos) is np.ndarray:
        made = np.empty(photos.shape, _U8 if dtype is torch.uint8 else _U16)
        return made, torch.from_numpy(made).data_ptr()
    found = torch.empty_like(photos, dtype=dtype)
    return found, found.data_ptr()


def _output(
    out: Any,
    tail: Any,
    last: bool,
    source: tuple[Any, ...],
    dtype: torch.dtype,
    *others: tuple[int, int],
) -> int | None:
    """The address of an `out` that lies as the photos do and apart from them and from `others` (addresses and bytes),
    or is the photos themselves."""
    if type(out) is np.ndarray and not out.flags.writeable:
        return None
    place = _place(out, tail, last)
    address, pixels, given, count = source
    if place is None or place[1:] != (pixels, dtype, count):
        return None
    begin, size = place[0], count * tail[0] * tail[1] * tail[2]
    end = begin + size * dtype.itemsize
    same = begin == address and dtype is given
    apart = all(end <= low or low + length <= begin for low, length in others)
    return begin if apart and (same or end <= address or address + size * given.itemsize <= begin) else None
