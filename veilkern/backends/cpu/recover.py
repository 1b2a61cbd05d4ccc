"""recover by the C++ kernels: its launcher."""

from __future__ import annotations

from veilkern.backends import thread_count
from veilkern.backends.cpu._tensors import bank, batch, by_value, kernel_of, whole
from veilkern.filters import gaussian_weights


def recover(protected, veils, rows, a, gaussian_sigma, out):
    """Launcher of `recover`: writes `out`."""
    if gaussian_sigma is None:
        return by_value(kernel_of("recover", protected), protected, veils, rows, a, out=out)
    source, index, target = whole(protected, False), rows.contiguous(), whole(out, False)
    weights = gaussian_weights(gaussian_sigma)
    kernel_of("recover_gaussian", protected)(
        batch(source), bank(veils), index.data_ptr(), batch(target), tuple(source.shape), a,
        weights[len(weights) // 2 :], thread_count(),
    )  # fmt: skip
    if target is not out:
        out.copy_(target)
    return None
