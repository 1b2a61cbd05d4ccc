"""FaceModel: a face-recognition (FR) network, frozen, with its input stated, ready for input gradients."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from veilkern.errors import ModelError
from veilkern.networks.diagnosis import Check, diagnose
from veilkern.networks.input_spec import InputSpec


class PhotosOfPeople(Protocol):
    """What `check` looks at, such as `veilkern.People`."""

    @property
    def images(self) -> torch.Tensor:
        """Photos, uint8 [N, 3, H, W]."""

    @property
    def rows(self) -> torch.Tensor:
        """The person of each photo, int64 [N]."""


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
    def load(cls, source: Any, **input_spec: Any) -> FaceModel:
        """A network from "file.py:callable", "ARCH:checkpoint", a checkpoint, TorchScript, torch.export or ONNX file,
        or an nn.Module; see veilkern.networks.load. Keywords are those of FaceModel and override what the source says.
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
        self._check_size("embed", x)
        if not x.is_floating_point():
            raise TypeError(f"FaceModel.embed: x must be float in [0, 1], got {x.dtype}: `features` takes uint8 photos")
        return self._embed(self._prepare(x))

    def embed_normalised(self, x: torch.Tensor) -> torch.Tensor:
        """As `embed`, of photos that are what the network takes already: normalised and in its order of channels, as
        `ops.blend_normalize(.., **model.input.normalisation)` writes them. Differentiable with respect to x."""
        self._check_size("embed_normalised", x)
        return self._embed(x)

    def _check_size(self, name: str, x: torch.Tensor) -> None:
        if x.shape[1:] != (3, *self.input.size):
            raise ValueError(
                f"FaceModel.{name}: x must be [N, 3, {self.input.size[0]}, {self.input.size[1]}], got {list(x.shape)}"
            )

    def _embed(self, x: torch.Tensor) -> torch.Tensor:
        try:
            out = self.module(x)
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
        if out.dtype in (torch.float16, torch.bfloat16):
            out = out.float()  # cosines and hulls want more digits, and the ops take no fewer
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
    def features(self, images: torch.Tensor, *, batch: int | None = None, check: bool = True) -> torch.Tensor:
        """Features [N, d] of uint8 photos [N, 3, H, W], `batch` at a time; None: 8 on the CPU, where more make
        activations so large that the system takes their memory back after each layer and clears it for the next; 64
        elsewhere.

        check: raise ModelError when any is not finite (NaN, or a zero vector that cannot be normalised).
        """
        if not len(images):
            raise ValueError("FaceModel.features: images must hold at least one photo, got none")
        batch = (8 if self.device.type == "cpu" else 64) if batch is None else batch
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

    def about(self) -> dict[str, Any]:
        """Name and fingerprint, as banks and reports record them."""
        return {"name": self.name, "fingerprint": self.fingerprint}

    def by_network(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """Of features [N, d], the L2-normalised ones [N, d_i] of each network by its name, where they are several:
        those of an Ensemble. Here none."""
        return {}

    def check(self, people: PhotosOfPeople, *, least_auc: float = 0.9) -> Check:
        """Does this network tell these persons apart? See `veilkern.networks.diagnosis.diagnose`, which it calls with
        people.images and people.rows."""
        return diagnose(self, people.images, people.rows, least_auc=least_auc)


def _floats(values: Sequence[float]) -> tuple[float, float, float]:
    return tuple(float(value) for value in values)  # type: ignore[return-value]  # InputSpec checks how many


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
