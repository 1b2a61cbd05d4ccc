"""recover with its Gaussian filter by the CUDA kernel: its launcher."""

from __future__ import annotations

import functools

import torch

from veilkern.backends.cuda._launch import MODULE, kernel_of, memory_of, processors_of, strided, where
from veilkern.filters import gaussian_radius, gaussian_weights

FEW = 16  # rows of a band where there are not planes enough for the device


def limit(protected, veils, rows, a, gaussian_sigma, out) -> str | None:
    """Why a call is not served: a band lies in shared memory, with the rows that the filter takes from its neighbours; too
    low a band, and those are most of the work."""
    if gaussian_sigma is None:
        return "left to Triton without a filter: its kernel needs no more than the memory's time, by count"
    height, width = protected.shape[2:]
    radius, there = gaussian_radius(gaussian_sigma), memory_of(protected.device)
    if MODULE.recover_rows(radius, height, width, there) >= min(height, max(8, radius // 4)):
        return None
    return f"rows of {width} filtered as far as {radius} pixels: too few fit {there} bytes of shared memory"


def recover(protected, veils, rows, a, gaussian_sigma, out):
    """Launcher of `recover`: writes `out`."""
    in_place = protected.data_ptr() == out.data_ptr()
    band = _band(tuple(protected.shape), gaussian_radius(gaussian_sigma), protected.device, in_place)
    if in_place and band < protected.shape[2]:  # a block reads rows that another one writes
        protected = protected.clone()
    marks = rows.contiguous()
    kernel_of("recover", protected)(
        where(out), strided(protected), strided(veils), strided(out), marks.data_ptr(), tuple(protected.shape),
        len(veils), a, _weights(gaussian_sigma), band,
    )  # fmt: skip


@functools.lru_cache(64)
def _weights(sigma: float) -> list[int]:
    """From the centre outwards."""
    weights = gaussian_weights(sigma)
    return weights[len(weights) // 2 :]


@functools.lru_cache(256)
def _band(shape: tuple[int, ...], radius: int, device: torch.device, in_place: bool) -> int:
    """How many rows a block writes: all of a plane's, if several blocks then fit a processor and there are planes enough."""
    count, channels, height, width = shape
    memory, rows = memory_of(device), 0
    for blocks in (8, 4, 2, 1):
        if rows < min(height, max(32, 4 * radius)):
            rows = MODULE.recover_rows(radius, height, width, memory // blocks)
    wanted = -(-2 * processors_of(device) // (count * channels))  # bands of a plane
    if not in_place:
        rows = min(rows, max(FEW, -(-height // wanted)))
    return -(-height // -(-height // rows))


def examples():
    """Calls that a device is tried on."""
    values = ((torch.arange(2 * 3 * 24 * 32) * 37) % 256).view(2, 3, 24, 32)
    veils, rows = values.flip(3).byte(), torch.tensor([1, 0])
    for photos, sigma in ((values.byte(), 1.0), ((values * 255).to(torch.uint16), 3.0)):
        yield photos, veils, rows, 51, sigma, torch.zeros(2, 3, 24, 32, dtype=torch.uint8)
