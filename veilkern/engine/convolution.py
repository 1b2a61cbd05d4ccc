"""Convolutions with constant weights, forwards and for the gradient of their input, in channels_last.

On the CPU in float32 the weights are laid out once as oneDNN wants them; elsewhere torch's own convolution takes them.
"""

from __future__ import annotations

import torch

from veilkern.engine.graph import Step


class Convolution:
    """A step's convolution. shape: of its input, (C, H, W). width: photos that usually come at a time."""

    def __init__(self, step: Step, shape: tuple[int, ...], width: int, device: torch.device, dtype: torch.dtype):
        assert step.weight is not None
        self.stride, self.padding, self.dilation, self.groups = (
            list(step.stride), list(step.padding), list(step.dilation), step.groups
        )  # fmt: skip
        weight = step.weight.to(device, dtype)
        kernel = [d * (k - 1) for d, k in zip(step.dilation, weight.shape[2:], strict=True)]
        sizes = list(zip(shape[1:], step.padding, step.stride, kernel, strict=True))
        self.rest = [(size + 2 * p - k - 1) % s for size, p, s, k in sizes]  # rows that no window reaches
        self.back_padding = [k - p for k, p in zip(kernel, step.padding, strict=True)]
        self.bias = None if step.bias is None else step.bias.to(device, dtype)
        self.packed = device.type == "cpu" and dtype == torch.float32 and _has_onednn()
        self.turned = step.stride == (1, 1) and min(self.back_padding) >= 0
        out = [(size + 2 * p - k - 1) // s + 1 for size, p, s, k in sizes]
        shapes = [width, *shape], [width, weight.shape[0], *out]
        self.weight = self._laid_out(weight, self.padding, shapes[0])
        self.back = self._turned(weight, shapes[1]) if self.turned else self._transposed(weight, shapes[1])

    def _laid_out(self, weight: torch.Tensor, padding: list[int], shape: list[int]) -> torch.Tensor:
        weight = weight.contiguous(memory_format=torch.channels_last)
        if not self.packed:
            return weight
        return torch._C._nn.mkldnn_reorder_conv2d_weight(  # type: ignore[call-arg]  # its stub lacks the shape
            weight.to_mkldnn(), padding, self.stride, self.dilation, self.groups, shape
        )

    def _turned(self, weight: torch.Tensor, shape: list[int]) -> torch.Tensor:
        """The gradient of a convolution without stride is another convolution."""
        groups, (out, of_group, height, width) = self.groups, weight.shape
        parts = weight.view(groups, out // groups, of_group, height, width).transpose(1, 2).flip(3, 4)
        return self._laid_out(parts.reshape(groups * of_group, out // groups, height, width), self.back_padding, shape)

    def _transposed(self, weight: torch.Tensor, shape: list[int]) -> torch.Tensor:
        weight = weight.contiguous(memory_format=torch.channels_last)
        if not self.packed:
            return weight
        return torch.ops.mkldnn._reorder_convolution_transpose_weight(
            weight, self.padding, self.rest, self.stride, self.dilation, self.groups, shape
        )

    def __call__(self, x: torch.Tensor, plus: torch.Tensor | None, *, biased: bool) -> torch.Tensor:
        """w x + bias (unless the caller adds it) + plus."""
        bias = self.bias if biased else None
        return self._run(x, self.weight, bias, self.stride, self.padding, plus)

    def gradient(self, slope: torch.Tensor, plus: torch.Tensor | None) -> torch.Tensor:
        """The slope at the input from that at the output, added to `plus`, which may be overwritten."""
        if self.turned and self.packed and plus is not None:  # in place: one tensor of the input's size less
            rest = (self.back_padding, [1, 1], self.dilation, self.groups)
            return torch.ops.mkldnn._convolution_pointwise_.binary(
                plus, slope, self.back, None, *rest, "add", 1.0, None, [], None
            )
        if self.turned:
            return self._run(slope, self.back, None, [1, 1], self.back_padding, plus)
        if self.packed:
            found = torch.ops.mkldnn._convolution_transpose_pointwise(
                slope, self.back, None, self.padding, self.rest, self.stride, self.dilation, self.groups, "none", [], ""
            )
        else:
            found = torch.ops.aten.convolution(
                slope, self.back, None, self.stride, self.padding, self.dilation, True, self.rest, self.groups
            )
        return _last(found) if plus is None else plus.add_(found)

    def _run(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: list[int],
        padding: list[int],
        plus: torch.Tensor | None,
    ) -> torch.Tensor:
        rest = (padding, stride, self.dilation, self.groups)
        if not self.packed:
            found = torch.ops.aten.convolution(
                x, weight, bias, stride, padding, self.dilation, False, [0, 0], self.groups
            )
            return _last(found) if plus is None else _last(found).add_(plus)
        if plus is None:
            return _last(torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *rest, "none", [], ""))
        return _last(
            torch.ops.mkldnn._convolution_pointwise.binary(x, plus, weight, bias, *rest, "add", 1.0, None, [], None)
        )


def _last(found: torch.Tensor) -> torch.Tensor:
    """In channels_last, as what follows reads it: torch gives other layouts where it has no better kernel."""
    return found.contiguous(memory_format=torch.channels_last)


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
