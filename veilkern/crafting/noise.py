"""Noise by the keystream that seals photos: each person has a key for it, so that nobody's noise depends on company."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from veilkern.veils import keyed

Stream = tuple[bytes, str, int]  # of a person: master key, name, generation


def keys_of(streams: Sequence[Stream], purpose: str) -> torch.Tensor:
    """A key of each person for a purpose, uint8 [P, 32] on the host."""
    made = b"".join(keyed.derived(key, purpose, name, generation) for key, name, generation in streams)
    return torch.frombuffer(bytearray(made), dtype=torch.uint8).view(len(streams), 32)


def nonces_of(step: int, sample: torch.Tensor, use: int) -> torch.Tensor:
    """Nonces uint8 [M, 12]: three words of four bytes, the step, the sample (int64 [M]) and the use. Made on the device
    of sample, which the host does not wait for."""
    words = torch.zeros((len(sample), 3), dtype=torch.int32, device=sample.device)
    words[:, 0] = step
    words[:, 1] = sample
    words[:, 2] = use
    return words.view(torch.uint8)
