"""Watch: who is still being crafted. It decides in every step, on the device; the host reads it when it likes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from veilkern.crafting.config import CraftConfig
from veilkern.crafting.sums import sums_in_order


class Watch:
    """When each of P persons ended, and why. Whoever has ended is not `active` from the next step on, so that nothing
    depends on when the host looks. failed: who never begins."""

    def __init__(self, people: int, failed: Sequence[int], config: CraftConfig, device: torch.device):
        self.config = config
        # 0: active; s: settled in step s, counted from 1; -s: not finite in step s
        ended = torch.zeros(people, dtype=torch.int64)
        ended[list(failed)] = 1
        self.ended = ended.to(device)
        self.history = torch.zeros(config.steps, 2 * people, device=device)  # distances, then totals, of each step
        n = config.patience
        self.order, self.windows = torch.arange(config.steps, device=device), torch.arange(3, device=device) * n

    @property
    def active(self) -> torch.Tensor:
        """bool [P], on the device."""
        return self.ended == 0

    def see(self, step: int, distance: torch.Tensor, total: torch.Tensor) -> None:
        """What step 0, 1, .. gave: the feature distance and total loss [P] of who was active in it."""
        active, figures = self.active, torch.cat([distance, total])
        self.history[step] = figures
        broken = ~figures.isfinite().view(2, -1).all(0)
        if self.config.early_stop and step + 1 >= 2 * self.config.patience:
            self.ended.masked_fill_(active & self._settled(step), step + 1)
        self.ended.masked_fill_(active & broken, -(step + 1))

    def _settled(self, step: int) -> torch.Tensor:
        """Persons that meet the early-stop criterion of CraftConfig after this step, bool [P]."""
        config, n = self.config, self.config.patience
        last = self.order[step + 1 - 2 * n : step + 1]
        # The mean distance and total [2, P] of the steps before the last n, and of the last n.
        before, now = (sums_in_order(self.history, last, self.windows) / n).view(2, 2, -1)
        better = before[1] - now[1]
        return (now[0] <= config.stop_distance) & (better <= config.stop_improvement * before[1].abs())

    def read(self) -> list[int]:
        """`ended` of each person: 0 while active, s when settled in step s (from 1), -s when not finite in step s. The
        host waits for the device."""
        return self.ended.tolist()
