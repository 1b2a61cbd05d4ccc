"""The C++ kernels as a backend: from tensors to addresses, sizes and strides. The ops have checked everything."""

from __future__ import annotations

import torch

from veilkern.reference.recover import gaussian_filter

try:
    from veilkern import _cpu  # type: ignore[attr-defined]  # compiled
except ImportError as error:
    raise ImportError(
        f"the C++ module veilkern._cpu is missing ({error}); this package was built without a C++ "
        "compiler, or is run from its source tree: install a compiler (g++ or clang++) and reinstall "
        "with `pip install --force-reinstall --no-deps veilkern`"
    ) from error

DEVICES = ("cpu",)
DETAIL = f"C++, {_cpu.isa()}"


def _dense(images: torch.Tensor) -> bool:
    """Whether each photo lies whole in memory; photos may be apart, or in any order."""
    height, width = images.shape[2:]
    return images.stride()[1:] == (height * width, width, 1) or images[:1].is_contiguous()


def _launch(kernel, images, veils, rows, a, out):
    source = images if _dense(images) else images.contiguous()  # named: they must outlive the call
    bank = veils if _dense(veils) else veils.contiguous()
    index = rows.contiguous()
    target = out if _dense(out) else torch.empty_like(out, memory_format=torch.contiguous_format)
    count, channels, height, width = source.shape
    kernel(
        source.data_ptr(),
        source.stride(0),
        bank.data_ptr(),
        bank.stride(0),
        index.data_ptr(),
        target.data_ptr(),
        target.stride(0),
        count,
        channels * height * width,
        a,
        torch.get_num_threads(),
    )
    if target is not out:
        out.copy_(target)


def blend(images, veils, rows, a, lossless, out):
    """Launcher of `blend`: writes `out`."""
    _launch(_cpu.blend_u16 if lossless else _cpu.blend_u8, images, veils, rows, a, out)


def recover(protected, veils, rows, a, gaussian_sigma, out):
    """Launcher of `recover`: writes `out`; the optional Gaussian filter is the reference's."""
    _launch(_cpu.recover_u8 if protected.dtype == torch.uint8 else _cpu.recover_u16, protected, veils, rows, a, out)
    if gaussian_sigma is not None:
        out.copy_(gaussian_filter(out, gaussian_sigma))


OPS = {"blend": blend, "recover": recover}
