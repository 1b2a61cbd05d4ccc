"""veilkern train: a face-recognition network fitted, or fine-tuned, on a folder of identities."""

from __future__ import annotations

import json
import logging
import signal
import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

import veilkern as vk
from veilkern.cli._shared import Convert, Overwrite, Resize, console, errors, finish, sigterm_as_ctrl_c
from veilkern.networks.loading import ARCHITECTURES
from veilkern.threads import default_threads
from veilkern.training.config import OPTIMIZERS, PRECISIONS
from veilkern.training.heads import HEADS
from veilkern.training.schedule import SCHEDULES

if TYPE_CHECKING:
    from veilkern.training.result import TrainResult

DEFAULT = vk.TrainConfig("")
HOW, SEEN, MACHINE = "How it learns", "Verification and progress", "Machine"


def _option(text: str, *names: str, panel: str | None = HOW, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


def train(
    faces: Annotated[
        list[Path],
        typer.Argument(metavar="FACES", help="One folder per identity; or WebDataset tars; or insightface's .rec."),
    ],
    arch: Annotated[str, typer.Option("--arch", help=f"{', '.join(ARCHITECTURES)}.")],
    out: Annotated[Path, typer.Option("--out", help="The network's file, .safetensors; --model takes it as it is.")],
    small: Annotated[bool, typer.Option("--small", help="The architecture with few channels and layers.")] = False,
    embedding: Annotated[int | None, typer.Option(help="Numbers of a feature; default: 512, small 128.")] = None,
    start: Annotated[
        Path | None, typer.Option("--from", metavar="CHECKPOINT", help="Fine-tune this checkpoint of --arch.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from OUT.training, if it is there; else begin.")
    ] = False,
    overwrite: Overwrite = False,
    resize: Resize = False,
    convert: Convert = False,
    head: Annotated[str, _option(f"The loss: {', '.join(HEADS)}.")] = DEFAULT.head,
    margin: Annotated[
        float | None, _option("lmcl: of the cosine, default 0.35; arcface: radians, default 0.5.")
    ] = None,
    scale: Annotated[
        float | None, _option("Of the logits of lmcl and arcface; default: 64 from 10,000 identities on, else 24.")
    ] = None,
    margin_warmup: Annotated[
        float, _option("Share of the steps over which the margin grows from 0.")
    ] = DEFAULT.margin_warmup,
    optimizer: Annotated[str, _option(f"{' or '.join(OPTIMIZERS)}.")] = DEFAULT.optimizer,
    lr: Annotated[
        float | None,
        _option(
            "Largest learning rate; default: 0.1 for 512 photos a batch (sgd), 0.003 for 128 (adamw), in proportion; "
            "with --from a tenth."
        ),
    ] = None,
    weight_decay: Annotated[float | None, _option("Default: 0.0005 (sgd), 0.01 (adamw).")] = None,
    clip: Annotated[float, _option("Largest norm of the gradient; 0: any.")] = DEFAULT.clip,
    schedule: Annotated[str, _option(f"Of the learning rate: {', '.join(SCHEDULES)}.")] = DEFAULT.schedule,
    warmup: Annotated[float, _option("Share of the steps over which the rate grows to its largest.")] = DEFAULT.warmup,
    epochs: Annotated[float | None, _option("Times that all photos are gone over; default: 20.")] = None,
    steps: Annotated[int | None, _option("Batches, in place of --epochs.")] = None,
    batch: Annotated[int, _option("Photos a step, on all devices together.")] = DEFAULT.batch,
    shift: Annotated[int, _option("Move photos at random by up to so many pixels.")] = DEFAULT.shift,
    brightness: Annotated[
        float, _option("Make photos at random lighter or darker, by up to this share.")
    ] = DEFAULT.brightness,
    seed: Annotated[int, _option("Of the first weights, the order of photos and what is done to them.")] = DEFAULT.seed,
    held_out: Annotated[
        float | None,
        _option(
            "Identities never trained on, to verify on: a share or a number; default: a twentieth, at most 500.",
            panel=SEEN,
        ),
    ] = None,
    verify: Annotated[
        list[Path] | None, _option("Verify on these photos instead, of the kinds of FACES.", panel=SEEN)
    ] = None,
    verify_every: Annotated[int | None, _option("Steps; default: each epoch.", panel=SEEN, min=1)] = None,
    log: Annotated[Path | None, _option("Write a JSON line each time to this file.", panel=SEEN)] = None,
    json_output: Annotated[bool, _option("Print the lines as JSON.", "--json", panel=SEEN)] = False,
    precision: Annotated[str, _option(f"{', '.join(PRECISIONS)}.", panel=MACHINE)] = DEFAULT.precision,
    accelerator: Annotated[str, _option("Of Lightning Fabric: auto, cpu, cuda, ..", panel=MACHINE)] = "auto",
    devices: Annotated[str, _option("How many, or auto.", panel=MACHINE)] = "1",
    workers: Annotated[int, _option("Processes that decode photos; 0: this one.", panel=MACHINE, min=0)] = 0,
    threads: Annotated[
        int | None, _option("On the CPU; default: as many as there are cores to use.", panel=MACHINE, min=1)
    ] = None,
    save_every: Annotated[int, _option("Steps between checkpoints.", panel=MACHINE, min=1)] = 500,
) -> None:
    """Fit or fine-tune a face-recognition network on a folder of identities."""
    values = {name: value for name, value in locals().items() if name in {f.name for f in fields(vk.TrainConfig)}}
    config = vk.TrainConfig(**values)
    if devices != "auto" and not devices.isdecimal():
        raise typer.BadParameter(f"wanted a number or auto, got {devices!r}", param_hint="--devices")
    # It would repeat what it was told.
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    started = time.monotonic()
    with sigterm_as_ctrl_c():
        try:
            result = vk.train(
                faces,
                config,
                out=out,
                start=start,
                verify=verify or None,
                resume=resume,
                overwrite=overwrite,
                resize=resize,
                convert=convert,
                workers=workers,
                save_every=save_every,
                verify_every=verify_every,
                log=log,
                accelerator=accelerator,
                devices=devices if devices == "auto" else int(devices),
                threads=default_threads() if threads is None else threads,
                tell=tell_json if json_output else tell,
            )
        except vk.TrainInterrupted as stop:
            errors.print(f"[red]{escape(str(stop))}: the same command with --resume goes on[/]", soft_wrap=True)
            raise typer.Exit(143 if stop.signum == signal.SIGTERM else 130) from None
    if not json_output:
        _print(result, time.monotonic() - started)
    finish(result.problems, result.notices)


def tell(line: dict[str, Any]) -> None:
    """One line of a training's log in words."""
    from veilkern.training.verification import Verification

    found = line["verification"]
    words = f"epoch {line['epoch']:.2f}, step {line['step']}/{line['steps']}: loss {line['loss']:.3f}"
    words += "" if found is None else f", {Verification(**found)}"
    console.print(f"{words} ({line['photos_per_second']:.0f} photos/s)", soft_wrap=True, highlight=False)


def tell_json(line: dict[str, Any]) -> None:
    """One line of a training's log as it is."""
    print(json.dumps(line), flush=True)


def _print(result: TrainResult, seconds: float) -> None:
    words = (
        f"{escape(str(result.path))}: {result.steps} steps on {result.photos} photos of {result.identities} identities"
    )
    console.print(f"{words} ({seconds:.1f} s)", soft_wrap=True, highlight=False)
