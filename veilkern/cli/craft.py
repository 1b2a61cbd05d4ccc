"""veilkern craft: veils for a folder of people."""

from __future__ import annotations

import functools
import json
import os
import time
from dataclasses import fields
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

import veilkern as vk
from veilkern.cli._shared import (
    CHECKED,
    NARROW,
    Bgr,
    Convert,
    Cores,
    Faces,
    Gpus,
    Join,
    Mean,
    Nets,
    Overwrite,
    Range,
    RayAddress,
    Resize,
    Shards,
    Size,
    Std,
    Terminated,
    Workers,
    check_network,
    completing_names,
    console,
    errors,
    finish,
    load_networks,
    refuse,
    sigterm_as_ctrl_c,
)
from veilkern.data.files import locked
from veilkern.errors import OutputError
from veilkern.threads import default_threads
from veilkern.veils.compatibility import current

if TYPE_CHECKING:
    from veilkern.cli._target import Target

SCHEME, LOSS, STEPS, KEYS, AGAIN = (
    functools.partial(typer.Option, rich_help_panel=panel)
    for panel in ("The scheme", "The loss", "Steps", "The key", "A bank that is there")
)
DEFAULT, SEALED = vk.CraftConfig(), vk.CraftConfig(scheme="sealed")


def _both(name: str) -> str:
    """The default of a weight in both schemes."""
    return f"{getattr(DEFAULT, name):g}, sealed {getattr(SEALED, name):g}"


def craft(
    context: typer.Context,
    faces: Faces,
    model: Nets,
    out: Annotated[Path, typer.Option("--out", help="The veil bank to write.")],
    weight: Annotated[
        list[float] | None,
        typer.Option(help="Of each --model, where there are several: its share of the loss; default: even."),
    ] = None,
    scheme: Annotated[
        str,
        SCHEME(help="blend (photos mixed with the veil) or sealed (encrypted under it)."),
    ] = DEFAULT.scheme,
    levels: Annotated[int, SCHEME(help="Of sealed photos: 16, 32, 64 or 128.")] = DEFAULT.levels,
    rounds: Annotated[int, SCHEME(help="Of ChaCha, for sealed photos: 20 or 12.")] = DEFAULT.rounds,
    robust: Annotated[
        str | None,
        SCHEME(help="none, mild or strong; default: mild for sealed, none for blend."),
    ] = None,
    alpha: Annotated[
        float | None,
        SCHEME(help=f"Share of the photo, rounded to a/255; default: {DEFAULT.alpha:g}."),
    ] = None,
    lam: Annotated[float | None, LOSS(help=f"Weight of L_vis; default: {_both('lam')}.")] = None,
    mu: Annotated[float | None, LOSS(help=f"Weight of L_var; default: {_both('mu')}.")] = None,
    nu: Annotated[
        float | None,
        LOSS(help=f"Weight of L_con, the residual contour; 0: leave it out; default: {_both('nu')}."),
    ] = None,
    steps: Annotated[
        int | None,
        STEPS(help="Optimiser steps; default: 40; sealed, robust none: 16; mild: 80; strong: 200."),
    ] = None,
    photos_per_step: Annotated[int, STEPS(help="Photos of a person per step; 0: all.")] = DEFAULT.photos_per_step,
    step_size: Annotated[
        float | None,
        STEPS(help="First step, in [0, 1] pixel values; default: 16/255; sealed, robust none: 32/255."),
    ] = None,
    schedule: Annotated[str, STEPS(help="linear, cosine or constant.")] = DEFAULT.schedule,
    decay: Annotated[
        float | None,
        STEPS(help="Decay of the momentum; default: 0.9; sealed 0.8; mild, strong 1."),
    ] = None,
    subspace: Annotated[str, LOSS(help="centre, convex, affine, span or self.")] = DEFAULT.subspace,
    visual: Annotated[str, LOSS(help="norm or mse.")] = DEFAULT.visual,
    block: Annotated[
        tuple[int, int] | None,
        LOSS(help="Height and width of the boxes of L_var; default: 3 3, sealed 9 9."),
    ] = None,
    block_stride: Annotated[int, LOSS(help="Stride of the boxes.")] = DEFAULT.block_stride,
    block_form: Annotated[str, LOSS(help="Of L_var: consistent or literal.")] = DEFAULT.block_form,
    early_stop: Annotated[
        bool | None,
        STEPS("--early-stop/--no-early-stop", help="Stop who no longer improves; default: unless robust."),
    ] = None,
    stop_distance: Annotated[float, STEPS(help="Feature distance that counts as reached.")] = DEFAULT.stop_distance,
    stop_improvement: Annotated[
        float, STEPS(help="Least relative gain over `patience` steps.")
    ] = DEFAULT.stop_improvement,
    patience: Annotated[int, STEPS(help="Steps over which the gain is measured.")] = DEFAULT.patience,
    seed: Annotated[int | None, KEYS(help="Make the key from a number (experiments only).")] = None,
    precision: Annotated[
        str, STEPS(help="Of the network's activations in a step: float32 or bfloat16.")
    ] = DEFAULT.precision,
    photos_in_flight: Annotated[int, STEPS(help="Photos in the network at a time.")] = DEFAULT.photos_in_flight,
    key_file: Annotated[
        Path | None,
        KEYS(help="File with the master key, 16 bytes or more; default for sealed: OUT.key, made if missing."),
    ] = None,
    held_out: Annotated[int, typer.Option(help="Last photos of each person kept out and reported on.")] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    resume: Annotated[
        bool,
        AGAIN("--resume", help="Keep the veils in --out and its journal, craft only who is missing."),
    ] = False,
    add: Annotated[
        bool,
        AGAIN("--add", help="Add who is missing to the bank --out, crafted as it was; run again, it goes on."),
    ] = False,
    overwrite: Overwrite = False,
    rotate: Annotated[
        list[str] | None,
        AGAIN(
            "--rotate",
            metavar="NAME",
            help="Give this person of --veils a new veil (may be repeated).",
            autocompletion=completing_names("veils"),
        ),
    ] = None,
    rotate_all: Annotated[bool, AGAIN("--rotate-all", help="Give everybody in --veils a new veil.")] = False,
    veils: Annotated[Path | None, AGAIN("--veils", help="The bank to rotate in; it stays as it is.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads on the CPU; default: as many as there are cores to use.")
    ] = None,
    check: Annotated[bool, typer.Option(help="First check that the network tells these people apart.")] = True,
    resize: Resize = False,
    convert: Convert = False,
    input_size: Size = 112,
    input_mean: Mean = None,
    input_std: Std = None,
    input_bgr: Bgr = False,
    input_range: Range = None,
    ray: RayAddress = None,
    workers: Workers = None,
    cores: Cores = 2,
    gpus: Gpus = 0.0,
    shards: Shards = None,
    join: Join = True,
) -> None:
    """Craft one veil per person."""
    from veilkern.cli._key import KeyBeside
    from veilkern.cli._target import Target
    from veilkern.crafting.run import describe
    from veilkern.crafting.stream import streaming
    from veilkern.data.people import Problem, iter_people, person_folders

    values = {name: value for name, value in locals().items() if name in {f.name for f in fields(vk.CraftConfig)}}
    old = _bank_to_rotate(veils, out, rotate, rotate_all)
    if add:
        _check_add(out, old, overwrite)
    like = out if add else old
    config = vk.CraftConfig(**(values if like is None else _as_before(like, values, context)))
    input_spec = (input_size, input_mean, input_std, input_bgr, input_range)
    if ray is not None:
        from veilkern.cli import _ray

        alone = {"held_out": held_out, "add": add, "overwrite": overwrite, "rotate": rotate, "rotate_all": rotate_all}
        refuse("is not for --ray", **alone)
        where = _ray.cluster(ray, workers, cores, gpus)
        with _ray.going_on():
            return _ray.craft(
                faces,
                model,
                weight,
                input_spec,
                config,
                out=out,
                key_file=key_file,
                where=where,
                json_output=json_output,
                check=check,
                threads=threads,
                resize=resize,
                convert=convert,
                shards=shards,
                join=join,
            )
    refuse("is for --ray", workers=workers, cores=cores != 2, gpus=gpus, shards=shards, no_join=not join)
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise OutputError(f"{out}: its folder is missing or cannot be written to")
    with sigterm_as_ctrl_c(), locked(out):
        target = Target(out, resume or add, overwrite, old, rotate)
        if threads is None and target.book is None:
            threads = default_threads()
        beside = KeyBeside(out, old) if config.scheme == "sealed" and key_file is None else None
        given = vk.read_key(key_file) if key_file else beside.found(config) if beside else None
        key, config = target.key(given, config)
        network = load_networks(model, weight, *input_spec)
        target.refuse_differences(describe(network, network.input.size, config, key))
        problems: list[Problem] = []
        notices: list[Problem] = []
        there = [folder.name for folder in person_folders(faces, problems)]
        if not there:
            listed = "".join(f"\n  {problem}" for problem in problems[:10])
            raise vk.PhotoError(f"{faces}: no person's folder; wanted one folder per person with photos inside{listed}")
        names = target.missing(there)
        if not names:
            errors.print(f"everybody in {escape(str(faces))} has a veil in {escape(str(out))} already", soft_wrap=True)
            if json_output:
                print(json.dumps({"out": str(out), "seconds": 0.0, "by_autograd": "", "people": []}, indent=1))
            return finish(problems, notices)
        read = functools.partial(iter_people, faces, size=network.input.size, resize=resize, convert=convert)
        if check:
            check_network(network, read(people=names[:CHECKED]), threads)
        if beside is not None:
            key = beside.keep(key, config)
        started, resumes = time.monotonic(), target.book is not None
        try:
            with streaming(network, config, key, target.journal, resumes, threads, held_out) as made:
                people = read(people=names, problems=problems, notices=notices)
                made.craft(people, target.generations(names), None, names)
                written = target.save(made) if made.finished else None
        except vk.CraftInterrupted as stop:
            errors.print(f"[red]{escape(_kept(stop, target))}[/]", soft_wrap=True)
            raise typer.Exit(143 if isinstance(stop.__cause__, Terminated) else 130) from None
        finally:
            if beside is not None and not out.exists() and not target.journal.exists():
                beside.forget()  # no veil came of it
        if written is not None and beside is not None:
            beside.follow(written)
        result = made.result()
    problems = problems + [Problem(r["name"], r["status"]) for r in result.report if r["status"].startswith("failed")]
    if written not in (None, out):
        problems.append(
            Problem(str(out), f"another bank was written there meanwhile; it stays, the veils are in {written}")
        )
    seconds, new = time.monotonic() - started, "" if target.base is None else "new "
    _print_craft(result, f"{len(made.finished)} {new}veils", written or out, seconds, json_output)
    return finish(problems, notices + [Problem("craft", notice) for notice in result.notices])


def _check_add(out: Path, old: Path | None, overwrite: bool) -> None:
    if old is not None or overwrite:
        raise typer.BadParameter(f"--add and {'--overwrite' if overwrite else '--rotate'} exclude each other")
    if not out.exists():
        raise OutputError(f"{out}: no bank there to add to; without --add a new one is made")


def _as_before(old: Path, values: dict[str, Any], context: typer.Context) -> dict[str, Any]:
    """How to craft more veils for the bank `old`: as it was crafted, but for the options that are given. (Its seed is
    its key's affair.)"""
    before = current(vk.VeilBank.load(old).config)
    sources = {name: context.get_parameter_source(name) for name in values}  # of click, or of the one inside of typer
    given = {name for name, source in sources.items() if source is not None and source.name != "DEFAULT"}
    if "scheme" in given and values["scheme"] != before.get("scheme"):
        return values  # nothing of before fits, as whoever compares them will say
    return {name: before.get(name, value) if name not in given | {"seed"} else value for name, value in values.items()}


def _kept(stop: vk.CraftInterrupted, target: Target) -> str:
    """What is left of an interrupted craft; an empty journal goes."""
    if not all(record["status"].startswith("failed") for record in stop.result.report):
        return f"{stop}; they are in {target.journal}: the same command with --resume goes on"
    target.journal.unlink(missing_ok=True)
    return str(stop)


def _bank_to_rotate(veils: Path | None, out: Path, rotate: list[str] | None, rotate_all: bool) -> Path | None:
    """The bank given by --veils. Rotating never writes over it: its veils are the keys to photos protected so far."""
    if not rotate and not rotate_all:
        if veils is not None:
            raise typer.BadParameter("--veils is for --rotate and --rotate-all; the bank to write is --out")
        return None
    if rotate and rotate_all:
        raise typer.BadParameter("--rotate and --rotate-all exclude each other")
    if veils is None:
        raise typer.BadParameter("--rotate needs --veils, the bank to rotate in")
    if out.resolve() == veils.resolve() or (out.exists() and out.samefile(veils)):
        raise typer.BadParameter(
            "--out must be another file than --veils: the old veils are the keys to the photos protected so far"
        )
    return veils


def _print_craft(result: vk.CraftResult, veils: str, out: Path, seconds: float, as_json: bool) -> None:
    report = [{k: v for k, v in record.items() if k != "photo_ids"} for record in result.report]
    if as_json:
        about = {"out": str(out), "seconds": round(seconds, 2), "by_autograd": result.by_autograd}
        print(json.dumps(about | {"people": report}, indent=1))
        return
    if result.by_autograd:
        errors.print(f"torch's autograd ran the network, not the engine: {escape(result.by_autograd)}", soft_wrap=True)
    title = f"{veils} in {out} ({seconds:.1f} s)"
    table = Table(title=title, **NARROW)
    for name in (
        "person",
        "photos",
        "status",
        "steps",
        "feature\ndistance",
        "cosine",
        "held-out\ncosine",
        "held-out\nrank-1",
    ):
        words = name in ("person", "status")  # what is long goes on in the next line, what is short is never cut
        table.add_column(name, overflow="fold", no_wrap=not words)
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
    for line in _by_network(report):
        console.print(escape(line), soft_wrap=True, highlight=False)


def _by_network(report: list[dict[str, Any]]) -> list[str]:
    """What each network of several makes of all veils."""
    crafted = [record for record in report if "networks" in record]
    lines = []
    for name in crafted[0]["networks"] if crafted else []:
        line = f"{name}: mean cosine {fmean(record['networks'][name]['cosine'] for record in crafted):.3f}"
        held = [record["held_out"]["networks"][name] for record in crafted if "held_out" in record]
        if held:
            line += f", held out {fmean(h['cosine'] for h in held):.3f}, rank-1 {fmean(h['rank1'] for h in held):.3f}"
        lines.append(line)
    return lines
