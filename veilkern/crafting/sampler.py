"""PhotoSampler: which photos of a person a step looks at."""

from __future__ import annotations

import numpy as np
import torch

from veilkern.veils import keyed


class PhotoSampler:
    """Photos of one person for each step, without replacement until all were used."""

    def __init__(self, generator: np.random.Philox, count: int, per_step: int):
        self.generator, self.count = generator, count
        self.per_step = min(per_step, count) if per_step else count
        self.queue: list[int] = []

    def next(self) -> torch.Tensor:
        """The photos of the next step, int64, in rising order."""
        if self.per_step == self.count:
            return torch.arange(self.count)
        drawn: list[int] = []
        while len(drawn) < self.per_step:
            if not self.queue:
                # A photo already drawn in this step goes to the end of the new order: no step has one twice.
                order = keyed.shuffled(self.generator, self.count).tolist()
                self.queue = [i for i in order if i not in drawn] + [i for i in order if i in drawn]
            drawn.append(self.queue.pop(0))
        return torch.tensor(sorted(drawn))
