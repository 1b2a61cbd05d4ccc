"""FeatureLoss: L_fea of protected photos, and its slope with respect to them, through the network."""

from __future__ import annotations

from collections.abc import Callable

import torch

from veilkern import ops
from veilkern.crafting.config import CraftConfig
from veilkern.crafting.robust import Changes
from veilkern.crafting.sampler import Plan
from veilkern.errors import ModelError
from veilkern.networks.face_model import FaceModel


class FeatureLoss:
    """Distance of protected photos' features to the hull of their person's clean features.

    clean: features float32 [N, d] of all photos, on the device of the network, where everything stays; offsets: int64
    [P + 1] on the host, person p's photos are offsets[p]:offsets[p + 1]. protect: `network_input` of a scheme. changes:
    what is done to protected photos before the network sees them (crafting/robust.py).
    """

    def __init__(
        self,
        model: FaceModel,
        clean: torch.Tensor,
        offsets: torch.Tensor,
        config: CraftConfig,
        protect: Callable[..., torch.Tensor],
        changes: Changes | None = None,
    ):
        self.model, self.clean, self.config, self.protect, self.changes = model, clean, config, protect, changes
        counts = offsets.diff()
        self.offsets, self.most = offsets.to(clean.device), int(counts.max())
        mean, std, self.bgr = model.input.normalisation.values()
        # A slope at the network's input, divided by std, is one at the photo: of each channel in the photo's order.
        self.mean, self.std = (clean.new_tensor(v[::-1] if self.bgr else v).view(3, 1, 1) for v in (mean, std))
        # Where photos are changed first, they are made as pixels in [0, 1], and normalised after it.
        self.to = model.input.normalisation if changes is None else {"mean": [0.0] * 3, "std": [1.0] * 3, "bgr": False}
        # Of the convex hull: where each photo's next search starts. A sample of sealed noise is no photo that comes
        # again, so its search starts at the centre.
        self.weights: torch.Tensor | None = None
        if config.subspace == "convex" and config.scheme == "blend":
            even = (torch.arange(self.most) < counts[:, None]) / counts[:, None]
            self.weights = torch.repeat_interleave(even, counts, 0).to(clean)

    def __call__(
        self, photos: torch.Tensor, veils: torch.Tensor, plan: Plan, turn: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances [n] of the n photos of a step, and their gradients with respect to the protected photos, [n, 3, H,
        W] like veils.

        photos: uint8 [M, 3, H, W], the scheme's of turn 0, 1, .. of the plan, one piece of them in the network at a
        time; veils [P, 3, H, W] in [0, 1]. The host waits for nothing. ModelError when the network fails or passes no
        gradient.
        """
        width, count = len(photos) // len(plan.pieces), plan.own.shape[1]
        rows, own = plan.rows[turn, :count], plan.own[turn]
        gradients, distances = veils.new_empty((count, *veils.shape[1:])), []
        for i, offsets in enumerate(plan.pieces):
            piece = slice(i * width, (i + 1) * width)
            mixed, features = self._features(photos[piece], veils, plan, turn, piece)
            features = features[: len(own[piece])]
            distance, slope = self._distance(features.detach(), rows[piece], own[piece], offsets)
            (gradient,) = torch.autograd.grad(features, mixed, slope)
            gradient = gradient[: len(features)]
            if self.changes is None:
                torch.div(gradient.flip(1) if self.bgr else gradient, self.std, out=gradients[piece])
            else:
                gradients[piece] = gradient
            distances.append(distance)
        return torch.cat(distances), gradients

    def _features(
        self, photos: torch.Tensor, veils: torch.Tensor, plan: Plan, turn: int, piece: slice
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The protected photos, as the network takes them unless they are changed first, and their features, which
        depend on them."""
        mixed = self.protect(photos, veils, plan, turn, piece, **self.to).requires_grad_()
        seen = mixed
        if self.changes is not None:
            seen = (self.changes(mixed, plan, turn, piece) - self.mean) / self.std
            seen = seen.flip(1) if self.bgr else seen
        # A copy goes in: many a network's .view fails on channels_last, and some write to their input.
        features = self.model.embed_normalised(seen.contiguous())
        if not features.requires_grad:
            raise ModelError(
                f"{self.model.name}: the network passes no gradient to its input (torch.no_grad, inference_mode or "
                "detach in its forward?); a veil cannot be crafted through it"
            )
        return mixed, features

    def _distance(
        self, features: torch.Tensor, rows: torch.Tensor, own: torch.Tensor | None, offsets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances and their slopes with respect to the features; remembers the weights."""
        distance, weights, slope = ops.hull_distance(
            features,
            self.clean,
            offsets,
            clean_offsets=self.offsets,
            subspace=self.config.subspace,
            weights=None if self.weights is None else self.weights[rows],
            own=own,
            width=self.most,
        )
        if self.weights is not None:
            self.weights[rows] = weights
        return distance, slope
