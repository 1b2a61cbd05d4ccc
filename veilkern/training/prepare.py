"""What a training begins with: network, head, photos to verify on, and the words by which it is known again."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from veilkern.data.people import Problem
from veilkern.errors import ModelError
from veilkern.networks.face_model import FaceModel
from veilkern.networks.input_spec import InputSpec
from veilkern.networks.loading import load
from veilkern.networks.making import make
from veilkern.training import checkpoint
from veilkern.training.config import MOST_HELD_OUT, Plan, TrainConfig
from veilkern.training.data import Faces, Photos, Reading, able_of, open_source, split
from veilkern.training.heads import Head, make_head
from veilkern.training.verification import HeldOut, read_held_out

Start = str | os.PathLike[str] | FaceModel | None


def network_of(config: TrainConfig, start: Start) -> tuple[nn.Module, InputSpec, str]:
    """The network to train, its input, and where it comes from: "", or the fingerprint of the checkpoint `start`.

    Its fresh weights are drawn by the config's seed. ModelError where the checkpoint cannot be loaded, or does not fit.
    """
    begun = None if start is None else load(start)
    embedding = config.embedding
    if begun is not None and embedding is None:
        black = torch.zeros((1, 3, *begun.input.size), dtype=torch.uint8)
        embedding = begun.features(black, check=False).shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net, keywords = make(config.arch, embedding=embedding, small=config.small)
    if begun is None:
        return net, FaceModel(net, **keywords).input, ""
    there = begun.module.state_dict()
    if odd := _misfit(net.state_dict(), there):
        name = begun.name if isinstance(start, FaceModel) else start
        kind = f"{'a small ' if config.small else ''}{config.arch}"
        raise ModelError(
            f"{name}: holds {begun.name}, which does not fit {kind} ({odd}); see arch, small and embedding (--arch, "
            "--small, --embedding)"
        )
    net.load_state_dict(there)
    return net, begun.input, begun.fingerprint


def _misfit(wanted: dict[str, torch.Tensor], there: dict[str, torch.Tensor]) -> str:
    """The first name under which two state dicts differ in shape, and how; "" where there is none."""
    for name in sorted({*wanted, *there}):
        shapes = [str(list(state[name].shape)) if name in state else "none" for state in (wanted, there)]
        if shapes[0] != shapes[1]:
            return f"{name}: wanted and there are {' and '.join(shapes)}"
    return ""


def head_of(config: TrainConfig, plan: Plan, net: nn.Module, spec: InputSpec, identities: int) -> Head:
    """A head for the network, its weights drawn by the config's seed."""
    was = net.training
    with torch.no_grad():
        embedding = net.eval()(torch.zeros(1, 3, *spec.size)).flatten(1).shape[1]
    net.train(was)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed + 1)
        return make_head(config.head, identities, embedding, margin=plan.margin, scale=plan.scale)


def held_out_of(others: Photos, verify: Faces | None, reading: Reading, problems: list[Problem]) -> HeldOut | None:
    """The photos to verify on: those of `others`, or of up to MOST_HELD_OUT identities of `verify`; None without."""
    if verify is not None:
        source = open_source(verify, problems, [])
        _, others = split(source, min(able_of(source), MOST_HELD_OUT))
    elif not len(others):
        return None
    return read_held_out(others, reading, problems)


def about(config: TrainConfig, plan: Plan, photos: Photos, origin: str, reading: Reading) -> dict[str, Any]:
    """What a training must be continued with, as JSON has it."""
    names = hashlib.sha256("\n".join(photos.identities).encode(errors="surrogateescape")).hexdigest()
    found = {
        **config.as_dict(),
        **vars(plan),
        "from": origin,
        "photos": photos.source.digest(),
        "identities": names,
        "size": list(reading.size),
        "resize": reading.resize,
        "convert": reading.convert,
    }
    return json.loads(json.dumps(found))


def progress_of(
    state: Path, words: dict[str, Any], threads: int, notices: list[Problem]
) -> tuple[dict[str, torch.Tensor], checkpoint.Progress]:
    """Tensors and progress of the checkpoint, once it is known to be of this training; OutputError where it is not."""
    tensors, done, before = checkpoint.read(state)
    used = before.pop("threads", threads)
    checkpoint.refuse_differences(state, before, words)
    if used != threads:
        cause = f"begun with {used} threads, goes on with {threads}: the last bits may be others"
        notices.append(Problem("train", cause))
    return tensors, done
