"""contour: the correlation of the blurred lumas of two photos, and the loss L_con that craft makes of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def blurred_luma(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Luma [N, H, W] of float RGB images [N, 3, H, W] after a Gaussian blur of `sigma` pixels, borders reflected."""
    luma = torch.einsum("nchw,c->nhw", images, images.new_tensor((0.299, 0.587, 0.114))).unsqueeze(1)
    height, width = images.shape[2:]
    for side, shape, pad in ((height, (1, 1, -1, 1), (0, 0, 1, 1)), (width, (1, 1, 1, -1), (1, 1, 0, 0))):
        radius = min(int(4 * sigma + 0.5), side - 1)
        place = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
        taps = torch.exp(-place.square() / (2 * sigma**2))
        luma = F.conv2d(F.pad(luma, [radius * p for p in pad], mode="reflect"), (taps / taps.sum()).view(shape))
    return luma.squeeze(1)


def contour(x: torch.Tensor, y: torch.Tensor, sigma: float, stride: int = 1) -> torch.Tensor:
    """Pearson correlation [N] of the blurred lumas of x and y, float [N, 3, H, W], at every stride-th pixel."""
    a, b = (blurred_luma(images, sigma)[:, ::stride, ::stride].flatten(1) for images in (x, y))
    return F.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True), dim=1, eps=1e-12)


def contour_loss(
    images: torch.Tensor, veils: torch.Tensor, offsets: torch.Tensor, blend: int, sigma: float = 2.0, stride: int = 2
) -> torch.Tensor:
    """L_con [P]: mean over the person's photos of contour(x, x')^4, plus that of her mean photo. images uint8
    [N, 3, H, W], veils float [P, 3, H, W]; differentiable with respect to veils."""
    alpha, losses = blend / 255, []
    for p, photos in enumerate(images.split(offsets.diff().tolist())):
        photos = photos.to(veils.dtype) / 255
        for part in (photos, photos.mean(0, keepdim=True)):
            rho = contour(part, alpha * part + (1 - alpha) * veils[p], sigma, stride)
            losses.append(rho.pow(4).mean())
    return torch.stack(losses).view(-1, 2).sum(1)
