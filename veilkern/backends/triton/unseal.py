"""unseal by the Triton kernels: its launcher."""

from __future__ import annotations

import torch

from veilkern.backends.launch_tables import launch_of
from veilkern.backends.triton._launch import KIND, run
from veilkern.backends.triton.seal import by_block, pieces
from veilkern.kernels.unseal import unseal_kernel, unseal_nonces_kernel


def unseal(sealed, veils, rows, keys, levels, rounds, out):
    """Launcher of `unseal`: writes `out`. Two launches, since `out` may be `sealed`, which carries the nonces."""
    launch = launch_of("unseal", KIND[sealed.dtype], out.device)
    count, _, height, width = sealed.shape
    nonces = torch.empty((count, 4), dtype=torch.int32, device=out.device)
    run(
        unseal_nonces_kernel, count, out, sealed, veils, rows.contiguous(), nonces, len(veils), height * width, width,
        *sealed.stride(), *veils.stride(), WHOLE=pieces(sealed, veils) == "photo", num_warps=1,
    )  # fmt: skip
    by_block(unseal_kernel, launch, sealed, veils, rows, keys, nonces, out, levels, rounds)
