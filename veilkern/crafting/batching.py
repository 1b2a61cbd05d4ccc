"""Which persons are crafted together: as many as memory was given for."""

from __future__ import annotations

from veilkern.crafting.config import CraftConfig
from veilkern.crafting.templates import Subjects


class Filling:
    """Fills one batch after the other, person by person: the photos of a step stay within photos_in_flight, and all
    photos within ten times that; one person always fits."""

    def __init__(self, config: CraftConfig):
        self.config, self.flying, self.held = config, 0, 0

    def takes(self, count: int) -> bool:
        """Whether a person of so many photos still fits in; if not, she is the first one of the next batch."""
        drawn = self.config.photos_per_step or count
        if (
            self.config.scheme == "blend"
        ):  # no photo twice in a step; samples of noise may be more than there are photos
            drawn = min(count, drawn)
        most = self.config.photos_in_flight
        fits = not self.held or (self.flying + drawn <= most and self.held + count <= 10 * most)
        if not fits:
            self.flying = self.held = 0
        self.flying, self.held = self.flying + drawn, self.held + count
        return fits


def batches(people: Subjects, config: CraftConfig) -> list[tuple[int, int]]:
    """The first and the last + 1 person of each batch."""
    filling, starts = Filling(config), [0]
    starts += [p for p, count in enumerate(people.counts.tolist()) if not filling.takes(count)]
    return list(zip(starts, [*starts[1:], len(people)], strict=True)) if len(people) else []
