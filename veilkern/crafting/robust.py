"""Robust veils: what stores and services do to protected photos, done in the craft's steps before the network looks.

The veil is then crafted for the mean over noise, blur, resizing, JPEG and shifts, each photo of each step meeting at
most one of them. What it meets is drawn on the host from a stream of its person (`ChangeDraws`), and goes to the device
with the plan; `Changes` does it there, all photos at once, whatever each of them meets: blur, resizing and shifts are
one matrix for the rows and one for the columns, JPEG is too but for its rounding, noise is that of a keystream of the
person's own. So the host waits for nothing, no sum is made by atomics, and nobody's bits depend on who else is there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from veilkern import ops
from veilkern.crafting.contour import blur_matrix
from veilkern.crafting.noise import nonces_of
from veilkern.crafting.sampler import Plan

SHIFT = 4  # pixels, at most
BLURS = (0.5, 1.0, 1.5, 2.0)  # pixels, sigma
SIDES = tuple(share / 28 for share in range(12, 26))  # of the photo's: 48, 52, .. 100 of 112 pixels
QUALITIES = range(30, 96, 5)  # of JPEG
SIGMA_STEPS = 2**16  # the noise's sigma is drawn in these parts of 1
COLUMNS = 4  # of a plan's changes: matrix of the rows, of the columns, sigma, quality


@dataclass(frozen=True)
class Strength:
    """Shares of the photos that meet each change (the rest meets none), the noise's largest sigma, of pixels in [0, 1],
    and whether it is drawn evenly by its power, sigma squared, and so more often large, or by sigma."""

    noise: float
    resize: float
    blur: float
    jpeg: float
    shift: float
    sigma: float
    by_power: bool


STRENGTHS = {
    "mild": Strength(noise=0.40, resize=0.25, blur=0.05, jpeg=0.10, shift=0.05, sigma=100 / 255, by_power=False),
    "strong": Strength(noise=0.65, resize=0.15, blur=0.05, jpeg=0.05, shift=0.05, sigma=160 / 255, by_power=True),
}

# The matrices of a side, in their order: none, the shifts, the blurs, the sizes by area and by bilinear reading.
_FIRST_BLUR = 1 + 2 * SHIFT + 1
_FIRST_SIDE = _FIRST_BLUR + len(BLURS)


class ChangeDraws:
    """What each photo of one person meets, drawn from her stream: so many numbers a photo, whatever it meets."""

    def __init__(self, generator: np.random.Philox, strength: Strength):
        self.generator, self.strength = generator, strength

    def next(self, steps: int, count: int) -> torch.Tensor:
        """int64 [steps, count, COLUMNS] of the next steps of `count` photos each. A quality of 0 is no JPEG."""
        raw = self.generator.random_raw(steps * count * 4).reshape(steps, count, 4)
        kind, first, second, third = np.moveaxis((raw >> np.uint64(11)) * 2.0**-53, 2, 0)
        strength = self.strength
        shares = (strength.noise, strength.resize, strength.blur, strength.jpeg, strength.shift)
        noise, resize, blur, jpeg, shift = (
            (kind >= low) & (kind < high) for low, high in zip([0, *np.cumsum(shares)], np.cumsum(shares), strict=False)
        )
        rows, columns = np.zeros((2, *kind.shape), dtype=np.int64)
        side = _FIRST_SIDE + (first * 2 * len(SIDES)).astype(np.int64)
        smooth = _FIRST_BLUR + (first * len(BLURS)).astype(np.int64)
        for chosen, row, column in (
            (resize, side, side),
            (blur, smooth, smooth),
            (shift, _shift_of(first), _shift_of(second)),
        ):
            rows, columns = np.where(chosen, row, rows), np.where(chosen, column, columns)
        level = np.sqrt(third) if strength.by_power else third
        sigma = np.where(noise, (level * strength.sigma * SIGMA_STEPS).astype(np.int64), 0)
        quality = np.where(jpeg, QUALITIES[0] + QUALITIES.step * (first * len(QUALITIES)).astype(np.int64), 0)
        return torch.from_numpy(np.stack([rows, columns, sigma, quality], 2))


def _shift_of(drawn: np.ndarray) -> np.ndarray:
    return 1 + (drawn * (2 * SHIFT + 1)).astype(np.int64)


class Changes:
    """Changes photos, float [M, 3, H, W] in [0, 1], as a plan says; differentiable. keys: uint8 [P, 32] of the persons'
    noise. Everything is on the device of `like`, in its dtype."""

    def __init__(self, size: tuple[int, int], keys: torch.Tensor, like: torch.Tensor):
        self.rows, self.columns = (_matrices(side, like) for side in size)
        self.jpeg = Jpeg(size, like)
        self.keys = keys.to(like.device)
        # A row of four values for each value: their sum is the noise.
        self.black = torch.zeros((1, 3, 4 * size[0], size[1]), dtype=torch.uint8, device=like.device)

    def __call__(self, photos: torch.Tensor, plan: Plan, turn: int, piece: slice) -> torch.Tensor:
        """A piece of the photos of turn 0, 1, .. of the plan, changed, in [0, 1]."""
        row, column, sigma, quality = plan.changes[turn, piece].unbind(1)
        seen = separable(self.rows[row][:, None], photos, self.columns[column][:, None])
        seen = torch.where(quality.view(-1, 1, 1, 1) > 0, self.jpeg(seen, quality), seen)
        noise = self._noise(plan.person[piece], plan.sample[piece], plan.first + turn).to(photos.dtype)
        return (seen + (sigma / SIGMA_STEPS).to(photos.dtype).view(-1, 1, 1, 1) * noise).clamp(0, 1)

    def _noise(self, person: torch.Tensor, sample: torch.Tensor, step: int) -> torch.Tensor:
        """Noise of mean 0 and variance 1 [M, 3, H, W]: four uniform numbers of 7 bits added up, which is near a normal
        distribution (no value beyond 3.4) and the same to the bit on every device."""
        shape = self.black.shape[1:]
        # Black photos under black veils, sealed with 128 levels: 7 bits of the keystream each.
        drawn = ops.seal(
            self.black.expand(len(person), *shape),
            self.black.expand(len(self.keys), *shape),
            person,
            self.keys,
            nonces_of(step, sample, 0),
            levels=128,
            rounds=12,
        )
        parts = drawn.view(len(person), 3, 4, shape[1] // 4, shape[2]).unbind(2)
        total = parts[0].to(torch.int32) + parts[1] + parts[2] + parts[3]
        return (total - 254) / (4 * (128**2 - 1) / 12) ** 0.5


class Jpeg:
    """What JPEG does to photos, float [M, 3, H, W] in [0, 1]: YCbCr, colour at half the size, the cosine transform of
    blocks of 8 x 8, and its rounding, which passes slopes on as if it were none."""

    def __init__(self, size: tuple[int, int], like: torch.Tensor):
        # Of each side: from pixels to coefficients and back, of luma and of colour.
        self.luma, self.colour = ([_blocks(side, half).to(like) for side in size] for half in (False, True))
        self.luma_back, self.colour_back = ([_back(side, half).to(like) for side in size] for half in (False, True))
        tables = torch.stack([_tables(quality) for quality in QUALITIES])
        self.luma_steps, self.colour_steps = (
            tables[:, i, None].repeat(1, 1, *(len(m) // 8 for m in kind)).to(like)
            for i, kind in enumerate((self.luma, self.colour))
        )

    def __call__(self, photos: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
        """quality: int64 [M], of QUALITIES; what is none is taken for the lowest."""
        place = (quality - QUALITIES[0]).clamp_min(0) // QUALITIES.step
        red, green, blue = (255 * photos).unbind(1)
        y = 0.299 * red + 0.587 * green + 0.114 * blue
        colour = torch.stack([(blue - y) / 1.772, (red - y) / 1.402], 1)
        y = self._rounded(y[:, None] - 128, self.luma, self.luma_steps[place], self.luma_back)[:, 0] + 128
        cb, cr = self._rounded(colour, self.colour, self.colour_steps[place], self.colour_back).unbind(1)
        red, blue = y + 1.402 * cr, y + 1.772 * cb
        green = (y - 0.299 * red - 0.114 * blue) / 0.587
        return torch.stack([red, green, blue], 1) / 255

    @staticmethod
    def _rounded(
        planes: torch.Tensor, there: list[torch.Tensor], steps: torch.Tensor, back: list[torch.Tensor]
    ) -> torch.Tensor:
        found = separable(there[0], planes, there[1]) / steps
        found = found + (found.round() - found).detach()
        return separable(back[0], found * steps, back[1])


def separable(rows: torch.Tensor, planes: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """rows @ planes @ columns^T, of the last two axes."""
    return rows @ planes @ columns.mT


def _matrices(side: int, like: torch.Tensor) -> torch.Tensor:
    """All matrices [K, side, side] that a plan's numbers of rows or columns choose from."""
    exact = torch.empty(0, dtype=torch.float64)
    place = torch.arange(side)
    shifts = [torch.eye(side, dtype=torch.float64)[(place + by).clamp(0, side - 1)] for by in range(-SHIFT, SHIFT + 1)]
    blurs = [blur_matrix(side, sigma, like=exact) for sigma in BLURS]
    small = [max(1, round(share * side)) for share in SIDES]
    sizes = [_bilinear(n, side) @ down(side, n) for down in (_area, _bilinear) for n in small]
    return torch.stack([torch.eye(side, dtype=torch.float64), *shifts, *blurs, *sizes]).to(like)


def _area(source: int, target: int) -> torch.Tensor:
    """[target, source]: each target value is the mean of what it covers."""
    edges = torch.arange(target + 1, dtype=torch.float64) * source / target
    low, high = torch.arange(source, dtype=torch.float64), torch.arange(1, source + 1, dtype=torch.float64)
    covered = torch.minimum(edges[1:, None], high) - torch.maximum(edges[:-1, None], low)
    return covered.clamp_min(0) * target / source


def _bilinear(source: int, target: int) -> torch.Tensor:
    """[target, source]: each target value is read between the two source values around its centre."""
    centre = ((torch.arange(target, dtype=torch.float64) + 0.5) * source / target - 0.5).clamp(0, source - 1)
    return (1 - (centre[:, None] - torch.arange(source, dtype=torch.float64)).abs()).clamp_min(0)


def _cosine_transform(side: int) -> torch.Tensor:
    """The orthonormal cosine transform of each 8 of `side` values, [side, side]."""
    k = torch.arange(8, dtype=torch.float64)
    block = torch.cos((2 * k + 1) * k[:, None] * torch.pi / 16) / 2
    block[0] /= 2**0.5
    return torch.block_diag(*[block] * (side // 8))


def _padded_side(side: int) -> int:
    return -(-side // 16) * 16


def _blocks(side: int, half: bool) -> torch.Tensor:
    """From a side's values to coefficients: the last value repeated up to whole blocks, pairs averaged where half."""
    whole = _padded_side(side)
    pad = torch.eye(side, dtype=torch.float64)[torch.arange(whole).clamp_max(side - 1)]
    pairs = _area(whole, whole // 2) if half else torch.eye(whole, dtype=torch.float64)
    return _cosine_transform(len(pairs)) @ pairs @ pad


def _back(side: int, half: bool) -> torch.Tensor:
    """From coefficients to a side's values; where half, each value of half the size is there twice."""
    whole = _padded_side(side) // (2 if half else 1)
    values = _cosine_transform(whole).T
    return (values.repeat_interleave(2, 0) if half else values)[:side]


def _tables(quality: int) -> torch.Tensor:
    """The rounding steps of luma and colour at a quality, [2, 8, 8] (ITU-T T.81, annex K; scaled as libjpeg does)."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = torch.tensor([_LUMA, _COLOUR], dtype=torch.int64)
    return ((steps * scale + 50) // 100).clamp(1, 255).view(2, 8, 8).double()


_LUMA = [
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
]  # fmt: skip
_COLOUR = [
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99,
    99, 99, 99, *[99] * 32,
]  # fmt: skip
