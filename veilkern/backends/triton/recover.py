"""recover by the Triton kernels: its launcher."""

from __future__ import annotations

import triton

from veilkern.backends.launch_tables import launch_of
from veilkern.backends.triton._launch import compiled, constant, power, run
from veilkern.backends.triton.blend import by_value
from veilkern.filters import gaussian_weights
from veilkern.kernels.recover import recover_gaussian_kernel, recover_kernel


def recover(protected, veils, rows, a, gaussian_sigma, out):
    """Launcher of `recover`: writes `out`."""
    magic = 2**31 // (2 * a) + 1
    if gaussian_sigma is None:
        return by_value(recover_kernel, "recover", protected, veils, rows, out, a, magic)
    if protected.data_ptr() == out.data_ptr():  # in place: a program reads rows that another one writes
        protected = protected.clone()
    launch = launch_of("recover", "gaussian", out.device)
    count, channels, height, width = protected.shape
    weights = constant(gaussian_weights, (gaussian_sigma,), out.device)
    radius = len(weights) // 2
    columns = power(width) if width <= 1024 else 1024  # gaussian_sigma is at most 100: radius at most 200
    rows_each = max(launch["tile"] // columns, 1)
    bands, pieces = triton.cdiv(height, rows_each), 1 if width <= columns else triton.cdiv(width, columns - 2 * radius)
    run(
        recover_gaussian_kernel, count * channels * bands * pieces, out, protected, veils, rows.contiguous(), weights,
        out, len(veils), channels, height, width, bands, pieces, radius, a, magic, *protected.stride(), *veils.stride(),
        *out.stride(), WIDE=pieces > 1, ROWS=rows_each, COLS=columns, **compiled(launch),
    )  # fmt: skip
    return None
