"""What the tests of architectures share: numbers that are nobody's defaults, forward passes written out by hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def unusual(net: nn.Module, seed: int = 1) -> nn.Module:
    """In eval mode, with weights that keep the size of what flows through, and BatchNorms and PReLUs of no default."""
    g = torch.Generator().manual_seed(seed)
    for name, value in net.state_dict().items():
        if not value.is_floating_point():
            continue
        if value.ndim > 1:
            value.copy_(torch.randn(value.shape, generator=g) * (2 / value[0].numel()) ** 0.5)
        elif name.endswith(("running_mean", "bias")):
            value.copy_(0.4 * torch.rand(value.shape, generator=g) - 0.2)
        else:
            value.copy_(0.6 * torch.rand(value.shape, generator=g) + 0.6)
    return net.eval()


class Weights:
    """A state dict's layers as functions: `w.conv(x, "stem.conv", ..)`."""

    def __init__(self, state):
        self.state = state

    def conv(self, x, name, stride=1, padding=0, groups=1):
        return F.conv2d(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), stride, padding, 1, groups)

    def linear(self, x, name):
        return F.linear(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"))

    def bn(self, x, name, eps=1e-5):
        s, shape = self.state, (-1, *(1,) * (x.ndim - 2))
        scale = s[f"{name}.weight"] / (s[f"{name}.running_var"] + eps).sqrt()
        return x * scale.view(shape) + (s[f"{name}.bias"] - s[f"{name}.running_mean"] * scale).view(shape)

    def blocks(self, prefix):
        return range(len({key.split(".")[1] for key in self.state if key.startswith(f"{prefix}.")}))


def inception_resnet(state, x):
    """Inception-ResNet-v1 (Szegedy et al. 2017, fig. 10 to 14 of the first version), as FaceNet has it."""
    w = Weights(state)

    def c(x, name, stride=1, padding=0):
        return F.relu(w.bn(w.conv(x, f"{name}.conv", stride, padding), f"{name}.bn", 0.001))

    def residual(x, name, scale, paths):
        joined = w.conv(torch.cat([c(x, f"{name}.branch0"), *paths], 1), f"{name}.conv2d")
        return x + scale * joined

    def crossed(x, name, side, scale):
        b, half = f"{name}.branch1", side // 2
        path = c(c(c(x, f"{b}.0"), f"{b}.1", 1, (0, half)), f"{b}.2", 1, (half, 0))
        return residual(x, name, scale, [path])

    x = c(c(c(x, "conv2d_1a", 2), "conv2d_2a"), "conv2d_2b", 1, 1)
    x = c(c(c(F.max_pool2d(x, 3, 2), "conv2d_3b"), "conv2d_4a"), "conv2d_4b", 2)
    for n in w.blocks("repeat_1"):
        b = f"repeat_1.{n}.branch"
        paths = [c(c(x, f"{b}1.0"), f"{b}1.1", 1, 1), c(c(c(x, f"{b}2.0"), f"{b}2.1", 1, 1), f"{b}2.2", 1, 1)]
        x = F.relu(residual(x, f"repeat_1.{n}", 0.17, paths))
    b = "mixed_6a.branch"
    path = c(c(c(x, f"{b}1.0"), f"{b}1.1", 1, 1), f"{b}1.2", 2)
    x = torch.cat([c(x, f"{b}0", 2), path, F.max_pool2d(x, 3, 2)], 1)
    for n in w.blocks("repeat_2"):
        x = F.relu(crossed(x, f"repeat_2.{n}", 7, 0.10))
    b = "mixed_7a.branch"
    paths = [c(c(x, f"{b}{n}.0"), f"{b}{n}.1", 2) for n in (0, 1)]
    paths += [c(c(c(x, f"{b}2.0"), f"{b}2.1", 1, 1), f"{b}2.2", 2), F.max_pool2d(x, 3, 2)]
    x = torch.cat(paths, 1)
    for n in w.blocks("repeat_3"):
        x = F.relu(crossed(x, f"repeat_3.{n}", 3, 0.20))
    x = crossed(x, "block8", 3, 1.0)
    return w.bn(w.linear(x.mean((2, 3)), "last_linear"), "last_bn", 0.001)


def mobilenet(state, x, strides, stem_stride=1):
    """MobileNet (Howard et al. 2017) to the last map, then 1 x 1, PReLU, BN, linear, BN. strides: of all blocks."""
    w = Weights(state)
    x = F.relu6(w.bn(w.conv(x, "stage1.0.0", stem_stride, 1), "stage1.0.1"))
    places = [f"stage{s}.{n}" for s in (1, 2, 3) for n in w.blocks(f"stage{s}") if (s, n) != (1, 0)]
    for place, stride in zip(places, strides, strict=True):
        x = F.relu6(w.bn(w.conv(x, f"{place}.0", stride, 1, x.shape[1]), f"{place}.1"))
        x = F.relu6(w.bn(w.conv(x, f"{place}.3"), f"{place}.4"))
    x = F.prelu(w.bn(w.conv(x, "sep"), "sep_bn"), state["prelu.weight"])
    return w.bn(w.linear(w.bn(x, "bn2").flatten(1), "linear"), "features")


def se_resnet(state, x):
    """ResNet with bottlenecks, each of whose channels is weighted by what the channels' means say (Hu et al. 2018);
    then what the state dict has of a 1 x 1 convolution and BN."""
    w = Weights(state)
    x = F.max_pool2d(F.relu(w.bn(w.conv(x, "conv1", 2, 3), "bn1")), 3, 2, 0, ceil_mode=True)
    for stage in (1, 2, 3, 4):
        for n in w.blocks(f"layer{stage}"):
            b = f"layer{stage}.{n}"
            stride = 2 if n == 0 and stage > 1 else 1
            y = F.relu(w.bn(w.conv(x, f"{b}.conv1", stride), f"{b}.bn1"))
            y = F.relu(w.bn(w.conv(y, f"{b}.conv2", 1, 1), f"{b}.bn2"))
            y = w.bn(w.conv(y, f"{b}.conv3"), f"{b}.bn3")
            gate = w.conv(F.relu(w.conv(y.mean((2, 3), keepdim=True), f"{b}.conv4")), f"{b}.conv5").sigmoid()
            if n == 0:
                x = w.bn(w.conv(x, f"{b}.downsample.0", stride), f"{b}.downsample.1")
            x = F.relu(gate * y + x)
    x = x.mean((2, 3), keepdim=True)
    x = w.conv(x, "feat_extract") if "feat_extract.weight" in state else x
    return w.bn(x.flatten(1), "feat_bn") if "feat_bn.weight" in state else x.flatten(1)


def multiplications(module: nn.Module, size: int) -> int:
    """Of a photo's forward pass, in convolutions and linear layers."""
    total = 0

    def add(layer, _, found):
        nonlocal total
        total += found[0].numel() * layer.weight[0].numel()

    kinds = (nn.Conv2d, nn.Linear)
    handles = [layer.register_forward_hook(add) for layer in module.modules() if isinstance(layer, kinds)]
    with torch.no_grad():
        module.eval()(torch.zeros(1, 3, size, size))
    for handle in handles:
        handle.remove()
    return total
