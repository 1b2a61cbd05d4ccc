"""What is done to photos in training, drawn for each step from a stream of its own: whoever resumes draws the same."""

from __future__ import annotations

import numpy as np
import torch

_ORDER, _CHANGES, _NETWORK = 1, 2, 3  # streams of a seed


def _raw(seed: int, stream: int, number: int, count: int) -> np.ndarray:
    """Numbers of 64 bits, uint64 [count], of the stream's member `number`."""
    return np.random.Philox(key=[seed, stream], counter=[0, 0, 0, number]).random_raw(count)


def order_of(seed: int, epoch: int, photos: int) -> np.ndarray:
    """The photos 0 .. photos - 1 in the order of an epoch, int64 [photos]."""
    return _raw(seed, _ORDER, epoch, photos).argsort(kind="stable")


def seed_of(seed: int, step: int, rank: int) -> int:
    """The seed of what a network draws itself (dropout) in a step, on one of several devices."""
    drawn = np.random.Philox(key=[seed, _NETWORK], counter=[0, 0, rank, step]).random_raw()
    return int(drawn) >> 1  # torch takes 63 bits


def augment(
    images: torch.Tensor, seed: int, step: int, part: slice, batch: int, *, shift: int, brightness: float
) -> torch.Tensor:
    """Photos of a step as training sees them, float [N, 3, H, W] in [0, 1] of uint8 [N, 3, H, W].

    part: which of the step's `batch` photos these are. Each is mirrored in half of the cases; moved by up to `shift`
    pixels in each direction, its edge repeated; made up to the share `brightness` lighter or darker, and cut to [0, 1].
    """
    raw = _raw(seed, _CHANGES, step, 4 * batch).reshape(batch, 4)[part]
    values = torch.from_numpy((raw >> np.uint64(11)) * 2.0**-53).to(images.device)  # in [0, 1)
    found = torch.where((values[:, 0] < 0.5).view(-1, 1, 1, 1), images.flip(3), images)
    if shift:
        found = _moved(found, (values[:, 1:3] * (2 * shift + 1)).long() - shift)
    floats = found.float() / 255
    if brightness:
        gain = 1 + brightness * (2 * values[:, 3] - 1)
        floats = (floats * gain.view(-1, 1, 1, 1).float()).clamp(0, 1)
    return floats


def _moved(images: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """Each photo moved by int64 [N, 2] (down, right) pixels, its edge repeated."""
    count, _, height, width = images.shape
    rows = (torch.arange(height, device=images.device) - by[:, :1]).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) - by[:, 1:]).clamp(0, width - 1)
    photo = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return images[photo, channel, rows[:, None, :, None], columns[:, None, None, :]]
