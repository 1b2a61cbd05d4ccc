"""The two tasks of a bank, protect and recover, as what their shared code has to know of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from veilkern import ops
from veilkern.ops.blend import check_call as check_blend_call
from veilkern.ops.recover import check_call as check_recover_call


class Task(NamedTuple):
    """name, photos: of the function and of its photos, for errors. op: of the kernel. call, check: the op, and all of
    its checks, of (photos, veils, rows, a, option, out). plain: options that the kernels by address serve, with the
    dtype that they write. option: lossless of protect, gaussian_sigma of recover."""

    name: str
    photos: str
    op: str
    call: Callable[..., torch.Tensor]
    check: Callable[..., object]
    plain: dict[Any, torch.dtype]


def _blend(photos, veils, rows, a, lossless, out):
    return ops.blend(photos, veils, rows, a, lossless=lossless, out=out)


def _recover(photos, veils, rows, a, gaussian_sigma, out):
    return ops.recover(photos, veils, rows, a, gaussian_sigma=gaussian_sigma, out=out)


PROTECT = Task("protect", "images", "blend", _blend, check_blend_call, {False: torch.uint8, True: torch.uint16})
RECOVER = Task("recover", "protected", "recover", _recover, check_recover_call, {None: torch.uint8})
