"""What a training came to, and the file that holds it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from veilkern.data.files import atomic_write
from veilkern.data.people import Problem
from veilkern.errors import OutputError
from veilkern.networks.input_spec import InputSpec
from veilkern.networks.making import stated
from veilkern.training import checkpoint
from veilkern.training.config import TrainConfig, input_keywords

PREFIX = "training."  # of the metadata in a trained network's file


@dataclass
class TrainResult:
    """What a training came to. path: the network's file; history: one line each time that it was verified, as in the
    log; identities, photos: that it was trained on; problems: what was left out; notices: what is worth knowing."""

    path: Path
    steps: int
    identities: int
    photos: int
    history: list[dict[str, Any]]
    problems: list[Problem] = field(default_factory=list)
    notices: list[Problem] = field(default_factory=list)

    @property
    def verification(self) -> dict[str, Any] | None:
        """Figures of the trained network on the held-out identities; None where there were none."""
        return self.history[-1]["verification"] if self.history else None


def write(
    result: TrainResult,
    weights: dict[str, torch.Tensor],
    config: TrainConfig,
    spec: InputSpec,
    about: dict[str, Any],
) -> None:
    """The network's file: its state dict, and metadata that tell its input and how it was trained. The same training
    gives the same bytes, whether it was interrupted or not."""
    figures = [{k: v for k, v in line.items() if k != "photos_per_second"} for line in result.history]
    words = {
        "architecture": config.arch,
        **stated(input_keywords(spec)),
        PREFIX + "head": config.head,
        PREFIX + "margin": str(about["margin"]),
        PREFIX + "identities": str(result.identities),
        PREFIX + "photos": str(result.photos),
        PREFIX + "steps": str(result.steps),
        PREFIX + "verification": json.dumps(result.verification),
        PREFIX + "history": json.dumps(figures),
        PREFIX + "about": json.dumps(about),
    }
    atomic_write(result.path, checkpoint.file_of(weights, words))


def finished(out: Path, about: dict[str, Any], problems: list[Problem], notices: list[Problem]) -> TrainResult:
    """The result of a training that has ended already, as its file tells. OutputError where that is another one."""
    from safetensors import safe_open

    try:
        with safe_open(os.fspath(out), "pt") as file:
            words = file.metadata() or {}
        before, history = json.loads(words[PREFIX + "about"]), json.loads(words[PREFIX + "history"])
        steps, identities, photos = (int(words[PREFIX + name]) for name in ("steps", "identities", "photos"))
    except Exception as error:  # its reader raises errors of every class
        raise OutputError(f"{out}: there already, and no network that veilkern trained; kept") from error
    checkpoint.refuse_differences(out, before, about)
    notices.append(Problem(str(out), "trained already; nothing to do"))
    return TrainResult(out, steps, identities, photos, history, problems, notices)
