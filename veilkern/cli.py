"""The command line: craft, protect, recover, evaluate, demo, tune, info."""

from __future__ import annotations

import json
import os
import platform
import stat
import sys
import time
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

import veilkern as vk
from veilkern.errors import OutputError, VeilkernError
from veilkern.evaluate.run import MEASURES, Evaluation
from veilkern.folders import Outcome, protect_folder, recover_folder
from veilkern.people import Problem

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Face photos that people cannot read, networks still recognise, and the holder of a veil recovers.",
)
console, errors = Console(), Console(stderr=True)
DEFAULT = vk.CraftConfig()
NARROW: dict[str, Any] = {"box": box.SIMPLE, "padding": (0, 1, 0, 0)}  # a table of many columns in 80 characters

Faces = Annotated[Path, typer.Argument(metavar="FACES", help="One folder per person, PNG, JPEG or WebP inside.")]
Net = Annotated[str, typer.Option("--model", help="file.py:callable, ARCH:checkpoint, or a network file.")]
Veils = Annotated[Path, typer.Option("--veils", help="The veil bank.")]
Resize = Annotated[bool, typer.Option("--resize", help="Bring photos of another size to the wanted one.")]
Convert = Annotated[
    bool, typer.Option("--convert", help="Turn greyscale, RGBA, CMYK and 16-bit photos into 8-bit RGB.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there already.")]
Size = Annotated[int, typer.Option("--input-size", help="Side of the network's input, pixels.")]
Mean = Annotated[str | None, typer.Option("--input-mean", help="Mean of the network's input, 'm' or 'm,m,m'.")]
Std = Annotated[str | None, typer.Option("--input-std", help="Standard deviation of the network's input.")]
Bgr = Annotated[bool, typer.Option("--input-bgr", help="The network reads blue, green, red.")]
Range = Annotated[float | None, typer.Option("--input-range", help="Largest value of the network's input: 1 or 255.")]


def _model(
    net: str, size: int, mean: str | None, std: str | None, bgr: bool, value_range: float | None
) -> vk.FaceModel:
    given: dict[str, Any] = {} if size == 112 else {"size": size}
    for name, text in (("mean", mean), ("std", std)):
        if text is not None:
            try:
                numbers = [float(part) for part in text.split(",")]
            except ValueError:
                raise typer.BadParameter(
                    f"wanted one number or three, got {text!r}", param_hint=f"--input-{name}"
                ) from None
            given[name] = numbers * 3 if len(numbers) == 1 else numbers
    if bgr:
        given["bgr"] = True
    if value_range is not None:
        given["value_range"] = value_range
    return vk.FaceModel.load(net, **given)


def _finish(problems: list[Problem], notices: list[Problem] = ()) -> None:  # type: ignore[assignment]
    """The summary of what was skipped; exit code 1 when anything was."""
    for notice in notices:
        errors.print(f"[yellow]note[/] {escape(str(notice))}", soft_wrap=True)
    if problems:
        errors.print(f"[red]{len(problems)} left out:[/]")
        for problem in problems:
            errors.print(f"  {escape(str(problem))}", soft_wrap=True)
        raise typer.Exit(1)


@app.command()
def craft(
    faces: Faces,
    model: Net,
    out: Annotated[Path, typer.Option("--out", help="The veil bank to write.")],
    alpha: Annotated[float, typer.Option(help="Share of the photo; rounded to a/255.")] = DEFAULT.alpha,
    lam: Annotated[float, typer.Option(help="Weight of L_vis.")] = DEFAULT.lam,
    mu: Annotated[float, typer.Option(help="Weight of L_var.")] = DEFAULT.mu,
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
    network = _model(model, input_size, input_mean, input_std, input_bgr, input_range)
    with errors.status("reading photos"):
        people = vk.read_people(faces, size=network.input.size, resize=resize, convert=convert)
    problems, notices = people.problems, people.notices
    if earlier is not None:
        people = people.take(
            [i for i, p in enumerate(people.rows.tolist()) if people.names[p] not in set(earlier.names)]
        )
        if not len(people):
            errors.print(f"everybody in {escape(str(faces))} has a veil in {escape(str(out))} already", soft_wrap=True)
            return _finish(problems, notices)
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
    return _finish(problems, notices)


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


@app.command()
def protect(
    faces: Faces,
    veils: Veils,
    out: Annotated[Path, typer.Option("--out", help="Folder for <person>/<photo>.png.")],
    lossless: Annotated[bool, typer.Option("--lossless", help="16-bit PNG, recovered exactly.")] = False,
    resize: Resize = False,
    convert: Convert = False,
    overwrite: Overwrite = False,
) -> None:
    """Protect every photo of everybody who has a veil."""
    bank = vk.VeilBank.load(veils)
    _report_folder(
        protect_folder(faces, bank, out, lossless=lossless, resize=resize, convert=convert, overwrite=overwrite),
        "protected",
        out,
    )


@app.command()
def recover(
    protected: Annotated[Path, typer.Argument(metavar="DIR", help="What protect wrote.")],
    veils: Veils,
    out: Annotated[Path, typer.Option("--out", help="Folder for <person>/<photo>.png.")],
    gaussian_sigma: Annotated[float | None, typer.Option(help="Smooth the result, pixels.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Recover the originals of protected photos."""
    bank = vk.VeilBank.load(veils)
    _report_folder(
        recover_folder(protected, bank, out, gaussian_sigma=gaussian_sigma, overwrite=overwrite), "recovered", out
    )


def _report_folder(outcome: Outcome, what: str, out: Path) -> None:
    console.print(f"{outcome.written} photos {what} in {escape(str(out))}", soft_wrap=True)
    if not outcome.written and not outcome.problems:
        outcome.problems.append(Problem(str(out), "nothing to do: no person's folder with photos was found"))
    _finish(outcome.problems, outcome.notices)


@app.command()
def evaluate(
    faces: Faces,
    model: Net,
    veils: Veils,
    out: Annotated[Path, typer.Option("--out", help="Folder for report.html, report.json, contact_sheet.png.")],
    gallery: Annotated[Path | None, typer.Option(help="Folder of photos of other people.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the overall figures as JSON.")] = False,
    resize: Resize = False,
    convert: Convert = False,
    input_size: Size = 112,
    input_mean: Mean = None,
    input_std: Std = None,
    input_bgr: Bgr = False,
    input_range: Range = None,
) -> None:
    """Measure what the veils protect and what the network still recognises."""
    from veilkern.evaluate.report import write_report
    from veilkern.evaluate.run import evaluate as run

    bank = vk.VeilBank.load(veils)
    network = _model(model, input_size, input_mean, input_std, input_bgr, input_range)
    with errors.status("reading photos"):
        people = vk.read_people(faces, size=bank.size, resize=resize, convert=convert)
    problems = list(people.problems)
    others = None if gallery is None else _read_gallery(gallery, bank.size, resize, convert, problems)
    with warnings.catch_warnings(), errors.status("evaluating"):
        warnings.simplefilter("ignore", UserWarning)  # they come as notices
        evaluation = run(network, people, bank, gallery=others)
    report = write_report(out, evaluation, people, bank, title=f"veilkern: {faces.name}")
    if json_output:
        print(json.dumps(evaluation.as_dict()["overall"], indent=1))
    else:
        print_evaluation(evaluation)
        console.print(f"report: {escape(str(report))}", soft_wrap=True)
    _finish(problems, people.notices + [Problem("evaluate", notice) for notice in evaluation.notices])


def _read_gallery(folder: Path, size: tuple[int, int], resize: bool, convert: bool, problems: list[Problem]):
    import torch

    from veilkern.people import read_person

    if not folder.is_dir():
        raise vk.PhotoError(f"{folder}: not a folder of gallery photos")
    found: list[Problem] = []
    photos = [
        image
        for place in [folder, *sorted(p for p in folder.iterdir() if p.is_dir())]
        for _, image in read_person(place, size, resize, convert, found, [])
    ]
    problems += [p for p in found if "a folder inside" not in p.cause]
    if not photos:
        raise vk.PhotoError(f"{folder}: no usable gallery photo")
    return torch.stack(photos)


def print_evaluation(evaluation: Evaluation) -> None:
    """The overall table, one column per set of photos."""
    from veilkern.evaluate.report import format_number

    table = Table(
        "measure",
        *[f"{label} ({row['photos']} photos)" for label, row in evaluation.overall.items()],
        title=f"{evaluation.model['name']}, {next(iter(evaluation.overall.values()))['people']} people, "
        f"{evaluation.gallery} gallery photos",
    )
    for name, label in MEASURES.items():
        table.add_row(label, *[format_number(name, row[name]) for row in evaluation.overall.values()])
    table.add_row(
        "lossless recovery", *["exact" if evaluation.lossless_exact else "NOT exact"] * len(evaluation.overall)
    )
    console.print(table)


@app.command()
def demo(out: Annotated[Path, typer.Option("--out", help="Where to write everything.")] = Path("demo")) -> None:
    """The whole job on synthetic people and the embedded network."""
    from veilkern.samples.demo import run_demo

    started = time.monotonic()
    made = run_demo(out, tell=lambda stage: errors.print(f"{stage} ..."))
    print_evaluation(made.evaluation)
    console.print(
        f"{len(made.result.bank)} veils, {made.written[0].written} photos protected, "
        f"{made.written[1].written} recovered "
        f"in {time.monotonic() - started:.0f} s\nreport: {escape(str(made.report))}",
        soft_wrap=True,
    )
    _finish([problem for outcome in made.written for problem in outcome.problems])


@app.command()
def tune(
    op: Annotated[list[str] | None, typer.Option("--op", help="Only this op (may be repeated).")] = None,
    photos: Annotated[int, typer.Option(min=1, help="Photos to measure on.")] = 2048,
    side: Annotated[int, typer.Option(min=8, help="Their side, pixels.")] = 112,
    most: Annotated[int, typer.Option(min=1, help="Launches to try for one op and shape class.")] = 60,
) -> None:
    """Measure the Triton kernels on this GPU and keep the fastest launches as your own table."""
    path = vk.tune(
        op, photos=photos, side=side, most=most, tell=lambda line: console.print(escape(line), soft_wrap=True)
    )
    console.print(f"written: {escape(str(path))}", soft_wrap=True)


@app.command()
def info() -> None:
    """Versions and backends, with the reason for each absence."""
    import torch

    console.print(
        f"veilkern {vk.__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{platform.machine()}, {torch.get_num_threads()} threads, "
        f"GPU: {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}",
        soft_wrap=True,
    )
    table = Table("backend", "available", "ops, or the reason for its absence")
    for backend in vk.list_backends():
        detail = f"{backend.detail}: {', '.join(sorted(backend.ops))}" if backend.available else str(backend.reason)
        table.add_row(backend.name, "yes" if backend.available else "no", escape(detail))
    console.print(table)


def main() -> None:
    """Run the command line; an expected error is one line and exit code 1, Ctrl-C is 130."""
    warnings.showwarning = lambda message, *_: errors.print(f"[yellow]note[/] {escape(str(message))}", soft_wrap=True)
    try:
        app(standalone_mode=True)
    except (VeilkernError, ValueError, TypeError) as error:
        errors.print(f"[red]error[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("interrupted; nothing half-written is left")
        sys.exit(130)
