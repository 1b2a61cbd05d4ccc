"""Heads: the losses that a network learns identities by, each with one weight vector an identity.

For an embedding f of identity y, w_j the weights of identity j and cos t_j the cosine of f and w_j:

    softmax   logit_j = w_j f + b_j
    lmcl      logit_j = s (cos t_j - m [j = y])        large margin cosine loss (CosFace), m a cosine
    arcface   logit_j = s cos(t_j + m [j = y])         additive angular margin (ArcFace), m in radians

and the loss is the cross entropy of the logits, mean over the batch. lmcl and arcface are pytorch-metric-learning's
CosFaceLoss and ArcFaceLoss, whose margin of arcface is in degrees. softmax is a linear layer of torch: that library's
NormalizedSoftmaxLoss is another loss, of normalised features and weights (NormFace). A head's weights are parameters of
it, and have to be in the optimiser.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from veilkern.training.extra import needed

HEADS = {"softmax": 0.0, "lmcl": 0.35, "arcface": 0.5}  # and the margins that their papers use
_NEARLY_ONE = 1 - 1e-6  # of a cosine in float32: the arc cosine has no slope at 1


def default_scale(identities: int) -> float:
    """The scale s by default: the papers' 64 from 10,000 identities on, else 24.

    With few identities 64 saturates the cross entropy before features of one identity lie close together, and a network
    that starts from random weights may not move at all.
    """
    return 64.0 if identities >= 10_000 else 24.0


class Head(nn.Module):
    """Embeddings [N, d], labels int64 [N] -> the loss, float32. In float32, whatever the network's precision is."""

    def set_margin(self, share: float) -> None:
        """The margin from here on, as a share of the full one."""

    def loss(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of float32 embeddings."""
        raise NotImplementedError

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.loss(embeddings.float(), labels)


class Softmax(Head):
    """Cross entropy over linear logits."""

    def __init__(self, identities: int, embedding: int):
        super().__init__()
        self.linear = nn.Linear(embedding, identities)

    def loss(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.linear(embeddings), labels)


class Margin(Head):
    """A loss of pytorch-metric-learning with a margin. margin: in the library's unit."""

    def __init__(self, library_loss: nn.Module, margin: float):
        super().__init__()
        self.library_loss, self.margin = library_loss, margin

    def set_margin(self, share: float) -> None:
        self.library_loss.margin = share * self.margin  # type: ignore[assignment]  # a number that it reads each time

    def loss(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.library_loss(embeddings, labels)


def make_head(kind: str, identities: int, embedding: int, *, margin: float, scale: float) -> Head:
    """A head with fresh weights from torch's global generator, of length about 1.

    kind: one of HEADS. margin: a cosine for lmcl, radians for arcface; it and scale mean nothing to softmax. Raises
    ModelError where the extra `train` is missing.
    """
    if kind == "softmax":
        return Softmax(identities, embedding)
    losses = needed("pytorch_metric_learning.losses")
    wrapper = needed("pytorch_metric_learning.utils.common_functions").TorchInitWrapper
    options = {"scale": scale, "weight_init_func": wrapper(nn.init.normal_, std=embedding**-0.5)}
    if kind == "lmcl":
        made = losses.CosFaceLoss(identities, embedding, margin=margin, **options)
    else:
        made = _steady(losses.ArcFaceLoss)(identities, embedding, margin=math.degrees(margin), **options)
    return Margin(made, made.margin)


def _steady(arcface: type) -> type:
    """The library's ArcFaceLoss, but that a feature which lies on its identity's weights has a finite slope."""

    class Steady(arcface):  # type: ignore[misc]  # of a library without types
        def get_angles(self, cosine_of_target_classes: torch.Tensor) -> torch.Tensor:
            return super().get_angles(cosine_of_target_classes.clamp(-_NEARLY_ONE, _NEARLY_ONE))

    return Steady
