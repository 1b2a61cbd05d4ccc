"""seal: encrypt photos under veils, bit for bit the same on every backend; without the key nothing of them is left."""

from __future__ import annotations

import torch

from veilkern.backends import serve
from veilkern.ops._checks import (
    KEY_BYTES,
    NONCE_BYTES,
    check_bytes,
    check_output,
    check_row_range,
    check_rows,
    check_same_photo,
    check_sealing,
    check_tensor,
)
from veilkern.ops._library import register, runs_now


def seal(
    images: torch.Tensor,
    veils: torch.Tensor,
    rows: torch.Tensor,
    keys: torch.Tensor,
    nonces: torch.Tensor,
    *,
    levels: int = 64,
    rounds: int = 20,
    lossless: bool = False,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """x' = v + ((x div (256/M)) xor (k mod M)), M = levels; photo i takes veils[rows[i]], keys[rows[i]] and nonces[i].

    k: the keystream of ChaCha (RFC 8439, counter from 0) of that key and nonce, a byte a value in the order of (c, h,
    w) whatever the layout. The first 96 values carry the nonce: their lowest sealed bit is a bit of it (bit i mod 8,
    lowest first, of byte i div 8 at value i), and they keep a bit less of the photo. images uint8 [N, 3, H, W] of at
    least 96 values, veils uint8 [P, 3, H, W] of values up to 256 - M (above, x' goes on from 0, and is unsealed all the
    same), rows int64 [N], keys uint8 [P, 32], nonces uint8 [N, 12]: never two photos with one nonce under one key.
    levels 16, 32, 64 or 128; rounds 20 or 12. Returns uint8 [N, 3, H, W], or with lossless uint16: x' in the high byte,
    the bits of x that it leaves out, sealed too, in the low one. out: where to write (that dtype and shape); it may be
    `images` itself, value on value, and must not overlap anything else. Without it the result has the memory layout of
    images. Raises TypeError or ValueError naming the argument; rows out of range are ValueError on the CPU; on a GPU
    such a photo comes out black.
    """
    _check(images, veils, rows, keys, nonces, levels, rounds, lossless, out)
    given = (images, veils, rows, keys, nonces, levels, rounds, lossless)
    if out is None:
        return (_seal if runs_now(images) else torch.ops.veilkern.seal)(*given)
    (_seal_out if runs_now(images) else torch.ops.veilkern.seal_out)(*given, out)
    return out


def _check(images, veils, rows, keys, nonces, levels, rounds, lossless, out) -> None:
    check_tensor("seal", "images", images, [torch.uint8], "[N, 3, H, W]")
    check_tensor("seal", "veils", veils, [torch.uint8], "[P, 3, H, W]")
    check_same_photo("seal", "veils", veils, "images", images)
    check_rows("seal", rows, len(images), images)
    check_bytes("seal", "keys", keys, len(veils), KEY_BYTES, "images", images)
    check_bytes("seal", "nonces", nonces, len(images), NONCE_BYTES, "images", images)
    check_sealing("seal", images, "images", levels, rounds)
    if out is not None:
        check_tensor("seal", "out", out, [torch.uint16 if lossless else torch.uint8], "[N, 3, H, W]")
        if out.shape != images.shape:
            raise ValueError(f"seal: out must be {list(images.shape)}, got {list(out.shape)}")
        check_same_photo("seal", "out", out, "images", images)


def check_call(images, veils, rows, keys, nonces, levels, rounds, lossless, out) -> None:
    """All that `seal` checks, of a call that is served elsewhere than where its tensors are (veils/staging.py)."""
    _check(images, veils, rows, keys, nonces, levels, rounds, lossless, out)
    _check_places(images, veils, rows, keys, nonces, out)
    check_row_range("seal", rows, len(veils))


def _check_places(images, veils, rows, keys, nonces, out):
    given = (("images", images), ("veils", veils), ("rows", rows), ("keys", keys), ("nonces", nonces))
    check_output("seal", ("out", out), given, same="images")


def _fake(images, veils, rows, keys, nonces, levels, rounds, lossless):
    return torch.empty_like(images, dtype=torch.uint16 if lossless else torch.uint8)  # in the layout of the images


def _seal(images, veils, rows, keys, nonces, levels, rounds, lossless):
    out = _fake(images, veils, rows, keys, nonces, levels, rounds, lossless)
    _write(images, veils, rows, keys, nonces, levels, rounds, lossless, out)
    return out


def _seal_out(images, veils, rows, keys, nonces, levels, rounds, lossless, out):
    _check_places(images, veils, rows, keys, nonces, out)
    _write(images, veils, rows, keys, nonces, levels, rounds, lossless, out)


def _write(images, veils, rows, keys, nonces, levels, rounds, lossless, out):
    check_row_range("seal", rows, len(veils))
    if out.numel():
        serve("seal", images, veils, rows, keys, nonces, levels, rounds, lossless, out)


_ARGUMENTS = (
    "Tensor images, Tensor veils, Tensor rows, Tensor keys, Tensor nonces, int levels, int rounds, bool lossless"
)
register(f"seal({_ARGUMENTS}) -> Tensor", _seal, _fake)
register(f"seal_out({_ARGUMENTS}, Tensor(a!) out) -> ()", _seal_out, lambda *arguments: None)
