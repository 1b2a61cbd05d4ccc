"""Loading networks: Python files, checkpoints by layout, TorchScript, torch.export, ONNX."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from veilkern.errors import ModelError
from veilkern.networks import inception_resnet, ir, iresnet, layout, mobilefacenet, mobilenet, senet
from veilkern.networks.face_model import FaceModel

ARCHITECTURES = (
    "iresnet18", "iresnet34", "iresnet50", "iresnet100", "ir50", "ir_se50", "mobilefacenet", "mobilenet", "se_resnet50",
    "inception_resnet_v1",
)  # fmt: skip
CHECKPOINTS = (".pt", ".pth", ".safetensors", ".bin", ".ckpt")
INPUT_KEY = "veilkern_input"  # of safetensors metadata: FaceModel's keywords for the checkpoint, as JSON
INPUT_KEYWORDS = ("size", "mean", "std", "bgr", "value_range")

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class _Layout:
    """How checkpoints of one layout are known and read. build: of the renamed state; input_of: of the state as it is,
    FaceModel's keywords for what the network was trained on."""

    matches: Callable[[State], bool]
    build: Callable[[State], tuple[str, nn.Module]]
    rename: Callable[[State], dict[str, torch.Tensor]] = dict
    input_of: Callable[[State], dict[str, Any]] = lambda state: layout.SIGNED


_LAYOUTS = (
    _Layout(iresnet.matches, iresnet.build),
    _Layout(ir.matches, ir.build),
    _Layout(mobilefacenet.matches, mobilefacenet.build, mobilefacenet.rename),
    _Layout(mobilenet.matches, mobilenet.build),
    _Layout(senet.matches, senet.build, senet.rename, senet.input_of),
    _Layout(inception_resnet.matches, inception_resnet.build, inception_resnet.rename, inception_resnet.input_of),
)


def load(source: Any, **input_spec: Any) -> FaceModel:
    """A FaceModel from `source`, one of

    - an nn.Module, or a FaceModel (returned as it is where no keyword says otherwise);
    - "file.py:callable" or "package.module:callable": called without arguments, returns one of those;
    - "ARCH:checkpoint", ARCH one of ARCHITECTURES; or a checkpoint alone (.pt, .pth, .safetensors): a state dict whose
      layout tells the architecture and its input; read with weights_only, so it cannot run code. A safetensors file may
      state another input in its metadata, see `veilkern.networks.making.stated`;
    - a TorchScript file (.pt, .ts), a torch.export file (.pt2), an ONNX file (.onnx, needs `veilkern[onnx]`).

    Python files, TorchScript and torch.export files are programs: load none that you do not trust. Keywords are those
    of FaceModel (size, mean, std, bgr, value_range, name). Raises ModelError with the cause.
    """
    if isinstance(source, FaceModel):
        stated = {**dataclasses.asdict(source.input), "name": source.name, **input_spec}
        return FaceModel(source.module, **stated) if input_spec else source
    if isinstance(source, nn.Module):
        return FaceModel(source, **input_spec)
    if not isinstance(source, (str, Path)):
        raise TypeError(f"FaceModel.load: source must be a path, a string or an nn.Module, got {type(source).__name__}")
    left, colon, right = str(source).rpartition(":")
    if colon and left.lower() in ARCHITECTURES:
        return _from_checkpoint(Path(right), left.lower(), input_spec)
    if colon and right.isidentifier() and not Path(str(source)).exists():
        return _from_callable(left, right, input_spec)
    path = Path(source)
    if not path.is_file():
        known = f"file.py:callable, ARCH:checkpoint ({', '.join(ARCHITECTURES)}) or a file"
        raise ModelError(f"{source}: no such network file; wanted {known}")
    readers = {".onnx": _from_onnx, ".pt2": _from_export, ".ts": _from_torchscript, ".torchscript": _from_torchscript}
    if path.suffix.lower() in readers:
        return FaceModel(readers[path.suffix.lower()](path), **{"name": path.name, **input_spec})
    if path.suffix.lower() not in CHECKPOINTS:
        raise ModelError(
            f"{path}: not a network file by its name; wanted .py:callable, {', '.join([*CHECKPOINTS, *readers])}"
        )
    if path.suffix.lower() == ".pt" and _is_torchscript(path):
        return FaceModel(_from_torchscript(path), **{"name": path.name, **input_spec})
    return _from_checkpoint(path, None, input_spec)


def call(module: str, name: str) -> Any:
    """What a callable without arguments returns, of "file.py" or "package.module"; ModelError with the cause."""
    file = Path(module) if module.endswith(".py") else None
    if file is not None and not file.is_file():
        raise ModelError(f"{file}: no such file")
    try:
        with _neighbours_first(file) if file is not None else contextlib.nullcontext():
            return getattr(importlib.import_module(module) if file is None else _run_file(file), name)()
    except Exception as error:  # the user's own code: whatever it raises is the cause
        raise ModelError(f"{module}:{name}: cannot be loaded: {type(error).__name__}: {error}") from error


def _from_callable(module: str, name: str, input_spec: Any) -> FaceModel:
    made = call(module, name)
    if not isinstance(made, (nn.Module, FaceModel)):
        raise ModelError(f"{module}:{name}: must return a torch.nn.Module or a FaceModel, got {type(made).__name__}")
    return load(
        made, **(input_spec if isinstance(made, FaceModel) else {"name": f"{Path(module).stem}:{name}", **input_spec})
    )


def _run_file(path: Path) -> Any:
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _neighbours_first(path: Path) -> Iterator[None]:
    """Let a file import its neighbours by name, whatever the program or another network's folder calls so; after it,
    everything is as before."""
    folder = path.resolve().parent
    names = {entry.stem for entry in folder.iterdir() if entry.suffix == ".py" or (entry / "__init__.py").is_file()}
    names -= {*sys.stdlib_module_names, "torch", "numpy", "veilkern"}
    before = dict(sys.modules)
    for name in [name for name in sys.modules if name.partition(".")[0] in names]:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] in names]:
            del sys.modules[name]
        sys.modules.update({name: old for name, old in before.items() if name.partition(".")[0] in names})


def _is_torchscript(path: Path) -> bool:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _from_torchscript(path: Path) -> nn.Module:
    try:
        return torch.jit.load(str(path), map_location="cpu")
    except Exception as error:
        raise ModelError(f"{path}: cannot be read as TorchScript: {error}") from error


def _from_export(path: Path) -> nn.Module:
    try:
        return torch.export.load(str(path)).module()
    except Exception as error:
        raise ModelError(f"{path}: cannot be read as a torch.export program: {error}") from error


def _from_onnx(path: Path) -> nn.Module:
    try:
        import onnx

        with _stand_in_for_torchvision():
            from onnx2torch import convert
    except ImportError as error:
        raise ModelError(f"{path}: ONNX files need the onnx extra, `pip install veilkern[onnx]` ({error})") from error
    try:
        return convert(onnx.load(str(path)))
    except Exception as error:
        raise ModelError(f"{path}: cannot be converted from ONNX: {error}") from error


@contextlib.contextmanager
def _stand_in_for_torchvision() -> Iterator[None]:
    """onnx2torch imports torchvision for two operators of detectors (NonMaxSuppression, RoiAlign), which no FR network
    has. Where there is no torchvision for this torch, let it import without; those operators then fail by name."""
    try:
        has_torchvision = importlib.util.find_spec("torchvision") is not None
    except ValueError:
        has_torchvision = True  # somebody else's stand-in
    if has_torchvision:
        yield
        return

    def missing(*_: object, **__: object) -> None:
        raise ModelError("this ONNX file needs torchvision (RoiAlign), which is not installed")

    top, operators = types.ModuleType("torchvision"), types.ModuleType("torchvision.ops")
    top.ops, operators.roi_align = operators, missing  # type: ignore[attr-defined]
    sys.modules.update({"torchvision": top, "torchvision.ops": operators})
    try:
        yield
    finally:
        del sys.modules["torchvision"], sys.modules["torchvision.ops"]


def _from_checkpoint(path: Path, wanted: str | None, input_spec: Any) -> FaceModel:
    state = _read_state(path)
    known = next((known for known in _LAYOUTS if known.matches(state)), None)
    if known is None:
        raise ModelError(
            f"{path}: a state dict of no known layout (its first keys: {', '.join(list(state)[:4])}); known: "
            f"{', '.join(ARCHITECTURES)}; for another network write a file.py with a function that builds it"
        )
    try:
        renamed, taken = known.rename(state), known.input_of(state)
        name, module = known.build(renamed)
        missing, unexpected = module.load_state_dict(renamed, strict=False)
    except (RuntimeError, ValueError, KeyError, IndexError, ZeroDivisionError) as error:
        raise ModelError(f"{path}: does not fit the layout it starts with: {error}") from error
    # num_batches_tracked is not used in eval mode and absent from old checkpoints.
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ModelError(f"{path}: not a whole {name} checkpoint: missing {missing[:3]}, unexpected {unexpected[:3]}")
    if wanted is not None and wanted != name:
        raise ModelError(f"{path}: holds {name}, not {wanted}")
    return FaceModel(module, **{"name": name, **taken, **_stated_input(path), **input_spec})


def _stated_input(path: Path) -> dict[str, Any]:
    """FaceModel's keywords in a safetensors file's metadata, where it has any. ModelError where they are none."""
    if path.suffix.lower() != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get(INPUT_KEY)
    if text is None:
        return {}
    try:
        stated = json.loads(text)
        if not isinstance(stated, dict) or set(stated) - set(INPUT_KEYWORDS):
            raise ValueError(f"wanted an object of {', '.join(INPUT_KEYWORDS)}, got {text[:200]}")
        if any(isinstance(value, str) for value in stated.values()) or not isinstance(stated.get("bgr", False), bool):
            raise ValueError(f"wanted numbers, and of bgr true or false, got {text[:200]}")
        FaceModel(nn.Identity(), **stated)
    except (ValueError, TypeError) as error:
        raise ModelError(f"{path}: its metadata {INPUT_KEY} states no input: {error}") from error
    return stated


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise ModelError(f"{path}: no such checkpoint")
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            state: object = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(f"{path}: cannot be read as a state dict (weights only): {error}") from error
    for key in ("state_dict", "model", "backbone"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ModelError(f"{path}: not a state dict: wanted names and tensors")
    state = {str(key): value for key, value in state.items()}
    if any(key.startswith("arcface.") for key in state):  # bubbliiiing's, saved with the head that trained them
        state = {key: value for key, value in state.items() if not key.startswith("head.")}
    for prefix in ("module.", "backbone.", "model.", "arcface."):
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
