"""Data on the GPU, for the tests that need one."""

from __future__ import annotations

import torch

from veilkern.testing.making import bytes8, offsets_of


def data(n=12, people=4, side=112):
    """Photos, veils, rows, floats and features of `people`, on the GPU."""
    g = torch.Generator().manual_seed(0)
    counts = [n // people] * people
    photos = {
        "images": torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=g),
        "veils": torch.randint(0, 256, (people, 3, side, side), dtype=torch.uint8, generator=g),
        "rows": torch.randint(0, people, (n,), generator=g),
        "x": torch.rand(n, 3, side, side, generator=g),
        "y": torch.rand(n, 3, side, side, generator=g),
        "features": torch.nn.functional.normalize(torch.randn(n, 512, generator=g) + 1),
        "clean": torch.nn.functional.normalize(torch.randn(n, 512, generator=g) + 1),
        "offsets": offsets_of(counts),
        "keys": bytes8(people, 32, seed=1),
        "nonces": bytes8(n, 12, seed=2),
    }
    return {name: value.cuda() for name, value in photos.items()}
