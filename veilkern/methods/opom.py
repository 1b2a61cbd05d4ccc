"""A mask a person against recognition: OPOM, the opposite aim."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from veilkern import ops
from veilkern.crafting.features import fixed_features
from veilkern.crafting.run import Run
from veilkern.data.people import People
from veilkern.methods.method import Fitted, Method, ShowProgress, number_of, working
from veilkern.methods.slopes import scaled, slopes
from veilkern.networks.face_model import FaceModel
from veilkern.progress import Progress, progress_bar
from veilkern.veils import keyed

IN_FLIGHT = 64  # photos of a step that persons are taken together for


class Opom(Method):
    """`opom`: one mask d of a person that nobody sees and that keeps networks from recognising her: x' = clip(x + d),
    |d| <= epsilon, that maximises the mean distance of F(x + d) to the convex hull of the person's clean features (eq.
    6 and 7 with the other sign). Its figure is the rate of evasion, 1 - rank-1.

    After Zhong and Deng, "OPOM: Customized Invisible Cloak towards Face Privacy Protection" (TPAMI 2022), the form with
    the convex hull, and the settings that its code was published with: epsilon 8/255, 16 steps d += size sign(g), g the
    mean slope of all the person's photos, size 1/255, a random start in the ball, of which the first `centre_steps`, 5,
    go away from the class centre: inside of the hull there is no slope. Options epsilon, step_size, centre_steps, and
    decay: of the momentum of MI-FGSM, published without (0). The start is one noise a person, keyed by the seed, where
    theirs is another for each photo; the mask is rounded to whole levels. Its dropout against other networks (DFANet)
    is out of scope.

    Nothing is recovered: x' - d is x wherever x + d was not clipped, but nobody who sees a face needs it back, and no
    bound is promised.
    """

    name = "opom"
    scope = "person"
    aim = "evade"
    recovers = False
    OPTIONS = ("epsilon", "step_size", "centre_steps", "decay")

    def prepare(self, steps: int | None, options: dict[str, Any]) -> None:
        self.steps = 16 if steps is None else steps
        self.epsilon = number_of("opom", "epsilon", options.get("epsilon", 8 / 255), positive=True)
        self.step_size = number_of("opom", "step_size", options.get("step_size", 1 / 255), positive=True)
        self.decay = number_of("opom", "decay", options.get("decay", 0.0))
        self.centre_steps = options.get("centre_steps", 5)
        if isinstance(self.centre_steps, bool) or not isinstance(self.centre_steps, int):
            raise TypeError(f"opom: centre_steps must be an integer, got {self.centre_steps!r}")
        if self.centre_steps < 0:
            raise ValueError(f"opom: centre_steps must be 0 or more, got {self.centre_steps}")
        if not 1 / 255 <= self.epsilon <= 1:
            raise ValueError(f"opom: epsilon must lie in 1/255 .. 1, a level and all, got {self.epsilon}")

    def fit(self, model: FaceModel, crafting: People, progress: ShowProgress) -> Fitted:
        return Masked(self, model, crafting, progress)


class Masked(Fitted):
    """masks: int16 [P, 3, H, W] in levels, of the persons in `names`; zeros of who failed, and who is not protected."""

    made_by: Opom

    def __init__(self, method: Opom, model: FaceModel, crafting: People, progress: ShowProgress):
        super().__init__(method, model, crafting, progress)
        with (
            self.fitting.timed(),
            working(model, method.seed) as run,
            progress_bar(progress, len(crafting) * method.steps, "opom") as bar,
        ):
            parts = [self._craft(crafting.take(photos), run, bar) for photos in _groups(crafting)]
        self.masks = torch.cat(parts)
        self.require_somebody()

    def _craft(self, people: People, run: Run, bar: Progress) -> torch.Tensor:
        """The masks of a few persons, all photos of each in every step."""
        method, device, most = self.made_by, self.model.device, int(people.counts.max())
        photos, rows = (people.images.float() / 255).to(device), people.rows.to(device)
        clean = fixed_features(run.network, people.images, run.width).to(device)
        self.fitting.clean_passes += len(clean)
        start = [keyed.uniform(keyed.stream(run.key, name, "opom"), photos.shape[1:]) for name in people.names]
        mask = method.epsilon * (2 * torch.stack(start).to(device) - 1)
        momentum, offsets = torch.zeros_like(mask), people.offsets.to(device)
        for step in range(method.steps):
            subspace = "centre" if step < method.centre_steps else "convex"

            def slope_of(features: torch.Tensor, piece: slice, subspace: str = subspace) -> torch.Tensor:
                own = torch.bincount(rows[piece], minlength=len(people)).cumsum(0)
                own = torch.cat([own.new_zeros(1), own])
                _, _, slope = ops.hull_distance(
                    features, clean, own, clean_offsets=offsets, subspace=subspace, width=most
                )
                return slope

            slope = slopes(run.network, (photos + mask[rows]).clamp(0, 1), run.width, slope_of)
            gradient = torch.stack([part.mean(0) for part in slope.split(people.counts.tolist())])
            momentum = method.decay * momentum + scaled(gradient)
            mask = (mask + method.step_size * momentum.sign()).clamp(-method.epsilon, method.epsilon)
            self.fitting.passes += len(photos)
            bar.advance(len(people))
        self._see(people, clean.cpu(), momentum.cpu())
        limit = int(method.epsilon * 255 + 1e-9)
        levels = (mask.cpu() * 255).round().clamp(-limit, limit).to(torch.int16)
        levels[[name in self.failed for name in people.names]] = 0
        return levels

    def _see(self, people: People, clean: torch.Tensor, momentum: torch.Tensor) -> None:
        """Note who failed: what is not a number stays so, from the first step to the last."""
        for p, name in enumerate(people.names):
            own = clean[people.offsets[p] : people.offsets[p + 1]]
            bad = (~own.isfinite().all(1)).nonzero().flatten().tolist()
            if bad:
                self.failed[name] = f"the network has no feature of {people.files[int(people.offsets[p]) + bad[0]]}"
            elif not bool(momentum[p].isfinite().all()):
                self.failed[name] = "the gradient was not finite"

    def _protect(self, people: People) -> torch.Tensor:
        place = {name: row for row, name in enumerate(self.names)}
        rows = torch.tensor([place[name] for name in people.names])[people.rows]
        parts = zip(people.images.split(IN_FLIGHT), rows.split(IN_FLIGHT), strict=True)
        return torch.cat([(x.to(torch.int16) + self.masks[own]).clamp(0, 255).to(torch.uint8) for x, own in parts])


def _groups(people: People) -> list[range]:
    """The photos of persons that are crafted together: IN_FLIGHT of them, or one person's."""
    marks, first = people.offsets.tolist(), 0
    found = []
    for begin, end in itertools.pairwise(marks):
        if begin > first and end - first > IN_FLIGHT:
            found.append(range(first, begin))
            first = begin
    return [*found, range(first, marks[-1])]
