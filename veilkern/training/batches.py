"""Batches of a training, step by step from any step on: the same photos in the same order, whoever decodes them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from veilkern.data.people import Problem
from veilkern.errors import PhotoError
from veilkern.training.augment import order_of
from veilkern.training.data import Photos, Reading

CACHE_BYTES = 1 << 30  # of decoded photos, which are kept up to here where there are no workers
IN_A_ROW = 64  # photos that cannot be used, after which there is no sense in looking further


@dataclass
class Batch:
    """images uint8 [n, 3, H, W], labels int64 [n], and the photos that could not be used and were replaced."""

    images: torch.Tensor
    labels: torch.Tensor
    problems: list[Problem]


class Decoded(Dataset[Any]):
    """Photo number i, decoded: (image, label, problems). One that cannot be used is left out: the next one that can
    stands in for it, so that every batch is whole. PhotoError where many in a row cannot be used."""

    def __init__(self, photos: Photos, how: Reading, cache_bytes: int = 0):
        self.photos, self.how, self.left = photos, how, cache_bytes
        self.kept: dict[int, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int, list[Problem]]:
        problems: list[Problem] = []
        for ahead in range(min(len(self), IN_A_ROW)):
            place = (number + ahead) % len(self)
            try:
                return self._image(place), int(self.photos.labels[place]), problems
            except PhotoError as error:
                where = self.photos.source.where(int(self.photos.photos[place]))
                problems.append(Problem(where, str(error).removeprefix(f"{where}: ")))
        raise PhotoError(f"{problems[0]}; and none of the {len(problems)} photos from there on can be used")

    def _image(self, place: int) -> torch.Tensor:
        if place in self.kept:
            return self.kept[place]
        image = self.photos.source.read(int(self.photos.photos[place]), self.how)
        if self.left >= image.numel():
            self.left -= image.numel()
            self.kept[place] = image
        return image


@dataclass
class Order:
    """Which photos each step takes: epoch after epoch in an order of its own, with no gap between them.

    photos, batch: how many; part: which of a batch are this process's own; steps `first` to before `last`."""

    photos: int
    batch: int
    seed: int
    part: slice
    first: int
    last: int
    _known: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, self.last):
            yield [self._photo(place) for place in range(step * self.batch, (step + 1) * self.batch)[self.part]]

    def _photo(self, place: int) -> int:
        epoch, offset = divmod(place, self.photos)
        if epoch not in self._known:
            self._known = {old: order for old, order in self._known.items() if old == epoch - 1}
            self._known[epoch] = order_of(self.seed, epoch, self.photos)
        return int(self._known[epoch][offset])


def batches(photos: Photos, how: Reading, order: Order, workers: int) -> Iterator[Batch]:
    """The batches of these steps, decoded here or by so many worker processes."""
    loader: DataLoader[Any] = DataLoader(
        Decoded(photos, how, 0 if workers else CACHE_BYTES),
        batch_sampler=order,  # all it needs is to be gone through
        num_workers=workers,
        collate_fn=_batch,
        generator=torch.Generator().manual_seed(0),  # or the loader would draw from the global one
        worker_init_fn=_be_worker,
    )
    try:
        yield from loader
    except PhotoError as error:  # a worker's comes with its traceback as text
        raise PhotoError(str(error).rpartition("PhotoError: ")[2].strip()) from error


def _be_worker(_: int) -> None:
    """Ctrl-C is for the process that trains: it ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _batch(items: list[tuple[torch.Tensor, int, list[Problem]]]) -> Batch:
    images, labels, problems = zip(*items, strict=True)
    return Batch(torch.stack(images), torch.tensor(labels), [one for some in problems for one in some])
