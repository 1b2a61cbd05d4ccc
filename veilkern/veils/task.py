"""The two tasks of a bank, protect and recover, in each scheme, as what their shared code has to know of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from veilkern import ops
from veilkern.ops._checks import KEY_BYTES, NONCE_BYTES
from veilkern.ops.blend import check_call as check_blend_call
from veilkern.ops.recover import check_call as check_recover_call
from veilkern.ops.recover import check_sigma
from veilkern.ops.seal import check_call as check_seal_call
from veilkern.ops.unseal import check_call as check_unseal_call
from veilkern.veils.sealing import Sealing, fresh_nonces


class Task(NamedTuple):
    """name, photos: of the function and of its photos, for errors. op: of the kernel. call, check: the op, and all of
    its checks, of (photos, veils, rows, how, option, out). how: the integer a of a bank that blends, or a Sealing.
    plain: options that the kernels by address serve, with the dtype that they write. option: lossless of protect,
    gaussian_sigma of recover."""

    name: str
    photos: str
    op: str
    call: Callable[..., torch.Tensor]
    check: Callable[..., object]
    plain: dict[Any, torch.dtype]


def _blend(photos, veils, rows, a: int, lossless, out):
    return ops.blend(photos, veils, rows, a, lossless=lossless, out=out)


def _recover(photos, veils, rows, a: int, gaussian_sigma, out):
    return ops.recover(photos, veils, rows, a, gaussian_sigma=gaussian_sigma, out=out)


def _seal(photos, veils, rows, how: Sealing, lossless, out):
    nonces = fresh_nonces(len(photos), photos.device)
    options = {"levels": how.levels, "rounds": how.rounds, "lossless": lossless, "out": out}
    return ops.seal(photos, veils, rows, how.keys, nonces, **options)


def _unseal(photos, veils, rows, how: Sealing, gaussian_sigma, out):
    if gaussian_sigma is not None:
        gaussian_sigma = check_sigma(gaussian_sigma, photos)  # before anything is written
    found = ops.unseal(photos, veils, rows, how.keys, levels=how.levels, rounds=how.rounds, out=out)
    if gaussian_sigma is None:
        return found
    # 255: nothing of a veil, the filter alone
    return ops.recover(found, veils, rows, 255, gaussian_sigma=gaussian_sigma, out=found)


def _check_seal(photos, veils, rows, how: Sealing, lossless, out):
    keys, nonces = (_stand_in(photos, *shape) for shape in ((len(veils), KEY_BYTES), (len(photos), NONCE_BYTES)))
    check_seal_call(photos, veils, rows, keys, nonces, how.levels, how.rounds, lossless, out)


def _check_unseal(photos, veils, rows, how: Sealing, gaussian_sigma, out):
    check_unseal_call(photos, veils, rows, _stand_in(photos, len(veils), KEY_BYTES), how.levels, how.rounds, out)
    if gaussian_sigma is not None:
        check_recover_call(photos, veils, rows, 255, gaussian_sigma, out)


def _stand_in(photos: torch.Tensor, count: int, size: int) -> torch.Tensor:
    """In the place of keys or nonces that are elsewhere."""
    return torch.empty((1, size), dtype=torch.uint8, device=photos.device).expand(count, size)


_PROTECTED = {False: torch.uint8, True: torch.uint16}
PROTECT = {
    "blend": Task("protect", "images", "blend", _blend, check_blend_call, _PROTECTED),
    "sealed": Task("protect", "images", "seal", _seal, _check_seal, _PROTECTED),
}
RECOVER = {
    "blend": Task("recover", "protected", "recover", _recover, check_recover_call, {None: torch.uint8}),
    "sealed": Task("recover", "protected", "unseal", _unseal, _check_unseal, {None: torch.uint8}),
}
