"""How much an output is like the photo it was made from, and how much like other people's photos: chance."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from veilkern.auditing.attacks import Output
from veilkern.auditing.case import Case
from veilkern.evaluate import metrics

OTHERS = 11  # photos of other people that each output is compared with, at most
SIGMA = 2.0  # of the contour, pixels


@dataclass(frozen=True)
class Scores:
    """Of n outputs: SSIM and signed contour, float64, against the own original [n] and others' [n, K]. best: the
    variant that lies most above chance."""

    ssim: torch.Tensor
    ssim_others: torch.Tensor
    contour: torch.Tensor
    contour_others: torch.Tensor
    best: str


def strangers_of(case: Case) -> torch.Tensor:
    """Numbers of K photos of other people for each photo, int64 [N, K], K up to OTHERS, one of a person.

    Persons stand in a circle in a drawn order, and photos of each in a drawn order; photo k of a person meets photo k
    of the next K persons. So every photo is met about as often as any: a photo that is like everything is no more often
    among the others than among the own.
    """
    people, generator = case.people, case.generator(1)
    total = len(people)
    circle = torch.randperm(total, generator=generator)
    place = torch.empty_like(circle)
    place[circle] = torch.arange(total)
    order = torch.cat([torch.randperm(n, generator=generator) for n in people.counts.tolist()])
    number = torch.arange(len(people.rows)) - people.offsets[people.rows]
    columns = []
    for step in range(1, min(OTHERS, total - 1) + 1):
        other = circle[(place[people.rows] + step) % total]
        columns.append(people.offsets[other] + order[people.offsets[other] + (number + step) % people.counts[other]])
    return torch.stack(columns, 1) if columns else torch.empty(len(people.rows), 0, dtype=torch.int64)


def score(case: Case, output: Output, strangers: torch.Tensor) -> Scores:
    """Compare every variant with the own original and with those of `strangers` [N, K]; each comparison, own or not,
    keeps its highest SSIM and its largest contour of all variants."""
    targets = torch.cat([output.photos[:, None], strangers[output.photos]], 1)  # [n, 1 + K]
    planes = _shapes(case.people.images)
    ssim, contour, above = [], [], {}
    for name, images in output.variants.items():
        ssim.append(torch.stack([metrics.ssim(images, case.people.images[column]) for column in targets.T], 1))
        own = _shapes(images)
        contour.append(torch.stack([(own * planes[column]).sum(1) for column in targets.T], 1))
        above[name] = (ssim[-1][:, 0].mean() - ssim[-1][:, 1:].mean()).item()
    highest, largest = torch.stack(ssim).amax(0), torch.stack(contour)
    largest = largest.gather(0, largest.abs().argmax(0, keepdim=True))[0]
    best = max(above, key=lambda name: above[name])
    return Scores(highest[:, 0], highest[:, 1:], largest[:, 0], largest[:, 1:], best)


def _shapes(images: torch.Tensor) -> torch.Tensor:
    """Blurred luma without its mean and of length 1, [n, H W]: the product of two is their contour (metrics.contour);
    zero where a photo is flat, as there."""
    planes = torch.cat([metrics.blurred_luma(part, SIGMA).flatten(1) for part in images.split(metrics.CHUNK)])
    planes = planes - planes.mean(1, keepdim=True)
    size = planes.norm(dim=1, keepdim=True)
    return torch.where(size > 1e-3, planes / size, torch.zeros_like(planes))
