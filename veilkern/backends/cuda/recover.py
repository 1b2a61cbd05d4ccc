"""recover with its Gaussian filter by the CUDA kernels: its launcher."""

from __future__ import annotations

import functools

import torch

from veilkern.backends.cuda._launch import MODULE, kernel_of, memory_of, processors_of, stream_of, strided
from veilkern.filters import gaussian_radius, gaussian_weights


def _share(protected: torch.Tensor, sigma: float, in_place: bool) -> tuple[int, int]:
    """Of how many planes a block writes how many rows; in place preferably all, since it reads rows above and below."""
    device = protected.device
    return MODULE.recover_share(
        gaussian_radius(sigma), tuple(protected.shape), memory_of(device), processors_of(device), in_place
    )


def limit(protected, veils, rows, a, gaussian_sigma, out) -> str | None:
    """Why a call is not served: without a filter Triton's is as fast; with it rows lie in shared memory."""
    if gaussian_sigma is None:
        return "left to Triton without a filter: its kernel needs no more than the memory's time, by count"
    if _share(protected, gaussian_sigma, False)[1] > 0:
        return None
    radius, width = gaussian_radius(gaussian_sigma), protected.shape[3]
    return f"of rows of {width} pixels, filtered as far as {radius}, too few fit into shared memory"


def recover(protected, veils, rows, a, gaussian_sigma, out):
    """Launcher of `recover`: writes `out`."""
    in_place = protected.data_ptr() == out.data_ptr()
    share = _share(protected, gaussian_sigma, in_place)
    if in_place and share[1] < protected.shape[2]:  # a block reads rows that another one writes
        protected = protected.clone()
    marks = rows.contiguous()
    kernel_of("recover", protected)(
        stream_of(out), strided(protected), strided(veils), strided(out), marks.data_ptr(), tuple(protected.shape),
        len(veils), a, _weights(gaussian_sigma), share,
    )  # fmt: skip


@functools.lru_cache(64)
def _weights(sigma: float) -> list[int]:
    """From the centre outwards."""
    weights = gaussian_weights(sigma)
    return weights[len(weights) // 2 :]


def examples():
    """Calls that a device is tried on."""
    values = ((torch.arange(2 * 3 * 24 * 32, device="cpu") * 37) % 256).view(2, 3, 24, 32)
    veils, rows = values.flip(3).byte(), torch.tensor([1, 0], device="cpu")
    for photos, sigma in ((values.byte(), 1.0), ((values * 255).to(torch.uint16), 3.0)):
        yield photos, veils, rows, 51, sigma, torch.zeros_like(veils)
