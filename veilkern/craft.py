"""craft: the batched optimiser. It draws photos, asks the network for gradients and lets `veil_step_` do the rest."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from veilkern import __version__, keyed, ops
from veilkern.config import CraftConfig
from veilkern.embedder import FaceModel
from veilkern.people import People
from veilkern.progress import Progress, progress_bar
from veilkern.veils import VeilBank, photo_id


@dataclass
class CraftResult:
    """bank: the veils (of everybody whose status is not `failed`). report: one dict a person, in the order of people.

    A record: name, photos, status (`converged`, `step limit`, `failed: why`), steps, feature_distance (mean D of all
    crafting photos under the finished 8-bit veil), cosine (mean, to the person's mean clean feature), visual (L_vis),
    variance (L_var), total (the loss), photo_ids, and held_out (photos, cosine, rank1) where such
    photos were given.
    key: the master key when craft made a fresh one, else None.
    """

    bank: VeilBank
    report: list[dict]
    key: bytes | None = field(default=None, repr=False)


class CraftInterrupted(KeyboardInterrupt):
    """Ctrl-C during craft: `.result` is the CraftResult of everybody who was finished."""

    def __init__(self, result: CraftResult):
        super().__init__(f"interrupted with {len(result.bank)} of {len(result.report)} veils finished")
        self.result = result


def craft(
    model: FaceModel,
    people: People,
    config: CraftConfig | None = None,
    *,
    key: bytes | None = None,
    held_out: People | None = None,
    progress: bool | Callable[[int, int], None] | None = None,
) -> CraftResult:
    """Craft one veil per person of `people` for `model` (eq. 13 by MI-FGSM), many persons at a time.

    key: master key of at least 16 bytes; each veil starts from noise keyed by it and the person's name. None: a fresh
    random one, recorded in the result and the bank (or made from config.seed). The same key, photos, network, version
    and machine give the same bits. held_out: other photos of the same persons, only reported on. progress: True,
    False, None (a bar when stderr is a terminal), or a function called with (persons x steps done, all). A person
    whose gradient or features are not finite fails alone. Raises TypeError and ValueError for wrong arguments,
    ModelError when the network is unusable, CraftInterrupted on Ctrl-C.
    """
    config = CraftConfig() if config is None else config
    _check(model, people, config, held_out)
    fresh = key is None and config.seed is None
    key = _master_key(key, config)
    clean = model.features(people.images, batch=config.photos_in_flight, check=False)
    if not bool(clean.isfinite().any()):
        model.features(people.images[:1])  # raises with the cause
    fingerprint = {"name": model.name, "fingerprint": model.fingerprint}
    waves: list[_Wave] = []
    interrupted = False
    with progress_bar(progress, len(people) * config.steps, "crafting") as bar:
        for first, last in _waves(people, config):
            wave = _Wave(model, people, clean, first, last, config, key)
            try:
                wave.run(bar)
            except KeyboardInterrupt:
                interrupted = True
                break
            waves.append(wave)
    report = [record for wave in waves for record in wave.records]
    done = {record["name"] for record in report}
    report += [{"name": name, "status": "failed: interrupted", "steps": 0} for name in people.names if name not in done]
    bank = _bank(waves, report, people, config, fingerprint, keyed.key_id(key), key.hex() if fresh else "")
    result = CraftResult(bank, report, key if fresh else None)
    if interrupted:
        raise CraftInterrupted(result)
    if held_out is not None:
        _report_held_out(model, people, clean, held_out, result, config)
    return result


def _check(model, people, config, held_out) -> None:
    for name, value, kind in (("model", model, FaceModel), ("people", people, People), ("config", config, CraftConfig)):
        if not isinstance(value, kind):
            raise TypeError(f"craft: {name} must be a {kind.__name__}, got {type(value).__name__}")
    if not len(people):
        raise ValueError("craft: people must hold at least one person, got none")
    if tuple(people.images.shape[2:]) != model.input.size:
        raise ValueError(
            f"craft: the network wants photos of {model.input.size}, people has {tuple(people.images.shape[2:])}"
        )
    if min(people.images.shape[2:]) < max(config.block):
        raise ValueError(f"craft: config.block must fit the photos, got {config.block}")
    if held_out is not None and (unknown := sorted(set(held_out.names) - set(people.names))):
        raise ValueError(f"craft: held_out must hold photos of the same persons, got {', '.join(unknown[:5])} besides")


def _master_key(key: bytes | None, config: CraftConfig) -> bytes:
    if key is not None:
        if config.seed is not None:
            raise ValueError("craft: give a key or config.seed, not both")
        return keyed.check_key(key)
    if config.seed is not None:
        return keyed.hkdf_sha256(config.seed.to_bytes(8, "little"), b"seed", 32)
    return secrets.token_bytes(32)


def _waves(people: People, config: CraftConfig) -> list[tuple[int, int]]:
    """Runs of persons whose photos per step stay within photos_in_flight, and whose photos within ten times that."""
    bounds, first, flying, held = [], 0, 0, 0
    for p, count in enumerate(people.counts.tolist()):
        drawn = min(count, config.photos_per_step) if config.photos_per_step else count
        if p > first and (flying + drawn > config.photos_in_flight or held + count > 10 * config.photos_in_flight):
            bounds.append((first, p))
            first, flying, held = p, 0, 0
        flying, held = flying + drawn, held + count
    return [*bounds, (first, len(people))]


class _Wave:
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
            _Draws(keyed.stream(key, name, "photos"), int(n), config.photos_per_step)
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
        seen = rows.sort().values
        statistics = ops.veil_step_(
            self.veils,
            self.momentum,
            gradients,
            self.images[seen.to(self.images.device)],
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

    def _finish(self) -> None:
        """Records, measured on the protected photos that the 8-bit veils give."""
        config, veils = self.config, self.finished()
        person = torch.repeat_interleave(torch.arange(len(self.names)), self.counts)
        hidden = ops.blend(self.images.cpu(), veils, person, config.blend)
        features = self.model.features(hidden, batch=config.photos_in_flight, check=False)
        usable = features.isfinite().all(1) & self.clean.cpu().isfinite().all(1)
        alpha, images = config.blend / 255, self.images.cpu()
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
                record |= _losses(features[part], self.clean[part].cpu(), images[part], veils[p], alpha, config)
                reached = float(record["feature_distance"]) <= config.stop_distance
                record["status"] = "converged" if reached else "step limit"
                record["photo_ids"] = [photo_id(image) for image in images[part]]
            self.records.append(record)


class _Draws:
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
    own = torch.tensor([0, len(images)])
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


def _bank(waves, report, people: People, config: CraftConfig, fingerprint: dict, key_id: str, key: str) -> VeilBank:
    good = [record for record in report if not record["status"].startswith("failed")]
    veils = torch.cat(
        [wave.finished() for wave in waves] or [torch.zeros((0, *people.images.shape[1:]), dtype=torch.uint8)]
    )
    place = {name: i for i, name in enumerate(name for wave in waves for name in wave.names)}
    rows = torch.tensor([place[record["name"]] for record in good], dtype=torch.int64)
    return VeilBank(
        veils[rows],
        [record["name"] for record in good],
        config.blend,
        good,
        fingerprint,
        config.as_dict(),
        key_id,
        key,
        __version__,
    )


def _report_held_out(model, people, clean, held_out: People, result: CraftResult, config: CraftConfig) -> None:
    """Add cosine and rank of the held-out photos to the records: template = one clean crafting photo, in turn."""
    from veilkern.evaluate.identification import ranks_against

    kept = held_out.take([i for i, p in enumerate(held_out.rows.tolist()) if held_out.names[p] in result.bank.names])
    if not len(kept.images):
        return
    rows = result.bank.rows(kept.names)[kept.rows]
    hidden = ops.blend(kept.images, result.bank.veils, rows, result.bank.blend)
    features = model.features(hidden, batch=config.photos_in_flight, check=False)
    parts = dict(zip(people.names, clean.split(people.counts.tolist()), strict=True))
    others = torch.stack([part[0] for part in parts.values()])
    for p, name in enumerate(kept.names):
        own = features[kept.offsets[p] : kept.offsets[p + 1]]
        rank = ranks_against(own, parts[name], others[[n != name for n in parts]])
        centre = torch.nn.functional.normalize(parts[name].mean(0), dim=0)
        record = next(r for r in result.report if r["name"] == name)
        record["held_out"] = {
            "photos": len(own),
            "cosine": round(float((own @ centre).mean()), 6),
            "rank1": round(float((rank == 1).double().mean()), 6),
        }
