"""FaceModel: a face-recognition (FR) network, frozen, with its input stated, ready for input gradients."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from veilkern.data.people import People
from veilkern.errors import ModelError

_STEADY = 0.02  # features in [-1, 1]: above what bfloat16 and other orders of sums change


@dataclass(frozen=True)
class InputSpec:
    """What a network wants: photos of `size` (height, width), values up to `value_range` (1 or 255), then
    (x - mean) / std per channel in the network's order; bgr: that order is blue, green, red."""

    size: tuple[int, int] = (112, 112)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bgr: bool = False
    value_range: float = 1.0

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"FaceModel: size must be two positive integers (height, width), got {self.size}")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError(f"FaceModel: mean and std must have three numbers, got {self.mean} and {self.std}")
        if min(self.std) <= 0 or self.value_range <= 0:
            raise ValueError(f"FaceModel: std and value_range must be positive, got {self.std} and {self.value_range}")


@dataclass(frozen=True)
class Check:
    """How well a network tells people apart: mean cosine of same-person and different-person pairs, and the chance
    (area under the ROC curve) that a same-person pair scores above a different-person pair."""

    same: float
    different: float
    auc: float

    def __str__(self) -> str:
        return f"cosine same person {self.same:.3f}, different {self.different:.3f}, separation (AUC) {self.auc:.4f}"


class FaceModel:
    """A frozen FR network: float [N, 3, H, W] RGB in [0, 1] -> L2-normalised features [N, d].

    module: any nn.Module whose output is [N, d] (or [N, d, 1, 1]), normalised or not; it is copied, set to eval mode
    and its parameters frozen. size, mean, std, bgr, value_range: its input, see InputSpec; the default is RGB in [0, 1]
    with nothing to normalise. Raises TypeError or ValueError for wrong arguments.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        size: int | Sequence[int] = 112,
        mean: Sequence[float] = (0.0,) * 3,
        std: Sequence[float] = (1.0,) * 3,
        bgr: bool = False,
        value_range: float = 1.0,
        name: str = "",
    ):
        if not isinstance(module, nn.Module):
            raise TypeError(f"FaceModel: module must be a torch.nn.Module, got {type(module).__name__}")
        size = (size, size) if isinstance(size, int) else tuple(size)
        self.input = InputSpec(size, _floats(mean), _floats(std), bgr, float(value_range))  # type: ignore[arg-type]
        self.module = _frozen(module)
        self.name = name or type(module).__name__

    @classmethod
    def load(cls, source, **input_spec) -> FaceModel:
        """A network from "file.py:callable", "ARCH:checkpoint", a checkpoint, TorchScript, torch.export or ONNX file,
        or an nn.Module; see veilkern.models.load. Keywords are those of FaceModel and override what the source says.
        Raises ModelError with the cause."""
        from veilkern.networks.loading import load

        return load(source, **input_spec)

    def __repr__(self) -> str:
        return f"FaceModel({self.name}, {self.input})"

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        first = next(self.module.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """L2-normalised features [N, d] of float RGB photos [N, 3, H, W] in [0, 1]; differentiable with respect to x.

        Raises ModelError when the network fails or returns something else than [N, d]. Values that are not finite are
        passed on: see `features`.
        """
        if x.shape[1:] != (3, *self.input.size):
            raise ValueError(
                f"FaceModel.embed: x must be [N, 3, {self.input.size[0]}, {self.input.size[1]}], got {list(x.shape)}"
            )
        try:
            out = self.module(self._prepare(x))
        except (RuntimeError, ValueError, TypeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise ModelError(f"{self.name}: the network failed on {list(x.shape)}: {error}") from error
        if not isinstance(out, torch.Tensor):
            raise ModelError(f"{self.name}: the network must return a tensor [N, d], got {type(out).__name__}")
        if out.ndim == 4 and out.shape[2:] == (1, 1):
            out = out.flatten(1)
        if out.ndim != 2 or len(out) != len(x) or out.shape[1] < 2 or not out.is_floating_point():
            raise ModelError(
                f"{self.name}: the network must return a float tensor [{len(x)}, d], one row a photo, got "
                f"{out.dtype} {list(out.shape)}"
            )
        return F.normalize(out, eps=0.0)  # a zero feature has no direction: NaN, which `features` reports

    def _prepare(self, x: torch.Tensor) -> torch.Tensor:
        spec = self.input
        if spec.bgr:
            x = x.flip(1)
        if spec.value_range != 1.0:
            x = x * spec.value_range
        if any(spec.mean) or spec.std != (1.0,) * 3:
            x = (x - x.new_tensor(spec.mean).view(1, 3, 1, 1)) / x.new_tensor(spec.std).view(1, 3, 1, 1)
        return x

    @torch.no_grad()
    def features(self, images: torch.Tensor, *, batch: int = 64, check: bool = True) -> torch.Tensor:
        """Features [N, d] of uint8 photos [N, 3, H, W], `batch` at a time.

        check: raise ModelError when any is not finite (NaN, or a zero vector that cannot be normalised).
        """
        if not len(images):
            raise ValueError("FaceModel.features: images must hold at least one photo, got none")
        parts = [self.embed(part.to(self.device).float() / 255) for part in images.split(batch)]
        found = torch.cat(parts).to(images.device)
        bad = (~found.isfinite().all(1)).nonzero().flatten()
        if check and len(bad):
            raise ModelError(
                f"{self.name}: the network returned NaN, infinity or a zero vector for {len(bad)} of "
                f"{len(images)} photos (first: number {int(bad[0])}); its weights or the stated input are wrong"
            )
        return found

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the stated input and every weight and buffer by name: which network a bank was crafted for."""
        digest = hashlib.sha256(repr(self.input).encode())
        tensors = {
            **dict(self.module.named_parameters(remove_duplicate=False)),
            **dict(self.module.named_buffers(remove_duplicate=False)),
        }
        for name in sorted(tensors):
            value = tensors[name].detach().cpu().contiguous()
            digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            digest.update(value.flatten().view(torch.uint8).numpy().tobytes() if value.numel() else b"")
        return digest.hexdigest()

    def check(self, people: People, *, least_auc: float = 0.9) -> Check:
        """Compare same-person and different-person cosines; ModelError with the likely cause when they do not separate.

        Needs two persons, one of them with two different photos (ValueError). Tries the usual mistakes (channel order,
        normalisation, value range) and names the one that would separate better. Refuses a network whose features of
        a photo hang on its neighbours in the batch or on chance (batch statistics, dropout: a network in train mode).
        """
        if len(people) < 2 or not bool(_pairs(people)[0].any()):
            raise ValueError(
                "FaceModel.check: people must hold two persons at least, one of them with two different photos"
            )
        self._check_steady(people.images[:8])
        result = self._separation(people)
        if result.auc >= least_auc:
            return result
        cause = (
            "none of the usual input mistakes explains it: are the faces aligned to the ArcFace template, and is the "
            "network trained?"
        )
        best = (result.auc + least_auc) / 2  # what makes up for less than half of what is missing explains nothing
        for label, spec in _alternatives(self.input).items():
            other = copy.copy(self)
            other.input = spec
            try:
                trial = other._separation(people)
            except ModelError:
                continue
            if trial.auc > best:
                best, cause = trial.auc, f"likely cause: {label} (that separates with AUC {trial.auc:.3f})"
        raise ModelError(f"{self.name}: the network does not tell these people apart: {result}; {cause}")

    def _check_steady(self, images: torch.Tensor) -> None:
        """ModelError unless these photos have the same features in another order and other batches."""
        apart = self.features(images.flip(0), batch=2).flip(0)
        change = (self.features(images) - apart).abs().max().item()
        if change > _STEADY:
            raise ModelError(
                f"{self.name}: the features of the same photos change by {change:.3f} when they come in other batches: "
                "dropout or batch statistics are at work, as in train mode; save or export the network in eval mode"
            )

    def _separation(self, people: People) -> Check:
        features = self.features(people.images).double()
        cosine = features @ features.T
        same, different = _pairs(people)
        inside, across = cosine[same], cosine[different].sort().values
        # Ties count half: the rank of each same-person score among the different-person scores.
        below = torch.searchsorted(across, inside).double() + torch.searchsorted(across, inside, right=True).double()
        return Check(inside.mean().item(), across.mean().item(), (below / 2 / len(across)).mean().item())


def _pairs(people: People) -> tuple[torch.Tensor, torch.Tensor]:
    """Which pairs (i, j), i < j, of photos are of one person and of two, bool [N, N] each; a picture with itself, also
    when it is there twice, is no pair."""
    number: dict[bytes, int] = {}
    pictures = torch.tensor([number.setdefault(image.numpy().tobytes(), len(number)) for image in people.images])
    pair = (pictures[:, None] != pictures).triu(1)
    same = people.rows[:, None] == people.rows
    return same & pair, ~same & pair


def _floats(values: Sequence[float]) -> tuple[float, float, float]:
    return tuple(float(value) for value in values)  # type: ignore[return-value]  # InputSpec checks how many


def _alternatives(spec: InputSpec) -> dict[str, InputSpec]:
    """The usual mistakes, undone."""
    half, none, imagenet = (0.5,) * 3, ((0.0,) * 3, (1.0,) * 3), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    inputs = {
        "values to be normalised to [-1, 1] (mean 0.5, std 0.5)": (half, half, 1.0),
        "values in [0, 1] without normalisation": (*none, 1.0),
        "values in 0..255": (*none, 255.0),
        "ImageNet mean and std": (*imagenet, 1.0),
    }
    found = {}
    for bgr in (spec.bgr, not spec.bgr):
        order = "" if bgr == spec.bgr else f"{'BGR' if bgr else 'RGB'} channel order"
        if order:
            found[order] = InputSpec(spec.size, spec.mean[::-1], spec.std[::-1], bgr, spec.value_range)
        for label, (mean, std, value_range) in inputs.items():
            found[" and ".join(filter(None, [order, label]))] = InputSpec(spec.size, mean, std, bgr, value_range)
    return {label: other for label, other in found.items() if other != spec}


def _frozen(module: nn.Module) -> nn.Module:
    try:
        with torch.no_grad():  # or the copied parameters of a scripted module would be no leaves
            module = copy.deepcopy(module)  # the caller's network keeps its mode and its gradients
    except (RuntimeError, TypeError, NotImplementedError):
        pass  # some scripted modules cannot be copied
    with contextlib.suppress(NotImplementedError):  # torch.export modules stay in the mode they were exported in
        module.eval()
    for parameter in module.parameters():  # scripted modules have no requires_grad_ of their own
        parameter.requires_grad_(False)
    return module
