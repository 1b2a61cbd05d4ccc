"""A perturbation of each photo until it is noise: AVIH."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from veilkern import ops
from veilkern.crafting.features import fixed_features
from veilkern.crafting.run import Run
from veilkern.data.people import People
from veilkern.errors import ModelError
from veilkern.methods.method import Fitted, Method, ShowProgress, number_of, pixels_id, working
from veilkern.methods.slopes import scaled, slopes
from veilkern.networks.face_model import FaceModel
from veilkern.progress import progress_bar
from veilkern.veils import keyed

BLOCK = (4, 4)
_PATIENCE, _SHRINK = 16, 0.85  # the step shrinks after so many rises of the loss


class Avih(Method):
    """`avih`: each photo x becomes an image x' of its own that is noise to people and x to the network: minimise
    ||F(x') - F(x)||^2 + weight Var(x') over x' in [0, 1], Var the block variance of 4 x 4 sums at stride 1 (eq. 9-11,
    `consistent`).

    After Su et al., "Hiding Visual Information via Obfuscating Adversarial Perturbations" (ICCV 2023), and the settings
    that its code was published with: 800 steps x' -= size m, m = decay m + g / mean|g|, decay 0.3, no sign; size 0.01,
    times 0.85 after every 16th rise of the loss; weight 0.001; start from noise. Options weight, step_size, decay, and
    start: `noise` (uniform, keyed by seed, person and photo; published: normal) or `photo`.

    Out of scope is its key network, which gives the photo back and has a loss of its own: so nothing is recovered, and
    x' is free to hide more than it could if it had to hold the photo. Features are normalised and their distance is
    squared and summed, where the published loss takes the mean square of raw features.
    """

    name = "avih"
    scope = "photo"
    recovers = False
    OPTIONS = ("weight", "step_size", "decay", "start")

    def prepare(self, steps: int | None, options: dict[str, Any]) -> None:
        self.steps = 800 if steps is None else steps
        self.weight = number_of("avih", "weight", options.get("weight", 0.001))
        self.step_size = number_of("avih", "step_size", options.get("step_size", 0.01), positive=True)
        self.decay = number_of("avih", "decay", options.get("decay", 0.3))
        self.start = options.get("start", "noise")
        if self.start not in ("noise", "photo"):
            raise ValueError(f"avih: start must be noise or photo, got {self.start!r}")

    def fit(self, model: FaceModel, crafting: People, progress: ShowProgress) -> Fitted:
        """Costs nothing: photos are crafted when they are protected."""
        return Obfuscated(self, model, crafting, progress)


class Obfuscated(Fitted):
    """Nothing is kept of a photo: protected again, it is crafted again, to the same bits."""

    made_by: Avih

    def _protect(self, people: People) -> torch.Tensor:
        method = self.made_by
        found = torch.empty_like(people.images)
        with (
            working(self.model, method.seed) as run,
            progress_bar(self.progress, len(found) * method.steps, "avih") as bar,
        ):
            clean = fixed_features(run.network, people.images, run.width)
            self.protecting.clean_passes += len(clean)
            _require_finite(clean, people, "the network has no feature of")
            for start in range(0, len(found), run.width):
                piece = slice(start, min(start + run.width, len(found)))
                x = self._starts(people, piece, run).to(self.model.device)
                x = self._craft(x, clean[piece].to(x), run, bar.advance)
                _require_finite(x.cpu(), people, "no finite gradient of", start)
                found[piece] = (x * 255).round().to(torch.uint8).cpu()
        return found

    def _stored(self) -> int:
        return 0

    def _starts(self, people: People, piece: slice, run: Run) -> torch.Tensor:
        """x' before the first step, [n, 3, H, W]."""
        images = people.images[piece]
        if self.made_by.start == "photo":
            return images.float() / 255
        whose = [people.names[p] for p in people.rows[piece].tolist()]
        purposes = [f"avih {pixels_id(image)}" for image in images]
        streams = [keyed.stream(run.key, name, purpose) for name, purpose in zip(whose, purposes, strict=True)]
        return torch.stack([keyed.uniform(stream, tuple(images.shape[1:])) for stream in streams])

    def _craft(self, x: torch.Tensor, clean: torch.Tensor, run: Run, advance: Callable[[int], object]) -> torch.Tensor:
        """All steps of a few photos, each on its own."""
        method, momentum, count = self.made_by, torch.zeros_like(x), len(x)
        size = torch.full((count, 1, 1, 1), method.step_size).to(x)
        weight, rises = torch.full((count,), method.weight).to(x), torch.zeros(count).to(x)
        before = torch.full((count,), torch.inf).to(x)
        distances = torch.zeros(count).to(x)

        def slope_of(features: torch.Tensor, piece: slice) -> torch.Tensor:
            gap = features - clean[piece]
            distances[piece] = gap.square().sum(1)
            return 2 * gap

        for _ in range(method.steps):
            gradient = slopes(run.network, x, run.width, slope_of)
            variance, slope = ops.block_variance_gradient(x, block=BLOCK, scale=weight)
            momentum = method.decay * momentum + scaled(gradient + slope)
            x = (x - size * momentum).clamp(0, 1)
            loss = distances + weight * variance
            rises += loss > before
            full = rises == _PATIENCE
            size = torch.where(full.view(-1, 1, 1, 1), size * _SHRINK, size)
            rises, before = rises.masked_fill(full, 0), loss
            self.protecting.passes += count
            advance(count)
        return x


def _require_finite(values: torch.Tensor, people: People, what: str, start: int = 0) -> None:
    """ModelError that names the photos of which a value [n, ..] is not finite; start: which photo the first is of."""
    bad = (~values.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        files = ", ".join(people.files[start + i] for i in bad[:5])
        raise ModelError(f"avih: {what} {len(bad)} photos: {files}")
