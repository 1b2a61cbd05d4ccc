"""What differs between the two ways to protect a photo, `Blend` and `Sealed`, while veils are crafted.

Both have one interface. `contour` is the term L_con, or None; `a`, `mean_images` and `photos` are what `veil_step_`
takes, `network_input` what the network sees in a step, `finished` the 8-bit veils as they are kept. `features_under`
and `figures` make a person's record.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from veilkern import ops
from veilkern.crafting.config import CraftConfig
from veilkern.crafting.contour import ContourLoss
from veilkern.crafting.noise import Stream, keys_of, nonces_of
from veilkern.crafting.records import figures_of_photos, figures_of_veil
from veilkern.crafting.sampler import PhotoSampler, Plan, TurnSampler

RECORD_SAMPLES = 4  # noisy forms of a sealed veil that its record is measured on
# The last word of a nonce: no two uses of a person's noise key share a nonce.
_STEPS, _RECORDS, HELD_OUT = 0, 1, 2


class Scheme(Protocol):
    """See the module."""

    a: int
    contour: ContourLoss | None
    mean_images: torch.Tensor

    def sampler(self, generator: np.random.Philox, count: int) -> PhotoSampler | TurnSampler:
        """What draws the photos of a person who has `count` of them."""

    def photos(self, plan: Plan, turn: int) -> torch.Tensor:
        """The photos of a step, uint8 [M, 3, H, W]."""

    def network_input(
        self, photos: torch.Tensor, veils: torch.Tensor, plan: Plan, turn: int, piece: slice, **to: Any
    ) -> torch.Tensor:
        """A piece of the photos of a step, protected, as `ops.blend_normalize` writes them; `to` are its keywords."""

    def finished(self, veils: torch.Tensor) -> torch.Tensor:
        """Veils [P, 3, H, W] in [0, 1] as they are kept, uint8."""

    def under(self, veils: torch.Tensor, persons: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
        """Protected photos, uint8, of these persons under their finished veils, and how many there are of each."""

    def figures(self, p: int, features: torch.Tensor, clean: torch.Tensor, veil: torch.Tensor) -> dict[str, Any]:
        """The figures of person p's record: features [n, d] of what `under` gave, clean [k, d], the finished veil."""


class Blend:
    """x' = alpha x + (1 - alpha) v: the person's own photos are in the loop. images uint8 [N, 3, H, W] on the device,
    offsets int64 [P + 1] on the host."""

    def __init__(self, images: torch.Tensor, offsets: torch.Tensor, config: CraftConfig):
        self.images, self.offsets, self.config, self.a = images, offsets, config, config.blend
        counts = offsets.diff().tolist()
        means = torch.stack([part.double().mean(0) for part in images.split(counts)])
        self.mean_images = (means / 255).float()
        self.contour = ContourLoss(images, offsets, config.blend) if config.nu else None

    def sampler(self, generator: np.random.Philox, count: int) -> PhotoSampler:
        return PhotoSampler(generator, count, self.config.photos_per_step)

    def photos(self, plan: Plan, turn: int) -> torch.Tensor:
        return self.images[plan.rows[turn]]

    def network_input(
        self, photos: torch.Tensor, veils: torch.Tensor, plan: Plan, turn: int, piece: slice, **to: Any
    ) -> torch.Tensor:
        return ops.blend_normalize(photos, veils, plan.person[piece], self.a, dtype=veils.dtype, **to)

    def finished(self, veils: torch.Tensor) -> torch.Tensor:
        return (veils * 255).round().to(torch.uint8)

    def under(self, veils: torch.Tensor, persons: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
        counts = self.offsets.diff()[list(persons)]
        photos = torch.cat([torch.arange(int(self.offsets[p]), int(self.offsets[p + 1])) for p in persons])
        rows = torch.repeat_interleave(torch.tensor(persons), counts)
        device = self.images.device
        return ops.blend(self.images[photos.to(device)], veils, rows.to(device), self.a), counts.tolist()

    def figures(self, p: int, features: torch.Tensor, clean: torch.Tensor, veil: torch.Tensor) -> dict[str, Any]:
        part = self.images[int(self.offsets[p]) : int(self.offsets[p + 1])]
        return figures_of_photos(features, clean, part, veil, self.a / 255, self.config)


class Sealed:
    """x' = w (256 - M) + u: no photo is in the loop, since u, the sealed photo, is to the network uniform noise of M
    levels. It is made by sealing a black photo under a key that each person has for this alone, with the step and the
    number of the sample as the nonce: whoever else is crafted, a person's noise is the same.

    streams: master key, name and generation of each person.
    """

    contour: ContourLoss | None = None

    def __init__(self, streams: Sequence[Stream], size: Sequence[int], config: CraftConfig, device: torch.device):
        self.config = config
        # veil_step_ takes (M - 1) / 255 for alpha: the veil's share is (256 - M) / 255, and the photos are black.
        self.a = config.levels - 1
        self.keys = keys_of(streams, "noise").to(device)
        self.black = torch.zeros((1, 3, *size), dtype=torch.uint8, device=device)
        self.mean_images = torch.zeros((len(streams), 3, *size), device=device)

    def sampler(self, generator: np.random.Philox, count: int) -> TurnSampler:
        return TurnSampler(count, self.config.photos_per_step)

    def photos(self, plan: Plan, turn: int) -> torch.Tensor:
        return self.black.expand(plan.rows.shape[1], -1, -1, -1)

    def network_input(
        self, photos: torch.Tensor, veils: torch.Tensor, plan: Plan, turn: int, piece: slice, **to: Any
    ) -> torch.Tensor:
        nonces = nonces_of(plan.first + turn, plan.sample[piece], _STEPS)
        config = self.config
        return ops.seal_normalize(
            photos,
            veils,
            plan.person[piece],
            self.keys,
            nonces,
            levels=config.levels,
            rounds=config.rounds,
            dtype=veils.dtype,
            **to,
        )

    def finished(self, veils: torch.Tensor) -> torch.Tensor:
        return (veils * (256 - self.config.levels)).round().to(torch.uint8)

    def under(self, veils: torch.Tensor, persons: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
        count = len(persons) * RECORD_SAMPLES
        sample = torch.arange(RECORD_SAMPLES, device=veils.device).repeat(len(persons))
        rows = torch.repeat_interleave(torch.tensor(persons), RECORD_SAMPLES).to(veils.device)
        black, nonces = self.black.expand(count, -1, -1, -1), nonces_of(0, sample, _RECORDS)
        config = self.config
        hidden = ops.seal(black, veils, rows, self.keys, nonces, levels=config.levels, rounds=config.rounds)
        return hidden, [RECORD_SAMPLES] * len(persons)

    def figures(self, p: int, features: torch.Tensor, clean: torch.Tensor, veil: torch.Tensor) -> dict[str, Any]:
        return figures_of_veil(features, clean, veil, self.config)
