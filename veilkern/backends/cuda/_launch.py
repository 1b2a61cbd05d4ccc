"""From tensors to what the CUDA kernels take, and what a device has for them."""

from __future__ import annotations

import functools
import importlib
import os

import torch

EMULATED = os.environ.get("VEILKERN_CUDA_EMULATE", "") not in ("", "0")


def _module():
    if EMULATED:
        try:
            return importlib.import_module("veilkern_cuda_emulated")
        except ImportError as error:
            raise ImportError(
                f"VEILKERN_CUDA_EMULATE is set, and the emulation not built ({error}): make emulate"
            ) from error
    if not torch.cuda.is_available():
        raise ImportError(
            f"no GPU: torch {torch.__version__} sees none (`make emulate` and VEILKERN_CUDA_EMULATE=1: on the CPU, for "
            "tests)"
        )
    if torch.version.hip is not None:
        raise ImportError("torch is built for ROCm: the CUDA kernels need a GPU of NVIDIA")
    try:
        return importlib.import_module("veilkern._cuda")
    except ImportError as error:
        raise ImportError(
            f"this package was built without the CUDA kernels ({error}): Triton serves in their place; "
            "VEILKERN_CUDA=ON pip install .. builds them where a CUDA toolkit is"
        ) from error


MODULE = _module()
NAMES = {torch.float32: "f32", torch.float64: "f64", torch.uint8: "u8", torch.uint16: "u16"}


def kernel_of(op: str, like: torch.Tensor):
    """The module's function for tensors of this dtype, to be called with their device as the current one."""
    function = getattr(MODULE, f"{op}_{NAMES[like.dtype]}")
    if like.device.type == "cpu" or like.device.index == torch.cuda.current_device():
        return function

    def there(*arguments):
        with torch.cuda.device(like.device):  # which makes no context on a device that has none, as cudaSetDevice does
            return function(*arguments)

    return there


def stream_of(like: torch.Tensor) -> int:
    """The current stream of torch on the device of a tensor."""
    return 0 if like.device.type == "cpu" else torch.cuda.current_stream(like.device).cuda_stream


def address(tensor: torch.Tensor | None) -> int:
    """Where a tensor begins, 0 without one."""
    return 0 if tensor is None else tensor.data_ptr()


def strided(photos: torch.Tensor | None) -> tuple[int, tuple[int, ...]]:
    """Where photos begin and their four strides."""
    return (0, (0, 0, 0, 0)) if photos is None else (photos.data_ptr(), photos.stride())


@functools.cache
def memory_of(device: torch.device) -> int:
    """Bytes of shared memory that a block may ask for; the emulation has as many as a Hopper."""
    return MODULE.shared_memory(device.index or 0)


@functools.cache
def processors_of(device: torch.device) -> int:
    """How many multiprocessors the device has."""
    return 1 if device.type == "cpu" else torch.cuda.get_device_properties(device).multi_processor_count


@functools.cache
def capability_of(device: torch.device) -> tuple[int, int]:
    """The compute capability; the emulation stands for a Hopper."""
    return (9, 0) if device.type == "cpu" else torch.cuda.get_device_capability(device)
