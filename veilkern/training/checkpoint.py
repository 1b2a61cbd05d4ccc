"""The checkpoint of a training: all that the next step needs, in one safetensors file that is written whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from veilkern.data.files import atomic_write
from veilkern.errors import ModelError, OutputError

FORMAT = "veilkern training 1"


@dataclass
class Progress:
    """How far a training is. step: steps done; losses: of each step since the last line of its log; history: the lines;
    problems: photos left out so far, and why."""

    step: int = 0
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)


def path_of(out: Path) -> Path:
    """Where the checkpoint of a network lies that is to be written to `out`."""
    return out.with_name(out.name + ".training")


def save(
    path: Path, modules: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, about: dict[str, Any]
) -> None:
    """Write weights, the optimiser's state and the progress. about: what the training was begun with, see
    `refuse_differences`. OutputError where it cannot be written; the checkpoint of before then stays."""
    tensors = {f"weights.{name}": value for name, value in modules.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in state.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    words = {"format": FORMAT, "about": json.dumps(about), "progress": json.dumps(vars(progress))}
    atomic_write(path, file_of(tensors, words))


def file_of(tensors: dict[str, torch.Tensor], words: dict[str, str]) -> list[memoryview | bytes]:
    """A safetensors file with metadata, in pieces: the same bytes for the same content (the library alone writes
    metadata in another order each time)."""
    from safetensors.torch import save as to_bytes

    data = memoryview(to_bytes(tensors, words))
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(bytes(data[8:end])), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return [len(header).to_bytes(8, "little"), header, data[end:]]


def read(path: Path) -> tuple[dict[str, torch.Tensor], Progress, dict[str, Any]]:
    """Tensors by their names, progress, and what the training was begun with. OutputError where it is damaged."""
    from safetensors import safe_open

    try:
        with safe_open(os.fspath(path), "pt") as file:
            words = file.metadata() or {}
            if words.get("format") != FORMAT:
                raise ValueError(f"its format is {words.get('format')!r}, wanted {FORMAT!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        return tensors, Progress(**json.loads(words["progress"])), json.loads(words["about"])
    except Exception as error:  # its readers raise errors of every class
        raise OutputError(f"{path}: cannot be read as the checkpoint of a training: {error}") from error


def restore(tensors: dict[str, torch.Tensor], modules: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put weights and the optimiser's state back. ModelError where they do not fit."""
    weights = {name.removeprefix("weights."): t for name, t in tensors.items() if name.startswith("weights.")}
    try:
        modules.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(f"the checkpoint's weights do not fit the network: {error}") from error
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            number, _, field_ = rest.partition(".")
            own = parameters[int(number)]
            # In the parameter's memory layout: another one may add in another order.
            state.setdefault(int(number), {})[field_] = (
                torch.empty_like(own).copy_(value) if value.shape == own.shape and value.ndim else value
            )
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def refuse_differences(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """OutputError that names each value in which what the training was begun with differs from what it is to be
    continued with."""
    changed = [
        f"{name} {_short(before.get(name))} (now {_short(now.get(name))})"
        for name in dict.fromkeys([*before, *now])
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise OutputError(
            f"{path}: begun with another {', '.join(changed)}; give what it was begun with, or overwrite=True "
            "(--overwrite) to begin again"
        )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}.."


def parts_of(modules: Iterable[nn.Module]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters that weight decay is for, those of two axes and more, and all others: biases, BatchNorms, slopes."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    return [p for p in parameters if p.ndim >= 2], [p for p in parameters if p.ndim < 2]
