"""The learned inverter: a small U-Net that an attacker trains on other people's protected photos."""

from __future__ import annotations

import time

import torch
from torch import nn
from torch.nn import functional

from veilkern import ops
from veilkern.auditing.attacks import Output
from veilkern.auditing.case import Case, NotPossibleError, mean_by_person, protected_photos, residues, to_bytes

WIDTH, BATCH, RATE = 24, 8, 2e-3
SIDES = 4  # photos are padded to a multiple of it: two halvings


class UNet(nn.Module):
    """Float [n, channels, H, W] -> photo [n, 3, H, W]: three scales, two convolutions each, joined across."""

    def __init__(self, channels: int, width: int = WIDTH):
        super().__init__()
        self.down = nn.ModuleList(
            [_block(channels, width), _block(width, 2 * width, stride=2), _block(2 * width, 4 * width, stride=2)]
        )
        self.up = nn.ModuleList([_block(6 * width, 2 * width), _block(3 * width, width)])
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Photos in about 0 .. 1."""
        height, width = x.shape[2:]
        x = functional.pad(x, (0, -width % SIDES, 0, -height % SIDES), mode="replicate")
        levels = []
        for block in self.down:
            x = block(x)
            levels.append(x)
        x = levels.pop()
        for block in self.up:
            x = block(torch.cat([functional.interpolate(x, scale_factor=2.0), levels.pop()], 1))
        return self.last(x)[:, :, :height, :width] + 0.5


def learned_inverter(case: Case, minutes: float) -> Output:
    """A U-Net learns on half of the people to make originals of protected photos, then opens those of the other half;
    and the other way round, so that every photo is opened by one that never saw its person. Half of the time each.

    The attacker has protected photos of other people with their originals (and the gallery's under those people's
    veils, who can be anybody's confederates), the average of the victim's protected photos, and where photos are
    sealed the veil, so that the residue is among what the network is given.
    """
    if len(case.people) < 2:
        raise NotPossibleError("not possible with one person: it learns on other people")
    order = torch.randperm(len(case.people), generator=case.generator(2))
    averages, opened = _averages(case), torch.zeros_like(case.protected)
    for fold, victims in enumerate(order.chunk(2)):
        mine = torch.isin(case.people.rows, victims).nonzero().flatten()
        network = _trained(case, ~torch.isin(case.people.rows, victims), averages, minutes / 2, fold)
        with torch.no_grad():
            for part in mine.split(BATCH):
                given = _inputs(case, case.protected[part], case.rows[part], averages)
                opened[part] = to_bytes(255 * network(given.to(case.device)).cpu())
    return Output(torch.arange(len(case.rows)), {"opened": opened})


def _averages(case: Case) -> torch.Tensor:
    """The average protected photo of each veil row, float32 [P, 3, H, W], zero for persons who are not here."""
    found = torch.zeros(case.bank.veils.shape)
    found[case.bank.rows(case.people.names)] = mean_by_person(case.protected, case.people)
    return found


def _inputs(case: Case, protected: torch.Tensor, rows: torch.Tensor, averages: torch.Tensor) -> torch.Tensor:
    """What the network is given, float32 [n, 6 or 9, H, W] of about -1 .. 1: the protected photo, the same less the
    average (times what the scheme divides a photo by), and the residue where photos are sealed."""
    values = protected.float()
    parts = [values / 255 - 0.5, case.gain * (values - averages[rows]) / 255]
    if case.sealed:
        parts.append(residues(protected, case.bank.veils[rows], case.bank.levels) / case.bank.levels - 0.5)
    return torch.cat(parts, 1)


def _trained(case: Case, known: torch.Tensor, averages: torch.Tensor, minutes: float, fold: int) -> UNet:
    """A U-Net after `minutes`, at least one step, on the photos of the mask `known` and on the gallery's under the same
    veils."""
    photos, rows, targets = case.protected[known], case.rows[known], case.people.images[known]
    generator = case.generator(3 + fold)
    if case.gallery is not None and len(case.gallery):
        wearers = rows.unique()
        worn_by = wearers[torch.randint(len(wearers), (len(case.gallery),), generator=generator)]
        worn = protected_photos(case.gallery, case.bank, worn_by, case.key)
        photos, rows = torch.cat([photos, worn]), torch.cat([rows, worn_by])
        targets = torch.cat([targets, case.gallery])
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        network = UNet(9 if case.sealed else 6).to(case.device)
    optimiser = torch.optim.Adam(network.parameters(), RATE)
    end = time.monotonic() + 60 * minutes
    while True:
        pick = torch.randint(len(photos), (BATCH,), generator=generator)
        given = _inputs(case, photos[pick], rows[pick], averages).to(case.device)
        loss = _loss(network(given), targets[pick].to(case.device).float() / 255)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if time.monotonic() >= end:
            return network.eval()


def _loss(made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Absolute difference, and what SSIM lacks of 1: what the audit measures is what the attacker trains for."""
    window = min(11, *((side - 1) // 2 * 2 + 1 for side in made.shape[2:]))
    similar = ops.ssim(made.contiguous(), wanted.contiguous(), window=window).mean()
    return (made - wanted).abs().mean() + 0.5 * (1 - similar)


def _block(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=stride, padding=1),
        nn.GroupNorm(4, width),
        nn.SiLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.GroupNorm(4, width),
        nn.SiLU(),
    )
