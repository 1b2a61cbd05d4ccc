"""train: a network fitted, or fine-tuned, on a folder of identities."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from veilkern import errors
from veilkern.data.files import atomic_write, locked
from veilkern.data.people import Problem
from veilkern.errors import OutputError, PhotoError
from veilkern.progress import progress_bar
from veilkern.threads import using_threads
from veilkern.training import checkpoint, loop, prepare
from veilkern.training.config import Plan, TrainConfig
from veilkern.training.data import Faces, Photos, Reading, able_of, open_source, split
from veilkern.training.extra import needed
from veilkern.training.result import TrainResult, finished, write


class TrainInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended a training; its checkpoint is at `checkpoint`, after `step` steps. signum: the signal."""

    def __init__(self, path: Path, step: int, signum: int):
        super().__init__(f"interrupted after step {step}; the checkpoint is {path}")
        self.checkpoint, self.step, self.signum = path, step, signum


@dataclass
class _Shown:
    """What a training shows while it runs; goes to the processes of several devices."""

    title: str
    progress: bool | Callable[[int, int], None] | None
    tell: Callable[[dict[str, Any]], None] | None
    log: Path | None


def train(
    faces: Faces,
    config: TrainConfig,
    *,
    out: str | os.PathLike[str],
    start: prepare.Start = None,
    verify: Faces | None = None,
    resume: bool = False,
    overwrite: bool = False,
    resize: bool = False,
    convert: bool = False,
    workers: int = 0,
    save_every: int = 500,
    verify_every: int | None = None,
    log: str | os.PathLike[str] | None = None,
    accelerator: str = "auto",
    devices: int | str = 1,
    threads: int | None = None,
    progress: bool | Callable[[int, int], None] | None = None,
    tell: Callable[[dict[str, Any]], None] | None = None,
) -> TrainResult:
    """Train a face-recognition network on identities, and write it to `out`, a safetensors file that FaceModel.load
    reads with no further words.

    faces: a folder with one folder per identity; WebDataset tars (a folder of them, files, patterns); insightface's
    .rec with its .idx; or People. config: see TrainConfig. start: a checkpoint of the architecture to fine-tune, by
    path or as a FaceModel. verify: other photos, of the same kinds, to verify on; then nobody of `faces` is held out.

    Every save_every steps weights, optimiser and progress are written to OUT.training, and when Ctrl-C or SIGTERM ends
    it (TrainInterrupted). resume: go on from there, which on a CPU ends with the same bits (with as many threads); with
    nothing there it begins, and what is finished already is left as it is. overwrite: begin again. Otherwise what is
    there is kept: OutputError, as where the training was begun with other options or photos.

    Photos of another size are left out unless `resize`; see `read_photo` for it and `convert`. Photos that cannot be
    used are listed in the result's problems. workers: processes that decode; 0: this one, which keeps up to 1 GiB of
    decoded photos. verify_every: steps; default: each epoch. log: a file of JSON lines, one each time. accelerator,
    devices: Lightning Fabric's ("cpu", "cuda", ..; a number or "auto"); config.batch is shared out to devices, each of
    which has BatchNorm statistics of its own. Several are processes of their own: the script must be importable, and
    `progress` and `tell`, called with (done, all) steps and with each line of the log, must be picklable; and Ctrl-C
    leaves the last checkpoint, not one of the step in work. threads: on the CPU.

    Raises ModelError where the extra `train` is missing, a checkpoint does not fit, or the loss is no longer a number
    (the last checkpoint stays), PhotoError where there is nothing to train on, ValueError for wrong arguments.
    """
    out = Path(out)
    _check_arguments(out, config, verify, save_every=save_every, verify_every=verify_every, workers=workers)
    fabric = _fabric(accelerator, devices, config)
    with locked(out), using_threads(threads) as used:
        state = checkpoint.path_of(out)
        _refuse_what_is_there(out, state, resume, overwrite)
        problems, notices = list[Problem](), list[Problem]()
        photos, others = _photos(faces, config, verify is not None, problems, notices)
        net, spec, origin = prepare.network_of(config, start)
        reading = Reading(spec.size, resize, convert)
        plan = Plan.of(config, len(photos.identities), len(photos), tuned=start is not None)
        words = prepare.about(config, plan, photos, origin, reading)
        if resume and out.exists() and not state.exists():
            return finished(out, words, problems, notices)
        tensors, done = None, checkpoint.Progress()
        if resume and state.exists():
            tensors, done = prepare.progress_of(state, words, used, notices)
        job = loop.Job(
            net=net,
            head=prepare.head_of(config, plan, net, spec, len(photos.identities)),
            photos=photos,
            reading=reading,
            held_out=prepare.held_out_of(others, verify, reading, problems),
            spec=spec,
            config=config,
            plan=plan,
            state=state,
            about=words | {"threads": used},
            save_every=save_every,
            verify_every=verify_every or 0,
            workers=workers,
            done=done,
            tensors=tensors,
        )
        shown = _Shown(f"training {config.arch}", progress, tell, None if log is None else Path(log))
        weights, done = _launch(fabric, job, shown)
        problems += [Problem(file, cause) for file, cause in sorted(done.problems.items())]
        result = TrainResult(out, done.step, len(photos.identities), len(photos), done.history, problems, notices)
        write(result, weights, config, spec, words)
        state.unlink(missing_ok=True)
    return result


def _check_arguments(out: Path, config: TrainConfig, verify: Faces | None, **numbers: int | None) -> None:
    if out.suffix.lower() != ".safetensors":
        raise ValueError(f"train: out must end in .safetensors, got {out}")
    if verify is not None and config.held_out:
        raise ValueError("train: held_out and verify exclude each other")
    for name, value in numbers.items():
        least = 0 if name == "workers" else 1
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ValueError(f"train: {name} must be an integer of {least} at least, got {value!r}")


def _fabric(accelerator: str, devices: int | str, config: TrainConfig) -> Any:
    """Fabric on these devices of this machine; several are processes of their own."""
    fabric = needed("lightning_fabric")
    if config.head != "softmax":  # rather now than when the photos are read
        needed("pytorch_metric_learning")
    strategy = "auto" if devices == 1 else "ddp_spawn"
    try:
        made = fabric.Fabric(accelerator=accelerator, devices=devices, strategy=strategy, precision=config.precision)
    except (ValueError, RuntimeError, fabric.utilities.exceptions.MisconfigurationException) as error:
        raise ValueError(f"train: accelerator {accelerator!r}, devices {devices!r}: {error}") from error
    if config.batch % made.world_size or config.batch // made.world_size < 2:
        raise ValueError(
            f"train: batch must be shared out evenly, two photos at least to each of {made.world_size} devices, got "
            f"{config.batch}"
        )
    return made


def _refuse_what_is_there(out: Path, state: Path, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise ValueError("train: resume and overwrite exclude each other")
    if not (resume or overwrite):
        if out.exists():
            raise OutputError(f"{out}: there already; kept (overwrite=True, --overwrite to replace it)")
        if state.exists():
            raise OutputError(
                f"{state}: a training was interrupted; resume=True (--resume) goes on, overwrite=True (--overwrite) "
                "begins again"
            )


def _photos(
    faces: Faces, config: TrainConfig, verified_elsewhere: bool, problems: list[Problem], notices: list[Problem]
) -> tuple[Photos, Photos]:
    """Those to train on, and those of the identities that are held out."""
    source = open_source(faces, problems, notices)
    count = 0 if verified_elsewhere else config.held_out_of(len(source.identities), able_of(source))
    photos, others = split(source, count)
    if len(photos.identities) < 2:
        raise PhotoError(f"training needs two identities at least, got {len(photos.identities)}")
    if len(photos) < config.batch:
        cause = f"{len(photos)} photos, fewer than a batch of {config.batch}: some come twice in a step"
        notices.append(Problem("train", cause))
    return photos, others


def _launch(fabric: Any, job: loop.Job, shown: _Shown) -> tuple[dict[str, torch.Tensor], checkpoint.Progress]:
    """Train in this process, or in one for each device; the network's state dict, and how far it came."""
    try:
        fabric.launch(_Work(job, shown))
    except loop.Stopped as stop:
        raise TrainInterrupted(job.state, stop.step, stop.signum) from None
    except torch.multiprocessing.ProcessRaisedException as error:  # type: ignore[attr-defined]
        # It holds the traceback of a device's process as text.
        kind, _, text = str(error).strip().rpartition("veilkern.errors.")[2].partition(": ")
        known = getattr(errors, kind, None)
        if isinstance(known, type) and issubclass(known, errors.VeilkernError):
            raise known(text) from error
        raise
    if fabric.world_size == 1:
        return {name: value.detach().cpu().contiguous() for name, value in job.net.state_dict().items()}, job.done
    tensors, done, _ = checkpoint.read(job.state)  # the way back from other processes
    prefix = "weights.net."
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}, done


@dataclass
class _Work:
    """What the process of each device does. An object: Fabric looks through arguments, and takes no frozen ones."""

    job: loop.Job
    shown: _Shown

    def __call__(self, fabric: Any) -> None:
        job, shown, first = self.job, self.shown, fabric.is_global_zero
        if fabric.world_size > 1:  # or the processes would train one network in the memory that they share
            job = dataclasses.replace(job, net=copy.deepcopy(job.net), head=copy.deepcopy(job.head))

        def tell(line: dict[str, Any]) -> None:
            if shown.log is not None:  # all lines anew: whole or not at all, and none twice after a resume
                atomic_write(shown.log, "".join(json.dumps(one) + "\n" for one in job.done.history).encode())
            if shown.tell is not None:
                shown.tell(line)

        with progress_bar(shown.progress if first else False, job.plan.steps, shown.title) as bar:
            bar.advance(job.done.step)
            loop.run(fabric, job, lambda step: bar.advance(step - bar.done), tell)
