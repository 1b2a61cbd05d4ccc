"""Residual contour: what a blurred eye still makes out of a photo in its protected form, and how craft fades it.

The contour of a photo x in its protected form x' is rho, the Pearson correlation of their blurred lumas. Luma and blur
are linear: with b the blurred luma of the photo and c that of the veil, less their means, that of x' is
y = alpha b + (1 - alpha) c. So photos are blurred once, and a step blurs one plane a person, whatever her photos.
"""

from __future__ import annotations

import torch

from veilkern.crafting.sums import sums_in_order

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
SIGMA = 2.0  # pixels, of the blur that craft watches
STRIDE = 2  # craft looks at every second pixel: of the frequencies that this loses the blur leaves under 1 %
CHUNK = 64  # photos in float at a time


def blur_matrix(side: int, sigma: float, stride: int = 1, *, like: torch.Tensor) -> torch.Tensor:
    """Gaussian blur of `side` values, of which every stride-th is kept: [ceil(side / stride), side], dtype of `like`.

    The window reaches 4 sigma to either side (at most `side` - 1), borders are reflected without their last pixel.
    The transpose is the exact adjoint.
    """
    radius = min(int(4 * sigma + 0.5), side - 1)
    place = torch.arange(-radius, radius + 1)
    taps = torch.exp(-place.double().square() / (2 * sigma**2))
    kept = torch.arange(0, side, stride)
    source = (kept[:, None] + place).abs()
    source = torch.minimum(source, 2 * (side - 1) - source)
    matrix = torch.zeros(len(kept), side, dtype=torch.float64)
    return matrix.scatter_add_(1, source, (taps / taps.sum()).expand(len(kept), -1)).to(like)


def blurred_luma(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Blurred luma [N, h, w] of float images [N, 3, H, W]; rows [h, H] and columns [w, W] are of blur_matrix."""
    red, green, blue = images.unbind(1)
    luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    return rows @ luma @ columns.T


def _shape_seen(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Blurred luma less its mean, [N, h w]."""
    plane = blurred_luma(images, rows, columns).flatten(1)
    return plane - plane.mean(1, keepdim=True)


def contour(x: torch.Tensor, y: torch.Tensor, sigma: float = SIGMA) -> torch.Tensor:
    """Residual contour [N] of float images x and y [N, 3, H, W] in [0, 1]: the Pearson correlation of their lumas after
    a Gaussian blur of `sigma` pixels; negative means a photographic negative. 0 where one is flat."""
    rows, columns = (blur_matrix(side, sigma, like=x) for side in x.shape[2:])
    a, b = (_shape_seen(images, rows, columns) for images in (x, y))
    scale = a.norm(dim=1) * b.norm(dim=1)
    return torch.where(scale > _flat(a), (a * b).sum(1) / scale, torch.zeros_like(scale))


def _flat(planes: torch.Tensor) -> float:
    """||plane||^2 up to which planes [N, S] of pixels in [0, 1] are flat: 1e-6 rms, some roundings of float32."""
    return planes.shape[1] * 1e-12


class ContourLoss:
    """L_con of some persons' veils and its slope, in closed form.

    L_con = mean over the person's photos of rho^4, plus rho^4 of her mean photo (which stands for photos that are not
    here). The fourth power leaves small contours alone and takes hold of the worst.

    images: uint8 [N, 3, H, W]; offsets: int64 [P + 1] on the CPU, person p's photos are offsets[p]:offsets[p + 1], at
    least one; blend: a of alpha = a / 255. Works on the device of images, in `dtype` (float32 or float64), adds in a
    fixed order and keeps persons apart: nobody's bits depend on who else is here.
    """

    def __init__(self, images: torch.Tensor, offsets: torch.Tensor, blend: int, dtype: torch.dtype = torch.float32):
        device, self.alpha = images.device, blend / 255
        like = torch.empty(0, dtype=dtype, device=device)
        self.rows, self.columns = (blur_matrix(side, SIGMA, STRIDE, like=like) for side in images.shape[2:])
        planes = torch.cat([_shape_seen(part.to(dtype) / 255, self.rows, self.columns) for part in images.split(CHUNK)])
        counts, parts = offsets.diff(), []
        for part in planes.split(counts.tolist()):
            parts += [part, part.mean(0, keepdim=True)]
        self.planes = torch.cat(parts)  # of each person: her photos, then her mean photo
        self.energy = self.planes.square().sum(1)
        self.person = torch.repeat_interleave(torch.arange(len(counts)), counts + 1).to(device)
        share = torch.cat([torch.tensor([1 / n] * n + [1.0], dtype=dtype) for n in counts.tolist()])
        self.share = share.to(device)
        self.offsets = (offsets + torch.arange(len(offsets))).to(device)
        self.order = torch.arange(len(self.planes), device=device)

    def __call__(self, veils: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """L_con [P] of veils [P, 3, H, W] in [0, 1], and the person's mean of dL_con / dx' [P, 3, H, W].

        The slope with respect to the veil is (1 - alpha) times that, as it is for L_fea.
        """
        alpha, beta = self.alpha, 1 - self.alpha
        veil = _shape_seen(veils, self.rows, self.columns)
        own = alpha**2 * self.energy, beta**2 * veil.square().sum(1)[self.person]
        dot = (self.planes * veil[self.person]).sum(1)
        energy = own[0] + 2 * alpha * beta * dot + own[1]  # ||y||^2
        # Where nothing is to be seen (the photo or x' is flat; 1e-5: what is left of a sum that cancels) rho is 0.
        seen = (self.energy > _flat(self.planes)) & (energy > _flat(self.planes)) & (energy > 1e-5 * (own[0] + own[1]))
        inverse = torch.where(seen, 1 / energy, torch.zeros_like(energy))
        scale = (inverse / self.energy.clamp_min(_flat(self.planes))).sqrt()  # 1 / (||b|| ||y||)
        rho = (alpha * self.energy + beta * dot) * scale
        # d rho / dy = b / (||b|| ||y||) - rho y / ||y||^2, gathered by what multiplies b and c.
        steep = 4 * self.share * rho**3
        of_photos = self._sum(self.planes, steep * (scale - alpha * rho * inverse))
        figures = torch.stack([self.share * rho**4, beta * steep * rho * inverse], 1)
        loss, of_veil = self._sum(figures, torch.ones_like(rho)).unbind(1)
        plane = (of_photos - of_veil[:, None] * veil).view(len(veils), len(self.rows), len(self.columns))
        slope = self.rows.T @ plane @ self.columns
        return loss, torch.stack([weight * slope for weight in LUMA], 1)

    def _sum(self, values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Sums [P, k] of each person's rows of values [R, k], weighted."""
        return sums_in_order(values, self.order, self.offsets, weights)
