"""IdentityBatch: some persons' veils optimised together, from the keyed start to the record of each.

It draws photos, asks the network for gradients and lets `veil_step_` do the rest. Everything stays on the network's
device: every `look` steps one copy goes in (which photos) and one comes out (who has ended); nowhere else does the host
wait. A person's bits do not depend on who else is in the batch: the network always gets the same number of photos (see
`padded`), the ops keep photos and persons apart, and every sum has a fixed order.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from veilkern import ops
from veilkern.crafting.config import CraftConfig
from veilkern.crafting.contour import ContourLoss
from veilkern.crafting.feature_loss import FeatureLoss
from veilkern.crafting.features import fixed_features
from veilkern.crafting.records import figures_of
from veilkern.crafting.sampler import PhotoSampler, Plan, draw
from veilkern.crafting.sums import sums_in_order
from veilkern.crafting.watch import Watch
from veilkern.data.people import People
from veilkern.data.photos import photo_id
from veilkern.networks.face_model import FaceModel
from veilkern.progress import Progress
from veilkern.veils import keyed


class IdentityBatch:
    """Some persons crafted together. generations: one a person. width: photos in the network at a time. look: the host
    looks who has ended every so many steps, which changes no bit of any result: the device looks in every step."""

    def __init__(
        self,
        model: FaceModel,
        people: People,
        config: CraftConfig,
        key: bytes,
        generations: list[int],
        width: int,
        look: int,
    ):
        self.model, self.config, self.width, self.look = model, config, width, look
        self.names, self.generations = people.names, generations
        self.offsets, self.counts = people.offsets, people.counts
        device = model.device
        self.images = people.images.to(device)
        self.clean = fixed_features(model, self.images, width)
        streams = [(key, name, generation) for name, generation in zip(self.names, generations, strict=True)]
        shape = tuple(people.images.shape[1:])
        start = [keyed.uniform(keyed.stream(k, name, "start", generation), shape) for k, name, generation in streams]
        self.veils = torch.stack(start).to(device)
        self.momentum = torch.zeros_like(self.veils)
        self.samplers = [
            PhotoSampler(keyed.stream(k, name, "photos", generation), int(n), config.photos_per_step)
            for (k, name, generation), n in zip(streams, self.counts, strict=True)
        ]
        self.mean_images = torch.stack([part.double().mean(0) for part in self.images.split(self.counts.tolist())])
        self.mean_images = (self.mean_images / 255).float()
        self.feature_loss = FeatureLoss(model, self.clean, self.offsets, config)
        self.contour = ContourLoss(self.images, self.offsets, config.blend) if config.nu else None
        finite = torch.stack([part.isfinite().all() for part in self.clean.split(self.counts.tolist())]).tolist()
        self.failed = {p: CLEAN_FAILED for p, usable in enumerate(finite) if not usable}
        self.running = [p for p, usable in enumerate(finite) if usable]
        self.watch = Watch(len(self.names), list(self.failed), config, device)

    def run(self, bar: Progress) -> Iterator[tuple[dict, torch.Tensor | None]]:
        """All steps. Yields each person's record and veil (uint8 [3, H, W]; None: failed) when she is found finished,
        which may be long before the others are."""
        yield from self._finish(dict.fromkeys(self.failed, 0), 0, bar)
        step, last = 0, self.config.steps
        while self.running and step < last:
            ahead = min(self.look, last - step)
            plan = draw(self.samplers, self.running, self.offsets, ahead, self.width, self.veils.device)
            for turn in range(ahead):
                self._step(step, plan, turn)
                step += 1
                bar.advance(len(self.running))
            yield from self._finish(self._ended(step), step, bar)

    def _step(self, step: int, plan: Plan, turn: int) -> None:
        """One step of whoever is active, on the photos of `turn` 0, 1, .. of the plan. The host waits for nothing."""
        config, count = self.config, plan.own.shape[1]
        photos = self.images[plan.rows[turn]]
        distances, gradients = self.feature_loss(photos, self.veils, plan, turn)
        distance = sums_in_order(distances[:, None], torch.arange(count, device=photos.device), plan.offsets)[:, 0]
        total = distance = distance / plan.offsets.diff().clamp_min(1)
        if self.contour is not None:
            faded, slope = self.contour(self.veils)
            gradients += config.nu * slope[plan.person[:count]]
            total = total + config.nu * faded
        # veil_step_ takes each person's mean, first photo to last: sums by index_add_ have no order on a GPU.
        size, visual, variance = ops.veil_step_(
            self.veils,
            self.momentum,
            gradients,
            photos[:count],
            plan.offsets,
            a=config.blend,
            lam=config.lam,
            mu=config.mu,
            step=config.step_at(step),
            decay=config.decay,
            active=self.watch.active,
            mean_images=self.mean_images,
            visual=config.visual,
            block=config.block,
            stride=config.block_stride,
            form=config.variance,
        ).unbind(1)
        total = total - config.lam * visual + config.mu * variance
        self.watch.see(step, distance, torch.where(size.isfinite(), total, size))

    def _ended(self, step: int) -> dict[int, int]:
        """Who ended in the steps since the last look, now that `step` are done: the steps that each of them took."""
        ended = self.watch.read()
        taken = {p: abs(ended[p]) or step for p in self.running if ended[p] or step == self.config.steps}
        self.failed |= {p: f"failed: the gradient was not finite in step {-ended[p]}" for p in taken if ended[p] < 0}
        self.running = [p for p in self.running if p not in taken]
        return taken

    def finished(self) -> torch.Tensor:
        """The veils as they are kept, uint8 [P, 3, H, W]."""
        return (self.veils * 255).round().to(torch.uint8)

    def _finish(self, taken: dict[int, int], step: int, bar: Progress) -> Iterator[tuple[dict, torch.Tensor | None]]:
        """Records and veils of these persons (with the steps they took, `step` being done), measured on the protected
        photos that the 8-bit veils give."""
        if not taken:
            return
        veils = self.finished()
        features = self._features_under(veils, [p for p in taken if p not in self.failed])
        for p in taken:
            bar.advance(self.config.steps - step)
            record = self._record(p, taken[p], veils[p], features.get(p))
            yield record, None if record["status"].startswith("failed") else veils[p].cpu()

    def _features_under(self, veils: torch.Tensor, persons: list[int]) -> dict[int, torch.Tensor]:
        """Features of all photos of each of these persons under their veils."""
        if not persons:
            return {}
        photos = torch.cat([torch.arange(int(self.offsets[p]), int(self.offsets[p + 1])) for p in persons])
        rows = torch.repeat_interleave(torch.tensor(persons), self.counts[persons])
        device = self.images.device
        hidden = ops.blend(self.images[photos.to(device)], veils, rows.to(device), self.config.blend)
        features = fixed_features(self.model, hidden, self.width)
        return dict(zip(persons, features.split(self.counts[persons].tolist()), strict=True))

    def _record(self, p: int, taken: int, veil: torch.Tensor, features: torch.Tensor | None) -> dict:
        config, part = self.config, slice(int(self.offsets[p]), int(self.offsets[p + 1]))
        record: dict = {
            "name": self.names[p],
            "photos": int(self.counts[p]),
            "status": self.failed.get(p, ""),
            "steps": taken,
        }
        if self.generations[p]:
            record["generation"] = self.generations[p]
        if features is None:
            return record
        if not bool(features.isfinite().all()):
            return record | {"status": "failed: the network's features of the protected photos are not finite"}
        record |= figures_of(features, self.clean[part], self.images[part], veil, config.blend / 255, config)
        reached = float(record["feature_distance"]) <= config.stop_distance
        record["status"] = "converged" if reached else "step limit"
        record["photo_ids"] = [photo_id(image) for image in self.images[part].cpu()]
        return record


CLEAN_FAILED = "failed: the network's features of the clean photos are not finite"
