"""What GPU launchers get that the ops refuse on the CPU, and that on a GPU nobody looks at: the host would wait."""

from __future__ import annotations

import torch


def steps_by_offsets_that_cannot_be(launcher, device) -> None:
    """Of photos or of gradients: that person's statistics are NaN and its veil stays; the others move."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 5, 7), dtype=torch.uint8, generator=g).to(device)
    gradients = torch.randn(4, 3, 5, 7, generator=g).to(device)
    fine, numbers = torch.tensor([0, 1, 3, 4], device=device), (0.04, 0.01, 0.1, 1.0)
    for marks, moved in (
        ([0, 1, 3, 4], [True, True, True]),
        ([0, 1, 3, 5], [True, True, False]),
        ([-1, 1, 3, 4], [False, True, True]),
        ([0, 3, 1, 4], [True, False, True]),
        ([2**40, -(2**40), 2**50, 4], [False, False, False]),
    ):
        bad = torch.tensor(marks, device=device)
        for pair in ((bad, fine), (fine, bad)):
            veils, momentum = torch.full((2, 3, 3, 5, 7), 0.5, device=device).unbind()
            rest = (None, None, "norm", (3, 3), 1, "consistent")
            found = launcher(veils, momentum, gradients, images, *pair, 51, *numbers, *rest)
            assert (veils != 0.5).flatten(1).any(1).tolist() == moved, (marks, pair)
            assert found.isfinite().all(1).tolist() == moved and found.isnan().all(1).tolist() == [not m for m in moved]
