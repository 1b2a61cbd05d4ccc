"""veilkern craft: veils for a folder of people."""

from __future__ import annotations

import json
import os
import stat
import time
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

import veilkern as vk
from veilkern.cli._shared import (
    NARROW,
    Bgr,
    Convert,
    Faces,
    Mean,
    Net,
    Overwrite,
    Range,
    Resize,
    Size,
    Std,
    console,
    errors,
    finish,
    load_network,
)
from veilkern.errors import OutputError
from veilkern.people import Problem

DEFAULT = vk.CraftConfig()


def craft(
    faces: Faces,
    model: Net,
    out: Annotated[Path, typer.Option("--out", help="The veil bank to write.")],
    alpha: Annotated[float, typer.Option(help="Share of the photo; rounded to a/255.")] = DEFAULT.alpha,
    lam: Annotated[float, typer.Option(help="Weight of L_vis.")] = DEFAULT.lam,
    mu: Annotated[float, typer.Option(help="Weight of L_var.")] = DEFAULT.mu,
    nu: Annotated[float, typer.Option(help="Weight of L_con, the residual contour; 0: leave it out.")] = DEFAULT.nu,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = DEFAULT.steps,
    photos_per_step: Annotated[
        int, typer.Option(help="Photos of a person per step; 0: all.")
    ] = DEFAULT.photos_per_step,
    step_size: Annotated[float, typer.Option(help="First step, in [0, 1] pixel values.")] = DEFAULT.step_size,
    schedule: Annotated[str, typer.Option(help="linear, cosine or constant.")] = DEFAULT.schedule,
    decay: Annotated[float, typer.Option(help="Decay of the momentum.")] = DEFAULT.decay,
    subspace: Annotated[str, typer.Option(help="centre, convex, affine, span or self.")] = DEFAULT.subspace,
    visual: Annotated[str, typer.Option(help="norm or mse.")] = DEFAULT.visual,
    block: Annotated[tuple[int, int], typer.Option(help="Height and width of the boxes of L_var.")] = DEFAULT.block,
    block_stride: Annotated[int, typer.Option(help="Stride of the boxes.")] = DEFAULT.block_stride,
    variance: Annotated[str, typer.Option(help="consistent or literal.")] = DEFAULT.variance,
    early_stop: Annotated[bool, typer.Option(help="Stop a person who no longer improves.")] = DEFAULT.early_stop,
    stop_distance: Annotated[
        float, typer.Option(help="Feature distance that counts as reached.")
    ] = DEFAULT.stop_distance,
    stop_improvement: Annotated[
        float, typer.Option(help="Least relative gain over `patience` steps.")
    ] = DEFAULT.stop_improvement,
    patience: Annotated[int, typer.Option(help="Steps over which the gain is measured.")] = DEFAULT.patience,
    seed: Annotated[int | None, typer.Option(help="Make the key from a number (experiments only).")] = None,
    photos_in_flight: Annotated[int, typer.Option(help="Photos in the network at a time.")] = DEFAULT.photos_in_flight,
    key_file: Annotated[Path | None, typer.Option(help="File with the master key, 16 bytes or more.")] = None,
    held_out: Annotated[int, typer.Option(help="Last photos of each person kept out and reported on.")] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the veils in --out, craft only who is missing.")
    ] = False,
    overwrite: Overwrite = False,
    check: Annotated[bool, typer.Option(help="First check that the network tells these people apart.")] = True,
    resize: Resize = False,
    convert: Convert = False,
    input_size: Size = 112,
    input_mean: Mean = None,
    input_std: Std = None,
    input_bgr: Bgr = False,
    input_range: Range = None,
) -> None:
    """Craft one veil per person."""
    values = {name: value for name, value in locals().items() if name in {f.name for f in fields(vk.CraftConfig)}}
    config = vk.CraftConfig(**values)
    earlier = _earlier(out, resume, overwrite)
    key = _read_key(key_file) if key_file else None
    network = load_network(model, input_size, input_mean, input_std, input_bgr, input_range)
    with errors.status("reading photos"):
        people = vk.read_people(faces, size=network.input.size, resize=resize, convert=convert)
    problems, notices = people.problems, people.notices
    if earlier is not None:
        people = people.take(
            [i for i, p in enumerate(people.rows.tolist()) if people.names[p] not in set(earlier.names)]
        )
        if not len(people):
            errors.print(f"everybody in {escape(str(faces))} has a veil in {escape(str(out))} already", soft_wrap=True)
            return finish(problems, notices)
    crafting, unseen = people.split(held_out)
    if check and len(people) > 1 and int(people.counts.max()) > 1:
        errors.print(f"{escape(network.name)}: {network.check(people)}", soft_wrap=True)
    started = time.monotonic()
    try:
        result = vk.craft(network, crafting, config, key=key, held_out=unseen if len(unseen) else None)
    except vk.CraftInterrupted as stop:
        _save(stop.result, earlier, out)
        errors.print(f"[red]{escape(str(stop))}[/]; --resume goes on", soft_wrap=True)
        raise typer.Exit(130) from None
    _save(result, earlier, out)
    problems = problems + [Problem(r["name"], r["status"]) for r in result.report if r["status"].startswith("failed")]
    _print_craft(result, out, time.monotonic() - started, json_output)
    return finish(problems, notices)


def _earlier(out: Path, resume: bool, overwrite: bool) -> vk.VeilBank | None:
    """The bank that --resume adds to. Looks before the work begins, not after it."""
    if resume and overwrite:
        raise typer.BadParameter("--resume and --overwrite exclude each other")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise OutputError(f"{out}: its folder is missing or cannot be written to")
    if not out.exists():
        return None
    if resume:
        return vk.VeilBank.load(out)
    if not overwrite:
        raise OutputError(
            f"{out}: there already, and without its veils the photos they protect are lost; --resume adds to "
            "it, --overwrite replaces it"
        )
    return None


def _read_key(path: Path) -> bytes:
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            errors.print(
                f"[yellow]note[/] {escape(str(path))} can be read by others; a key file should have mode 0600",
                soft_wrap=True,
            )
        return path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise OutputError(f"{path}: the key file cannot be read: {error.strerror or error}") from error


def _save(result: vk.CraftResult, earlier: vk.VeilBank | None, out: Path) -> None:
    if len(result.bank):
        (result.bank if earlier is None else earlier.join(result.bank)).save(out)


def _print_craft(result: vk.CraftResult, out: Path, seconds: float, as_json: bool) -> None:
    report = [{k: v for k, v in record.items() if k != "photo_ids"} for record in result.report]
    if as_json:
        print(json.dumps({"out": str(out), "seconds": round(seconds, 2), "people": report}, indent=1))
        return
    title = f"{len(result.bank)} veils in {out} ({seconds:.1f} s)"
    table = Table(
        Column("person", no_wrap=True), "photos", Column("status", no_wrap=True), "steps", title=title, **NARROW
    )
    for name in ("feature\ndistance", "cosine", "held-out\ncosine", "held-out\nrank-1"):
        table.add_column(name)
    for record in report:
        held = record.get("held_out", {})
        figures = [record.get("feature_distance"), record.get("cosine"), held.get("cosine"), held.get("rank1")]
        table.add_row(
            escape(record["name"]),
            str(record.get("photos", "")),
            escape(record["status"]),
            str(record["steps"]),
            *["–" if f is None else f"{f:.3f}" for f in figures],
        )
    console.print(table)
