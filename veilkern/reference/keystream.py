"""ChaCha (RFC 8439): the keystream that seals photos, in plain integer arithmetic on int64."""

from __future__ import annotations

import torch

_CONSTANTS = (0x61707865, 0x3320646E, 0x79622D32, 0x6B206574)  # "expand 32-byte k"
_LOW = 0xFFFFFFFF
_COLUMNS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))
_DIAGONALS = ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))


def keystream(keys: torch.Tensor, nonces: torch.Tensor, size: int, *, rounds: int = 20) -> torch.Tensor:
    """The first `size` bytes, uint8 [N, size], of each stream: keys uint8 [N, 32], nonces uint8 [N, 12], the counter
    beginning at 0."""
    count, blocks = len(keys), -(-size // 64)
    counter = torch.arange(blocks, device=keys.device)
    state = [torch.full((count, blocks), word, dtype=torch.int64, device=keys.device) for word in _CONSTANTS]
    state += [word[:, None].expand(-1, blocks) for word in _words(keys)]
    state += [counter.expand(count, -1)] + [word[:, None].expand(-1, blocks) for word in _words(nonces)]
    words = list(state)
    for _ in range(rounds // 2):
        for places in (*_COLUMNS, *_DIAGONALS):
            _quarter_round(words, *places)
    mixed = torch.stack([(a + b) & _LOW for a, b in zip(words, state, strict=True)], 2)  # [N, blocks, 16]
    stream = torch.stack([(mixed >> shift) & 255 for shift in (0, 8, 16, 24)], 3)
    return stream.reshape(count, 64 * blocks)[:, :size].to(torch.uint8)


def _words(data: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """32-bit words, little-endian, of bytes [N, 4 k]: k tensors int64 [N]."""
    parts = data.to(torch.int64).reshape(len(data), data.shape[1] // 4, 4)
    return (parts[..., 0] | parts[..., 1] << 8 | parts[..., 2] << 16 | parts[..., 3] << 24).unbind(1)


def _quarter_round(x: list[torch.Tensor], a: int, b: int, c: int, d: int) -> None:
    for into, other, place, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        x[into] = (x[into] + x[other]) & _LOW
        mixed = x[place] ^ x[into]
        x[place] = ((mixed << turn) & _LOW) | (mixed >> (32 - turn))
