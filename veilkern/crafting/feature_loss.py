"""FeatureLoss: L_fea of photos under their persons' veils, and its slope, through the network."""

from __future__ import annotations

import torch

from veilkern import ops
from veilkern.crafting.config import CraftConfig
from veilkern.errors import ModelError
from veilkern.networks.face_model import FaceModel


class FeatureLoss:
    """Distance of protected photos' features to the hull of their person's clean features.

    clean: features float32 [N, d] of all photos, on the device of the network, where everything stays; offsets: int64
    [P + 1] on the host, person p's photos are offsets[p]:offsets[p + 1].
    """

    def __init__(self, model: FaceModel, clean: torch.Tensor, offsets: torch.Tensor, config: CraftConfig):
        self.model, self.clean, self.config = model, clean, config
        counts = offsets.diff()
        self.offsets, self.most = offsets.to(clean.device), int(counts.max())
        std = model.input.normalisation["std"]
        # Of each channel of a photo: how much the network's input changes with it.
        self.std = clean.new_tensor(std[::-1] if model.input.bgr else std).view(3, 1, 1)
        self.weights: torch.Tensor | None = None  # of the convex hull: where each photo's next search starts
        if config.subspace == "convex":
            even = (torch.arange(self.most) < counts[:, None]) / counts[:, None]
            self.weights = torch.repeat_interleave(even, counts, 0).to(clean)

    def __call__(
        self,
        photos: torch.Tensor,
        veils: torch.Tensor,
        person: torch.Tensor,
        rows: torch.Tensor,
        own: torch.Tensor,
        offsets: torch.Tensor,
        out: torch.Tensor,
    ) -> torch.Tensor:
        """Distances [n]; writes their gradients with respect to the protected photos to out [n, 3, H, W].

        photos uint8 [width, 3, H, W], of which the first n count, and person int64 [width] (see `Plan`); veils [P, 3,
        H, W] in [0, 1]; rows, own int64 [n], offsets int64 [P + 1]: of the n photos, person by person. ModelError when
        the network fails or passes no gradient. The host reads nothing.
        """
        spec, count = self.model.input, len(out)
        mixed = ops.blend_normalize(photos, veils, person, self.config.blend, dtype=veils.dtype, **spec.normalisation)
        mixed = mixed.contiguous().requires_grad_()  # many a network's .view fails on channels_last
        features = self.model.embed_normalised(mixed)[:count]
        if not features.requires_grad:
            raise ModelError(
                f"{self.model.name}: the network passes no gradient to its input (torch.no_grad, inference_mode or "
                "detach in its forward?); a veil cannot be crafted through it"
            )
        distance, slope = self._distance(features.detach(), rows, own, offsets)
        (gradient,) = torch.autograd.grad(features, mixed, slope)
        gradient = gradient[:count]
        torch.div(gradient.flip(1) if spec.bgr else gradient, self.std, out=out)
        return distance

    def _distance(self, features, rows, own, offsets) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances and their slopes with respect to the features; remembers the weights."""
        distance, weights, slope = ops.hull_distance(
            features,
            self.clean,
            offsets,
            clean_offsets=self.offsets,
            kind=self.config.subspace,
            weights=None if self.weights is None else self.weights[rows],
            own=own,
            width=self.most,
        )
        if self.weights is not None:
            self.weights[rows] = weights
        return distance, slope
