"""unseal: originals back from sealed photos with the key, bit for bit the same on every backend."""

from __future__ import annotations

import torch

from veilkern.backends import serve
from veilkern.ops._checks import (
    KEY_BYTES,
    check_bytes,
    check_output,
    check_row_range,
    check_rows,
    check_same_photo,
    check_sealing,
    check_tensor,
)
from veilkern.ops._library import register, runs_now


def unseal(
    sealed: torch.Tensor,
    veils: torch.Tensor,
    rows: torch.Tensor,
    keys: torch.Tensor,
    *,
    levels: int = 64,
    rounds: int = 20,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """x = (256/M) (((x' - v) mod M) xor (k mod M)) + 128/M, M = levels, of what `seal` made; photos bring their nonces.

    sealed uint8 [N, 3, H, W], or uint16 from the lossless seal, which comes back exactly; from uint8 the error is at
    most 128/M levels (2 at M = 64), and 256/M at the first 96 values. veils uint8 [P, 3, H, W], rows int64 [N], keys
    uint8 [P, 32], levels and rounds: those of `seal`. Another key or nonce gives noise, never an error. Returns uint8
    [N, 3, H, W]. out: where to write; it may be a uint8 `sealed` itself, value on value, and must not overlap anything
    else. Raises TypeError or ValueError naming the argument, and of rows as `seal` does.
    """
    _check(sealed, veils, rows, keys, levels, rounds, out)
    given = (sealed, veils, rows, keys, levels, rounds)
    if out is None:
        return (_unseal if runs_now(sealed) else torch.ops.veilkern.unseal)(*given)
    (_unseal_out if runs_now(sealed) else torch.ops.veilkern.unseal_out)(*given, out)
    return out


def _check(sealed, veils, rows, keys, levels, rounds, out) -> None:
    check_tensor("unseal", "sealed", sealed, [torch.uint8, torch.uint16], "[N, 3, H, W]")
    check_tensor("unseal", "veils", veils, [torch.uint8], "[P, 3, H, W]")
    check_same_photo("unseal", "veils", veils, "sealed", sealed)
    check_rows("unseal", rows, len(sealed), sealed)
    check_bytes("unseal", "keys", keys, len(veils), KEY_BYTES, "sealed", sealed)
    check_sealing("unseal", sealed, "sealed", levels, rounds)
    if out is not None:
        check_tensor("unseal", "out", out, [torch.uint8], "[N, 3, H, W]")
        if out.shape != sealed.shape:
            raise ValueError(f"unseal: out must be {list(sealed.shape)}, got {list(out.shape)}")
        check_same_photo("unseal", "out", out, "sealed", sealed)


def check_call(sealed, veils, rows, keys, levels, rounds, out) -> None:
    """All that `unseal` checks, of a call that is served elsewhere than where its tensors are (veils/staging.py)."""
    _check(sealed, veils, rows, keys, levels, rounds, out)
    _check_places(sealed, veils, rows, keys, out)
    check_row_range("unseal", rows, len(veils))


def _check_places(sealed, veils, rows, keys, out):
    given = (("sealed", sealed), ("veils", veils), ("rows", rows), ("keys", keys))
    check_output("unseal", ("out", out), given, same="sealed")


def _fake(sealed, veils, rows, keys, levels, rounds):
    return torch.empty_like(sealed, dtype=torch.uint8)  # in the layout of the sealed photos


def _unseal(sealed, veils, rows, keys, levels, rounds):
    out = _fake(sealed, veils, rows, keys, levels, rounds)
    _write(sealed, veils, rows, keys, levels, rounds, out)
    return out


def _unseal_out(sealed, veils, rows, keys, levels, rounds, out):
    _check_places(sealed, veils, rows, keys, out)
    _write(sealed, veils, rows, keys, levels, rounds, out)


def _write(sealed, veils, rows, keys, levels, rounds, out):
    check_row_range("unseal", rows, len(veils))
    if out.numel():
        serve("unseal", sealed, veils, rows, keys, levels, rounds, out)


_ARGUMENTS = "Tensor sealed, Tensor veils, Tensor rows, Tensor keys, int levels, int rounds"
register(f"unseal({_ARGUMENTS}) -> Tensor", _unseal, _fake)
register(f"unseal_out({_ARGUMENTS}, Tensor(a!) out) -> ()", _unseal_out, lambda *arguments: None)
