"""ssim in plain PyTorch."""

from __future__ import annotations

import torch

from veilkern import reference
from veilkern.reference.ssim import blurs


def ssim(x, y, window, sigma, borders, data_range, scale, gradient_x, gradient_y):
    """Launcher of `ssim`: returns the score and writes each gradient that is not None."""
    with torch.no_grad():
        if gradient_x is None and gradient_y is None:
            return reference.ssim(x, y, window=window, sigma=sigma, borders=borders, data_range=data_range)
        return _score_and_gradients(x, y, *blurs(x, window, sigma, borders), data_range, scale, gradient_x, gradient_y)


def _score_and_gradients(x, y, blur, back, data_range, scale, gradient_x, gradient_y):
    """The chain rule by hand: this runs while an op records, where autograd is switched off."""
    mean_x, mean_y = blur(x), blur(y)
    variances = blur(x * x) - mean_x**2 + (blur(y * y) - mean_y**2)
    light = 2 * mean_x * mean_y + (0.01 * data_range) ** 2
    shape = 2 * (blur(x * y) - mean_x * mean_y) + (0.03 * data_range) ** 2
    light_sum, shape_sum = mean_x**2 + mean_y**2 + (0.01 * data_range) ** 2, variances + (0.03 * data_range) ** 2
    score = light * shape / (light_sum * shape_sum)
    weight = torch.full_like(score[:, :1, :1, :1], 1 / score[0].numel())
    if scale is not None:
        weight = weight * scale.view(-1, 1, 1, 1)
    # Slopes with respect to the filtered squares and product; at those, what the variances take from the means is too.
    of_squares, of_product = -score / shape_sum * weight, 2 * light / (light_sum * shape_sum) * weight
    squares, product = back(of_squares), back(of_product)
    of_light, of_light_sum = 2 * shape / (light_sum * shape_sum) * weight, 2 * score / light_sum * weight
    for gradient, one, other, mean, other_mean in (
        (gradient_x, x, y, mean_x, mean_y),
        (gradient_y, y, x, mean_y, mean_x),
    ):
        if gradient is not None:
            slope = (of_light - of_product) * other_mean - (of_light_sum + 2 * of_squares) * mean
            gradient.copy_(back(slope) + 2 * one * squares + other * product)
    return score.flatten(1).mean(1)
