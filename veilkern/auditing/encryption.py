"""The tests of the image-encryption field on sealed photos: is what the veil hides noise, and only the key's?

Each figure stands beside what ideal noise would give, and z, by how many standard deviations of ideal noise it misses
that; beyond 3.3 (one run of ideal noise in a thousand) it is not fine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from veilkern import ops
from veilkern.auditing.case import Case, protected_photos, residues, sealing
from veilkern.evaluate import metrics
from veilkern.ops._checks import CARRIERS
from veilkern.veils.sealing import fresh_nonces

MOST = 200  # photos
BEYOND = 3.3


@dataclass(frozen=True)
class FieldTest:
    """One test: value, what ideal noise gives (`expected`), z (NaN where nothing is random: then it must be equal)."""

    name: str
    title: str
    value: float
    expected: float
    z: float = math.nan
    note: str = ""

    @property
    def fine(self) -> bool:
        """Whether the value is what it should be."""
        return abs(self.z) <= BEYOND if math.isfinite(self.z) else self.value <= self.expected * (1 + 1e-9)


def field_tests(case: Case) -> list[FieldTest]:
    """All tests, on at most MOST of the case's photos; none where photos are blended."""
    if not case.sealed:
        return []
    total = len(case.rows)
    chosen = torch.linspace(0, total - 1, min(MOST, total), dtype=torch.float64).round().long()
    photos, rows, veils = case.people.images[chosen], case.rows[chosen], case.veils[chosen]
    u = residues(case.protected[chosen], veils, case.bank.levels)
    return [*_noise(u, photos, case.bank.levels), *_changes(case, u, photos, rows), *_keys(case, chosen)]


def _noise(u: torch.Tensor, photos: torch.Tensor, levels: int) -> list[FieldTest]:
    """Entropy, chi-square and correlation of neighbours of residues [n, 3, H, W]."""
    n, values = len(u), u[0].numel()
    counts = torch.stack([torch.bincount(one.flatten().long(), minlength=levels) for one in u]).double()
    share = counts / values
    entropy = -(share * share.clamp_min(1e-300).log2()).sum(1).mean().item()
    ideal = math.log2(levels) - (levels - 1) / (2 * values * math.log(2))  # of that many values
    spread = math.sqrt(2 * (levels - 1)) / (2 * values * math.log(2))
    chi = ((counts - values / levels).square() / (values / levels)).sum(1).mean().item()
    found = [
        _test("entropy", "entropy of the residue, bits", entropy, ideal, spread / math.sqrt(n)),
        _test("chi_square", "chi-square against uniform", chi, levels - 1, math.sqrt(2 * (levels - 1) / n)),
    ]
    for name, (a, b) in {"horizontal": (0, 1), "vertical": (1, 0), "diagonal": (1, 1)}.items():
        pairs, clean = _neighbours(u, a, b), _neighbours(photos, a, b)
        count = max(1, n * 3 * (u.shape[2] - a) * (u.shape[3] - b))
        title = f"correlation of {name} neighbours"
        found.append(_test(f"correlation_{name}", title, pairs, 0.0, count**-0.5, f"of the photos: {clean:.3f}"))
    return found


def _neighbours(images: torch.Tensor, down: int, right: int) -> float:
    """Correlation of values with those so many places further, mean over photos and channels; 0 where flat. A photo one
    pixel wide or high has no neighbours that way: 0 too."""
    height, width = images.shape[2:]
    one = images[:, :, : height - down, : width - right].double().flatten(2)
    other = images[:, :, down:, right:].double().flatten(2)
    one, other = one - one.mean(2, keepdim=True), other - other.mean(2, keepdim=True)
    scale = one.norm(dim=2) * other.norm(dim=2)
    return ((one * other).sum(2) / torch.where(scale > 0, scale, 1.0)).mean().nan_to_num().item()


def _changes(case: Case, u: torch.Tensor, photos: torch.Tensor, rows: torch.Tensor) -> list[FieldTest]:
    """NPCR and UACI: of the same photo sealed again, and of one with one bit changed, with and without its nonce."""
    levels, veils = case.bank.levels, case.bank.veils[rows]

    def sealed(images: torch.Tensor, nonces: torch.Tensor | None = None) -> torch.Tensor:
        return residues(protected_photos(images, case.bank, rows, case.key, nonces), veils, levels)

    changed, middle = photos.clone(), [side // 2 for side in photos.shape[2:]]
    changed[:, 1, middle[0], middle[1]] ^= 128
    nonces = fresh_nonces(len(photos), photos.device)
    first, other = sealed(photos, nonces), sealed(changed, nonces)
    same = (first != other).double().mean().item()
    return [
        *_pair("reseal", "sealed again", u, first, levels),
        *_pair("changed_bit", "one bit changed", u, sealed(changed), levels),
        FieldTest(
            "npcr_same_nonce",
            "NPCR, one bit changed, same nonce",
            same,
            1 / u[0].numel(),
            note="a nonce used twice shows which values changed: each seal draws a fresh one",
        ),
    ]


def _pair(name: str, title: str, u: torch.Tensor, other: torch.Tensor, levels: int) -> list[FieldTest]:
    """NPCR (share of values that differ) and UACI (mean difference, of the largest possible) of two residues."""
    count = u.numel()
    far = (u.int() - other.int()).abs().double()
    differ, ideal = (far > 0).double().mean().item(), 1 - 1 / levels
    mean, square = (levels**2 - 1) / (3 * levels), (levels**2 - 1) / 6
    spread = math.sqrt((square - mean**2) / count) / (levels - 1)
    return [
        _test(f"npcr_{name}", f"NPCR, {title}", differ, ideal, math.sqrt(ideal * (1 - ideal) / count)),
        _test(f"uaci_{name}", f"UACI, {title}", far.mean().item() / (levels - 1), mean / (levels - 1), spread),
    ]


def _keys(case: Case, chosen: torch.Tensor) -> list[FieldTest]:
    """Unseal with the right key, and with one of which one bit is changed."""
    rows, bank, photos = case.rows[chosen], case.bank, case.people.images[chosen]
    keys, levels, rounds, _ = sealing(bank, rows, case.key)
    wrong = keys.clone()
    wrong[:, -1] ^= 1
    right, opened = (
        ops.unseal(case.protected[chosen], bank.veils, rows, k, levels=levels, rounds=rounds) for k in (keys, wrong)
    )
    wrong.zero_()
    error = (photos.int() - right.int()).abs()
    values = right[0].numel()
    ideal = 1 - ((values - CARRIERS) / levels + CARRIERS * 2 / levels) / values
    spread = math.sqrt(ideal * (1 - ideal) / right.numel())
    ssim = metrics.ssim(opened, photos).mean().item()
    return [
        _test(
            "npcr_wrong_key",
            "NPCR, opened with one bit of the key changed",
            (right != opened).double().mean().item(),
            ideal,
            spread,
            f"SSIM to the original {ssim:.4f}",
        ),
        FieldTest("max_error", "largest error with the right key", float(error.max()), 256 / levels),
    ]


def _test(name: str, title: str, value: float, expected: float, spread: float, note: str = "") -> FieldTest:
    return FieldTest(name, title, value, expected, (value - expected) / spread, note)
