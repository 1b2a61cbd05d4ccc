"""IdentityBatch: some persons' veils optimised together, from the keyed start to the record of each.

It draws photos, asks the network for gradients and lets `veil_step_` do the rest. Everything stays on the network's
device: every `look` steps one copy goes in (which photos) and one comes out (who has ended); nowhere else does the host
wait. A person's bits do not depend on who else is in the batch: the network always gets the same number of photos (see
`padded`), the ops keep photos and persons apart, and every sum has a fixed order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from veilkern import ops
from veilkern.crafting.config import CraftConfig
from veilkern.crafting.feature_loss import FeatureLoss
from veilkern.crafting.features import clean_features, fixed_features
from veilkern.crafting.noise import Stream, keys_of
from veilkern.crafting.records import figures_by_network
from veilkern.crafting.robust import STRENGTHS, ChangeDraws, Changes
from veilkern.crafting.sampler import Plan, draw
from veilkern.crafting.schemes import Blend, Scheme, Sealed
from veilkern.crafting.sums import sums_in_order
from veilkern.crafting.templates import Subjects, counted, identified
from veilkern.crafting.watch import Watch
from veilkern.data.people import People
from veilkern.networks.face_model import FaceModel
from veilkern.progress import Progress
from veilkern.veils import keyed


class IdentityBatch:
    """Some persons crafted together, by their photos, or, where photos are sealed, by their templates alone.

    generations: one a person. width: photos in the network at a time. look: the host looks who has ended every so many
    steps, which changes no bit of any result: the device looks in every step. stepping: the network that steps go
    through, where that is another one, such as the same with fewer digits.
    """

    def __init__(
        self,
        model: FaceModel,
        subjects: Subjects,
        config: CraftConfig,
        key: bytes,
        generations: list[int],
        width: int,
        look: int,
        stepping: FaceModel | None = None,
    ):
        self.model, self.subjects, self.config, self.width = model, subjects, config, width
        self.look = look
        self.names, self.generations = subjects.names, generations
        self.offsets, self.counts = subjects.offsets, subjects.counts
        device, size = model.device, model.input.size
        streams = [(key, name, generation) for name, generation in zip(self.names, generations, strict=True)]
        self.clean, self.scheme = self._prepared(streams)
        start = [keyed.uniform(keyed.stream(k, name, "start", g), (3, *size)) for k, name, g in streams]
        self.veils = torch.stack(start).to(device)
        self.momentum = torch.zeros_like(self.veils)
        self.samplers = [
            self.scheme.sampler(keyed.stream(k, name, "photos", generation), int(n))
            for (k, name, generation), n in zip(streams, self.counts, strict=True)
        ]
        self.draws, changes = None, None
        if config.robust != "none":
            strength = STRENGTHS[config.robust]
            self.draws = [ChangeDraws(keyed.stream(k, name, "robust", g), strength) for k, name, g in streams]
            changes = Changes(size, keys_of(streams, "robust noise"), self.veils)
        self.feature_loss = FeatureLoss(
            stepping or model, self.clean, self.offsets, config, self.scheme.network_input, changes
        )
        finite = torch.stack([part.isfinite().all() for part in self.clean.split(self.counts.tolist())]).tolist()
        self.failed = {p: CLEAN_FAILED for p, usable in enumerate(finite) if not usable}
        self.running = [p for p, usable in enumerate(finite) if usable]
        self.watch = Watch(len(self.names), list(self.failed), config, device)

    def _prepared(self, streams: list[Stream]) -> tuple[torch.Tensor, Scheme]:
        """The clean features on the device, and the scheme, which has the photos there where it needs them."""
        subjects, device = self.subjects, self.model.device
        if self.config.scheme == "sealed":
            clean = clean_features(self.model, subjects, self.width).to(device)
            return clean, Sealed(streams, self.model.input.size, self.config, device)
        assert isinstance(subjects, People)  # craft has seen to it
        images = subjects.images.to(device)
        return fixed_features(self.model, images, self.width), Blend(images, self.offsets, self.config)

    def run(self, bar: Progress) -> Iterator[tuple[dict[str, Any], torch.Tensor | None]]:
        """All steps. Yields each person's record and veil (uint8 [3, H, W]; None: failed) when she is found finished,
        which may be long before the others are."""
        yield from self._finish(dict.fromkeys(self.failed, 0), 0, bar)
        step, last = 0, self.config.steps
        while self.running and step < last:
            ahead = min(self.look, last - step)
            plan = draw(
                self.samplers,
                self.running,
                self.offsets,
                ahead,
                self.width,
                self.veils.device,
                first=step,
                changes=self.draws,
            )
            for turn in range(ahead):
                self._step(step, plan, turn)
                step += 1
                bar.advance(len(self.running))
            yield from self._finish(self._ended(step), step, bar)

    def _step(self, step: int, plan: Plan, turn: int) -> None:
        """One step of whoever is active, on the photos of `turn` 0, 1, .. of the plan. The host waits for nothing."""
        config, count, scheme = self.config, plan.own.shape[1], self.scheme
        photos = scheme.photos(plan, turn)
        distances, gradients = self.feature_loss(photos, self.veils, plan, turn)
        distance = sums_in_order(distances[:, None], torch.arange(count, device=photos.device), plan.offsets)[:, 0]
        total = distance = distance / plan.offsets.diff().clamp_min(1)
        if scheme.contour is not None:
            faded, slope = scheme.contour(self.veils)
            gradients += config.nu * slope[plan.person[:count]]
            total = total + config.nu * faded
        # veil_step_ takes each person's mean, first photo to last: sums by index_add_ have no order on a GPU.
        size, visual, variance = ops.veil_step_(
            self.veils,
            self.momentum,
            gradients,
            photos[:count],
            plan.offsets,
            a=scheme.a,
            lam=config.lam,
            mu=config.mu,
            step=config.step_at(step),
            decay=config.decay,
            active=self.watch.active,
            mean_images=scheme.mean_images,
            visual=config.visual,
            block=config.block,
            stride=config.block_stride,
            form=config.block_form,
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
        return self.scheme.finished(self.veils)

    def _finish(
        self, taken: dict[int, int], step: int, bar: Progress
    ) -> Iterator[tuple[dict[str, Any], torch.Tensor | None]]:
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
        """Features of each of these persons' photos, or samples, under their veils."""
        if not persons:
            return {}
        hidden, counts = self.scheme.under(veils, persons)
        features = fixed_features(self.model, hidden, self.width)
        return dict(zip(persons, features.split(counts), strict=True))

    def _record(self, p: int, taken: int, veil: torch.Tensor, features: torch.Tensor | None) -> dict[str, Any]:
        part = slice(int(self.offsets[p]), int(self.offsets[p + 1]))
        status = {"status": self.failed.get(p, ""), "steps": taken}
        record: dict[str, Any] = {"name": self.names[p], **counted(self.subjects, p), **status}
        if self.generations[p]:
            record["generation"] = self.generations[p]
        if features is None:
            return record
        if not bool(features.isfinite().all()):
            return record | {"status": "failed: the network's features of the protected photos are not finite"}
        record |= self.scheme.figures(p, features, self.clean[part], veil)
        record |= figures_by_network(self.model, features, self.clean[part])
        reached = float(record["feature_distance"]) <= self.config.stop_distance
        record["status"] = "converged" if reached else "step limit"
        return record | identified(self.subjects, p)


CLEAN_FAILED = "failed: the network's features of the clean photos are not finite"
