"""LPIPS (Zhang et al., 2018), AlexNet, version 0.1: how unlike two photos look to a network's layers; 0 for equal ones.

d = sum over five layers of mean over places of sum over channels w_c (f_c(x) - f_c(y))^2, where f is the layer's output
after its ReLU, divided by its norm over channels, and w are the layer's learned weights ("head"). No weights are in
this package: AlexNet's are torchvision's public checkpoint, given by path; the heads are a file of the `lpips` package,
found where that is installed. torchvision is not needed, and `lpips` is not imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from veilkern.errors import ModelError

CHECKPOINT = "alexnet-owt-7be5be79.pth"  # torchvision's AlexNet_Weights.IMAGENET1K_V1
SMALLEST = 31  # pixels of a side: of fewer, the second pooling leaves nothing
CHUNK = 8  # photos through the network at a time, always: so a photo's features do not depend on how many there are
MEMORY = 256 << 20  # bytes of features that a reference keeps: of about 570 photos of 112 x 112
_PUBLISHED = "7be5be79"  # how the SHA-256 of torchvision's file begins; its name says so too
_PLACES = (0, 3, 6, 8, 10)  # of the convolutions in torchvision's `features`
_SHAPES = ((64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3))
_STRIDES, _BORDERS = (4, 1, 1, 1, 1), (2, 2, 1, 1, 1)
_POOLED = (1, 2)  # convolutions with a pooling of 3 x 3, stride 2, in front
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of RGB in [-1, 1], from LPIPS' version 0.1
_TINY = 1e-10  # added to norms


@dataclass(frozen=True)
class Tower:
    """The reference side of distances: photos [N, 3, H, W], and the features of the first of them, as many as fit."""

    photos: torch.Tensor
    kept: tuple[torch.Tensor, ...]

    def __len__(self) -> int:
        return len(self.photos)


class Lpips:
    """weights: five pairs (weight, bias) of convolutions; heads: five float [1, C, 1, 1]. about: what `load` says of
    the files. See `Lpips.load`. ModelError for wrong shapes, and for values that are not finite."""

    def __init__(
        self,
        weights: Sequence[tuple[torch.Tensor, torch.Tensor]],
        heads: Sequence[torch.Tensor],
        about: Mapping[str, Any] | None = None,
    ):
        wanted = [(f"features.{place}", shape) for place, shape in zip(_PLACES, _SHAPES, strict=True)]
        for (name, shape), (weight, bias) in zip(wanted, weights, strict=True):
            _check_weight(f"{name}.weight", weight, shape)
            _check_weight(f"{name}.bias", bias, shape[:1])
        for number, (head, shape) in enumerate(zip(heads, _SHAPES, strict=True)):
            _check_weight(_head(number), head, (1, shape[0], 1, 1))
        self.weights = [(weight.float(), bias.float()) for weight, bias in weights]
        self.heads = [head.double() for head in heads]
        self.about = dict(about or {})

    @classmethod
    def load(cls, alexnet: str | os.PathLike[str], heads: str | os.PathLike[str] | None = None) -> Lpips:
        """LPIPS with the weights of two files.

        alexnet: torchvision's checkpoint (CHECKPOINT), .pth or .safetensors; its classifier is not used. heads: the
        linear layers, version 0.1; default: weights/v0.1/alex.pth in the installed `lpips` package. Both are read as
        weights only and cannot run code. `about` holds their names and SHA-256, and whether `alexnet` is the published
        file. ModelError names a file that is missing, and where it is to be had, or whose weights are not AlexNet's.
        """
        alexnet = Path(alexnet)
        if not alexnet.is_file():
            raise ModelError(
                f"{alexnet}: no such file; LPIPS needs AlexNet's ImageNet weights as torchvision publishes them, "
                f"the file {CHECKPOINT} (torchvision.models.AlexNet_Weights.IMAGENET1K_V1), downloaded beforehand"
            )
        heads = _heads_of_the_package() if heads is None else Path(heads)
        if not heads.is_file():
            raise ModelError(f"{heads}: no such file; LPIPS needs its linear layers, weights/v0.1/alex.pth of `lpips`")
        state, lines = _read(alexnet), _read(heads)
        names = [f"features.{place}" for place in _PLACES]
        layers = [(_entry(alexnet, state, f"{n}.weight"), _entry(alexnet, state, f"{n}.bias")) for n in names]
        digest = _sha256(alexnet)
        about = {
            "alexnet": alexnet.name,
            "alexnet_sha256": digest,
            "published": digest.startswith(_PUBLISHED),
            "heads": heads.name,
            "heads_sha256": _sha256(heads),
        }
        try:
            return cls(layers, [_entry(heads, lines, _head(number)) for number in range(len(_SHAPES))], about)
        except ModelError as error:
            raise ModelError(f"{alexnet}, {heads}: {error}") from error

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """LPIPS, float64 [N], of photos x and y [N, 3, H, W]: uint8, or float in [0, 1]; sides of SMALLEST or more.

        Photo i's figure depends on x[i] and y[i] alone, to the last bit. Raises TypeError or ValueError for anything
        else.
        """
        return self.distance(self.tower(x, memory=0), y)

    def tower(self, x: torch.Tensor, *, memory: int = MEMORY) -> Tower:
        """x as the reference of several distances: its features are computed once, and kept up to `memory` bytes; of
        photos past that they are computed anew for each distance."""
        _check_photos("x", x)
        fit = memory // (4 * _values(x))
        count = len(x) if len(x) <= fit else fit // CHUNK * CHUNK
        parts = [self._features(x[i : i + CHUNK]) for i in range(0, count, CHUNK)]
        return Tower(x, tuple(torch.cat(layer)[:count] for layer in zip(*parts, strict=True)))

    def distance(self, reference: Tower, y: torch.Tensor) -> torch.Tensor:
        """LPIPS, float64 [N], of each photo of the reference and the same number's of y."""
        _check_photos("y", y)
        if y.shape != reference.photos.shape:
            raise ValueError(f"Lpips: y must be {list(reference.photos.shape)} as x is, got {list(y.shape)}")
        parts = [self._distance(reference, y, i) for i in range(0, len(y), CHUNK)]
        return torch.cat(parts)[: len(y)].to(y.device) if parts else y.new_zeros(0, dtype=torch.float64)

    def _distance(self, reference: Tower, y: torch.Tensor, begin: int) -> torch.Tensor:
        """Of CHUNK photos from number `begin` on; what comes after the last photo means nothing."""
        part = slice(begin, begin + CHUNK)
        if reference.kept and begin < len(reference.kept[0]):
            one = [_filled(layer[part]) for layer in reference.kept]
        else:
            one = self._features(reference.photos[part])
        total = torch.zeros(CHUNK, dtype=torch.float64, device=one[0].device)
        for left, right, head in zip(one, self._features(y[part]), self.heads, strict=True):
            total += ((left - right).double().square_() * head).sum(1).mean((1, 2))
        return total

    @torch.no_grad()
    def _features(self, photos: torch.Tensor) -> list[torch.Tensor]:
        """Five layers, float32 [CHUNK, C, h, w], of norm 1 over channels, of up to CHUNK photos and black ones."""
        device = self.weights[0][0].device
        x = _filled(photos.to(device))
        x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
        shift, scale = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (_SHIFT, _SCALE))
        x = (2 * x - 1 - shift) / scale
        found = []
        for number, (weight, bias) in enumerate(self.weights):
            if number in _POOLED:
                x = F.max_pool2d(x, 3, 2)
            x = F.conv2d(x, weight, bias, _STRIDES[number], _BORDERS[number]).relu_()
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + _TINY))
        return found

    def to(self, device: str | torch.device) -> Lpips:
        """The same on another device; photos may be anywhere. On a GPU, torch's own settings say whether convolutions
        may round to TF32 and whether they are deterministic."""
        weights = [(weight.to(device), bias.to(device)) for weight, bias in self.weights]
        return Lpips(weights, [head.to(device) for head in self.heads], self.about)


def _filled(part: torch.Tensor) -> torch.Tensor:
    """CHUNK photos or features: `part` and zeros."""
    if len(part) == CHUNK:
        return part.contiguous()
    return torch.cat([part, part.new_zeros(CHUNK - len(part), *part.shape[1:])])


def _values(x: torch.Tensor) -> int:
    """Values of all five layers of a photo."""
    height, width = (int(side) for side in x.shape[2:])
    total = 0
    for number, shape in enumerate(_SHAPES):
        if number in _POOLED:
            height, width = (height - 3) // 2 + 1, (width - 3) // 2 + 1
        step, border, kernel = _STRIDES[number], _BORDERS[number], shape[2]
        height, width = ((side + 2 * border - kernel) // step + 1 for side in (height, width))
        total += shape[0] * height * width
    return total


def _check_photos(name: str, photos: torch.Tensor) -> None:
    if not isinstance(photos, torch.Tensor):
        raise TypeError(f"Lpips: {name} must be a tensor of photos, got {type(photos).__name__}")
    if photos.ndim != 4 or photos.shape[1] != 3:
        raise ValueError(f"Lpips: {name} must be photos [N, 3, H, W], got {list(photos.shape)}")
    if min(photos.shape[2:]) < SMALLEST:
        raise ValueError(
            f"Lpips: {name} must have sides of {SMALLEST} pixels or more, which AlexNet's poolings need, "
            f"got {photos.shape[2]} x {photos.shape[3]}"
        )
    if photos.dtype == torch.uint8:
        return
    if not photos.is_floating_point():
        raise TypeError(f"Lpips: {name} must be uint8, or float in [0, 1], got {photos.dtype}")
    if photos.numel():
        low, high = (value.item() for value in photos.aminmax())  # NaN where any value is
        if not (low >= 0 and high <= 1):
            raise ValueError(f"Lpips: {name} must be uint8, or float in [0, 1]; its values go from {low:g} to {high:g}")


def _head(number: int) -> str:
    return f"lin{number}.model.1.weight"


def _check_weight(name: str, value: torch.Tensor, shape: tuple[int, ...]) -> None:
    if not value.is_floating_point() or tuple(value.shape) != shape:
        raise ModelError(f"LPIPS: {name} must be float {list(shape)}, got {value.dtype} {list(value.shape)}")
    if not value.isfinite().all():
        raise ModelError(f"LPIPS: {name} has values that are not finite: a damaged file")


def _heads_of_the_package() -> Path:
    """The heads in the installed `lpips` package, which is not imported."""
    spec = importlib.util.find_spec("lpips")
    places = itertools.chain(spec.submodule_search_locations or () if spec else ())
    found = [path for place in places if (path := Path(place) / "weights" / "v0.1" / "alex.pth").is_file()]
    if not found:
        raise ModelError(
            "LPIPS: no file of linear layers: it is weights/v0.1/alex.pth of the package `lpips`, which is not "
            "installed here (pip install --no-deps lpips); or name the file (heads=)"
        )
    return found[0]


def _read(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            state: object = load_file(path)
        else:  # the tensors of lpips' file are a GPU's
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(f"{path}: cannot be read as a state dict (weights only): {error}") from error
    if not isinstance(state, Mapping):
        raise ModelError(f"{path}: not a state dict: wanted names and tensors, got {type(state).__name__}")
    return state


def _entry(path: Path, state: Mapping[str, Any], name: str) -> torch.Tensor:
    value = state.get(name)
    if not isinstance(value, torch.Tensor):
        some = ", ".join(map(str, itertools.islice(state, 3)))
        raise ModelError(f"{path}: has no tensor {name}: not the layout of {CHECKPOINT} or of lpips' heads ({some} ..)")
    return value.detach()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
