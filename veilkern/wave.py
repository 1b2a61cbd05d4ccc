"""Wave: some persons' veils optimised together, from the keyed start to the record of each.

It draws photos, asks the network for gradients and lets `veil_step_` do the rest.
"""

from __future__ import annotations

import torch

from veilkern import keyed, ops
from veilkern.config import CraftConfig
from veilkern.embedder import FaceModel
from veilkern.errors import ModelError
from veilkern.people import People
from veilkern.progress import Progress
from veilkern.veils import photo_id


class Wave:
    """Some persons crafted together, from the start to their records."""

    def __init__(
        self,
        model: FaceModel,
        people: People,
        clean: torch.Tensor,
        first: int,
        last: int,
        config: CraftConfig,
        key: bytes,
    ):
        begin, end = int(people.offsets[first]), int(people.offsets[last])
        self.model, self.config = model, config
        self.names = people.names[first:last]
        device = model.device
        self.images = people.images[begin:end].to(device)
        self.offsets = people.offsets[first : last + 1] - begin
        self.clean = clean[begin:end].to(device)
        self.counts = self.offsets.diff()
        shape = people.images.shape[1:]
        start = [keyed.uniform(keyed.stream(key, name, "start"), tuple(shape)) for name in self.names]
        self.veils = torch.stack(start).to(device)
        self.momentum = torch.zeros_like(self.veils)
        self.draws = [
            Draws(keyed.stream(key, name, "photos"), int(n), config.photos_per_step)
            for name, n in zip(self.names, self.counts, strict=True)
        ]
        self.mean_images = torch.stack([part.double().mean(0) for part in self.images.split(self.counts.tolist())])
        self.mean_images = (self.mean_images / 255).float()
        self.weights: torch.Tensor | None = None
        self.taken = torch.zeros(len(self.names), dtype=torch.int64)
        self.failed: dict[int, str] = {}
        self.records: list[dict] = []
        for p, part in enumerate(self.clean.split(self.counts.tolist())):
            if not bool(part.isfinite().all()):
                self.failed[p] = "failed: the network's features of the clean photos are not finite"

    def run(self, bar: Progress) -> None:
        """All steps, then the records."""
        people, history = len(self.names), []
        active = torch.ones(people, dtype=torch.bool)
        active[list(self.failed)] = False
        for step in range(self.config.steps):
            if not bool(active.any()):
                break
            history.append(self._step(step, active))
            self.taken += active
            bar.advance(int(active.sum()))
            for p in (active & ~history[-1].isfinite().all(1)).nonzero().flatten().tolist():
                self.failed[p] = f"failed: the gradient was not finite in step {step + 1}"
                active[p] = False
            if self.config.early_stop:
                active &= ~self._settled(history)
        bar.advance(people * self.config.steps - int(self.taken.sum()))
        self._finish()

    def _step(self, step: int, active: torch.Tensor) -> torch.Tensor:
        """One step of the active persons; returns [P, 2], their feature distance and total loss."""
        config, people = self.config, len(self.names)
        drawn = [
            draws.next() + self.offsets[p] if active[p] else torch.zeros(0, dtype=torch.int64)
            for p, draws in enumerate(self.draws)
        ]
        rows, counts = torch.cat(drawn), torch.tensor([len(d) for d in drawn])
        person = torch.repeat_interleave(torch.arange(people), counts)
        share = 1 / counts[person].to(torch.float32)  # each photo's part in its person's mean
        gradients = torch.zeros_like(self.veils)
        distance = torch.zeros(people)
        for place in torch.arange(len(rows)).split(config.photos_in_flight):
            d, g = self._feature_gradient(rows[place], person[place])
            weight = share[place].to(g.device)
            gradients.index_add_(0, person[place].to(g.device), g * weight.view(-1, 1, 1, 1))
            distance.index_add_(0, person[place], (d * weight).cpu())
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
            gradient_offsets=torch.arange(people + 1, device=self.veils.device),
            mean_images=self.mean_images,
            visual=config.visual,
            block=config.block,
            stride=config.block_stride,
            form=config.variance,
        ).cpu()
        total = distance - config.lam * statistics[:, 1] + config.mu * statistics[:, 2]
        return torch.stack([distance, torch.where(statistics[:, 0].isfinite(), total, statistics[:, 0])], 1)

    def _feature_gradient(self, rows: torch.Tensor, person: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances [n] of photos `rows` and their gradients with respect to the protected photos [n, 3, H, W]."""
        device, alpha = self.veils.device, self.config.blend / 255
        with torch.no_grad():
            mixed = alpha * (self.images[rows.to(device)].float() / 255) + (1 - alpha) * self.veils[person.to(device)]
        mixed.requires_grad_()
        features = self.model.embed(mixed)
        if not features.requires_grad:
            raise ModelError(
                f"{self.model.name}: the network passes no gradient to its input (torch.no_grad, inference_mode or "
                "detach in its forward?); a veil cannot be crafted through it"
            )
        distance, slope = self._distance(features.detach(), rows, person)
        (gradient,) = torch.autograd.grad(features, mixed, slope)
        return distance, gradient

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
        return (self.veils * 255).round().to(torch.uint8).cpu()

    def fail(self, why: str) -> None:
        """Nobody of this wave has a veil."""
        self.records = [
            {"name": name, "photos": int(n), "status": why, "steps": int(t)}
            for name, n, t in zip(self.names, self.counts, self.taken, strict=True)
        ]

    def _finish(self) -> None:
        """Records, measured on the protected photos that the 8-bit veils give."""
        config, veils = self.config, self.finished().to(self.images.device)
        person = torch.repeat_interleave(torch.arange(len(self.names)), self.counts).to(veils.device)
        hidden = ops.blend(self.images, veils, person, config.blend)
        features = self.model.features(hidden, batch=config.photos_in_flight, check=False)
        usable = features.isfinite().all(1) & self.clean.isfinite().all(1)
        alpha, images = config.blend / 255, self.images
        for p, name in enumerate(self.names):
            part = slice(int(self.offsets[p]), int(self.offsets[p + 1]))
            record: dict = {
                "name": name,
                "photos": int(self.counts[p]),
                "status": self.failed.get(p, ""),
                "steps": int(self.taken[p]),
            }
            if not record["status"] and not bool(usable[part].all()):
                record["status"] = "failed: the network's features of the protected photos are not finite"
            if not record["status"]:
                record |= _losses(features[part], self.clean[part], images[part], veils[p], alpha, config)
                reached = float(record["feature_distance"]) <= config.stop_distance
                record["status"] = "converged" if reached else "step limit"
                record["photo_ids"] = [photo_id(image) for image in images[part].cpu()]
            self.records.append(record)


class Draws:
    """Photos of one person for each step, without replacement until all were used."""

    def __init__(self, generator, count: int, per_step: int):
        self.generator, self.count = generator, count
        self.per_step = min(per_step, count) if per_step else count
        self.queue: list[int] = []

    def next(self) -> torch.Tensor:
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


def _prefix(counts: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).to(like.device)


def _losses(features, clean, images, veil, alpha: float, config: CraftConfig) -> dict:
    """The record's figures of one person under the finished veil."""
    own = torch.tensor([0, len(images)], device=images.device)
    distance, _, _ = ops.hull_distance(features, clean, own, kind=config.subspace)
    x, v = images.float() / 255, veil.float() / 255
    mixed = alpha * x + (1 - alpha) * v
    gap = x - mixed
    visual = gap.flatten(1).norm(dim=1).mean() if config.visual == "norm" else gap.square().mean()
    variance = ops.block_variance(mixed, block=config.block, stride=config.block_stride, form=config.variance).mean()
    centre = torch.nn.functional.normalize(clean.mean(0), dim=0)
    figures = {
        "feature_distance": distance.mean(),
        "cosine": (features @ centre).mean(),
        "visual": visual,
        "variance": variance,
        "total": distance.mean() - config.lam * visual + config.mu * variance,
    }
    return {name: round(float(value), 6) for name, value in figures.items()}
