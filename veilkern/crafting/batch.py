"""IdentityBatch: some persons' veils optimised together, from the keyed start to the record of each.

It draws photos, asks the network for gradients and lets `veil_step_` do the rest. A person's bits do not depend on who
else is in the batch: the network always gets the same number of photos (see `padded`), the ops keep photos and persons
apart, and every sum has a fixed order.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from veilkern import ops
from veilkern.crafting.config import CraftConfig
from veilkern.crafting.contour import ContourLoss
from veilkern.crafting.features import fixed_features, padded
from veilkern.crafting.records import figures_of
from veilkern.crafting.sampler import PhotoSampler
from veilkern.data.people import People
from veilkern.data.photos import photo_id
from veilkern.errors import ModelError
from veilkern.networks.face_model import FaceModel
from veilkern.progress import Progress
from veilkern.veils import keyed


class IdentityBatch:
    """Some persons crafted together. generations: one a person. width: photos in the network at a time."""

    def __init__(
        self,
        model: FaceModel,
        people: People,
        config: CraftConfig,
        key: bytes,
        generations: list[int],
        width: int,
    ):
        self.model, self.config, self.width = model, config, width
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
        self.contour = ContourLoss(self.images, self.offsets, config.blend) if config.nu else None
        self.weights: torch.Tensor | None = None
        self.taken = torch.zeros(len(self.names), dtype=torch.int64)
        self.failed: dict[int, str] = {}
        for p, part in enumerate(self.clean.split(self.counts.tolist())):
            if not bool(part.isfinite().all()):
                self.failed[p] = CLEAN_FAILED

    def run(self, bar: Progress) -> Iterator[tuple[dict, torch.Tensor | None]]:
        """All steps. Yields each person's record and veil (uint8 [3, H, W]; None: failed) as soon as she is finished,
        which may be long before the others are."""
        people, history = len(self.names), []
        active = torch.ones(people, dtype=torch.bool)
        active[list(self.failed)] = False
        yield from self._finish(~active, bar)
        for step in range(self.config.steps):
            if not bool(active.any()):
                return
            history.append(self._step(step, active))
            self.taken += active
            bar.advance(int(active.sum()))
            ended = active & ~history[-1].isfinite().all(1)
            for p in ended.nonzero().flatten().tolist():
                self.failed[p] = f"failed: the gradient was not finite in step {step + 1}"
            if self.config.early_stop:
                ended |= active & self._settled(history)
            if step + 1 == self.config.steps:
                ended = active
            yield from self._finish(ended, bar)
            active = active & ~ended

    def _step(self, step: int, active: torch.Tensor) -> torch.Tensor:
        """One step of the active persons; returns [P, 2], their feature distance and total loss."""
        config, people = self.config, len(self.names)
        drawn = [
            sampler.next() + self.offsets[p] if active[p] else torch.zeros(0, dtype=torch.int64)
            for p, sampler in enumerate(self.samplers)
        ]
        rows, counts = torch.cat(drawn), torch.tensor([len(d) for d in drawn])
        person = torch.repeat_interleave(torch.arange(people), counts)
        gradients, distances = self.veils.new_empty((len(rows), *self.veils.shape[1:])), []
        for place in torch.arange(len(rows)).split(self.width):
            distance, gradients[place[0] : place[-1] + 1] = self._feature_gradient(rows[place], person[place])
            distances.append(distance)
        faded = torch.zeros(people, device=self.veils.device)
        if self.contour is not None:
            faded, slope = self.contour(self.veils)
            gradients += config.nu * slope[person.to(slope.device)]
        # veil_step_ takes each person's mean, first photo to last: sums by index_add_ have no order on a GPU.
        statistics = ops.veil_step_(
            self.veils,
            self.momentum,
            gradients,
            self.images[rows.to(self.images.device)],
            _prefix(counts, self.veils),
            blend=config.blend,
            lam=config.lam,
            mu=config.mu,
            step=config.step_at(step),
            decay=config.decay,
            active=active.to(self.veils.device),
            mean_images=self.mean_images,
            visual=config.visual,
            block=config.block,
            stride=config.block_stride,
            form=config.variance,
        ).cpu()
        parts = torch.cat(distances).cpu().split(counts.tolist())
        distance = torch.stack([part.sum() / max(len(part), 1) for part in parts])
        total = distance - config.lam * statistics[:, 1] + config.mu * statistics[:, 2] + config.nu * faded.cpu()
        return torch.stack([distance, torch.where(statistics[:, 0].isfinite(), total, statistics[:, 0])], 1)

    def _feature_gradient(self, rows: torch.Tensor, person: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances [n] of photos `rows` and their gradients with respect to the protected photos [n, 3, H, W]."""
        device, alpha = self.veils.device, self.config.blend / 255
        with torch.no_grad():
            mixed = alpha * (self.images[rows.to(device)].float() / 255) + (1 - alpha) * self.veils[person.to(device)]
        mixed = padded(mixed, self.width).requires_grad_()
        features = self.model.embed(mixed)[: len(rows)]
        if not features.requires_grad:
            raise ModelError(
                f"{self.model.name}: the network passes no gradient to its input (torch.no_grad, inference_mode or "
                "detach in its forward?); a veil cannot be crafted through it"
            )
        distance, slope = self._distance(features.detach(), rows, person)
        (gradient,) = torch.autograd.grad(features, mixed, slope)
        return distance, gradient[: len(rows)]

    def _distance(self, features: torch.Tensor, rows: torch.Tensor, person: torch.Tensor):
        """Distance and slope of features of photos `rows`; remembers the hull weights as the next start."""
        device = features.device
        if self.weights is None and self.config.subspace == "convex":
            most = int(self.counts.max())
            self.weights = (torch.arange(most) < self.counts[:, None]).float() / self.counts[:, None]
            self.weights = self.weights[torch.repeat_interleave(torch.arange(len(self.names)), self.counts)].to(device)
        start = None if self.weights is None else self.weights[rows.to(device)]
        offsets = _prefix(torch.bincount(person, minlength=len(self.names)), features)
        own = (rows - self.offsets[person]).to(device)
        distance, weights, slope = ops.hull_distance(
            features,
            self.clean,
            offsets,
            clean_offsets=self.offsets.to(device),
            kind=self.config.subspace,
            weights=start,
            own=own,
        )
        if self.weights is not None:
            self.weights[rows.to(device)] = weights
        return distance, slope

    def _settled(self, history: list[torch.Tensor]) -> torch.Tensor:
        """Persons that meet the early-stop criterion of CraftConfig."""
        config, n = self.config, self.config.patience
        if len(history) < 2 * n:
            return torch.zeros(len(self.names), dtype=torch.bool)
        before, now = torch.stack(history[-2 * n : -n]).mean(0), torch.stack(history[-n:]).mean(0)
        better = before[:, 1] - now[:, 1]
        return (now[:, 0] <= config.stop_distance) & (better <= config.stop_improvement * before[:, 1].abs())

    def finished(self) -> torch.Tensor:
        """The veils as they are kept, uint8 [P, 3, H, W]."""
        return (self.veils * 255).round().to(torch.uint8)

    def _finish(self, ended: torch.Tensor, bar: Progress) -> Iterator[tuple[dict, torch.Tensor | None]]:
        """Records and veils of these persons (bool [P]), measured on the protected photos that the 8-bit veils give."""
        persons = ended.nonzero().flatten().tolist()
        veils = self.finished()
        features = self._features_under(veils, [p for p in persons if p not in self.failed])
        for p in persons:
            bar.advance(self.config.steps - int(self.taken[p]))
            record = self._record(p, veils[p], features.get(p))
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

    def _record(self, p: int, veil: torch.Tensor, features: torch.Tensor | None) -> dict:
        config, part = self.config, slice(int(self.offsets[p]), int(self.offsets[p + 1]))
        record: dict = {
            "name": self.names[p],
            "photos": int(self.counts[p]),
            "status": self.failed.get(p, ""),
            "steps": int(self.taken[p]),
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


def _prefix(counts: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).to(like.device)
