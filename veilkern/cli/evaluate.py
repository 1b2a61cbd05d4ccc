"""veilkern evaluate: what the veils protect, and what the network still recognises."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

import veilkern as vk
from veilkern.cli._shared import (
    NARROW,
    Bgr,
    Convert,
    Faces,
    KeyFile,
    Mean,
    Net,
    Overwrite,
    Range,
    Resize,
    Size,
    Std,
    Veils,
    console,
    errors,
    finish,
    load_network,
    master_key,
    read_gallery,
    refuse,
)
from veilkern.data.people import Problem, gallery_photos

if TYPE_CHECKING:
    import torch

    from veilkern.evaluate.gallery import Gallery
    from veilkern.evaluate.run import Evaluation
    from veilkern.evaluate.verdict import Verdict


def evaluate(
    faces: Faces,
    model: Net,
    veils: Veils,
    out: Annotated[Path, typer.Option("--out", help="Folder for report.html, report.json, contact_sheet.png.")],
    key_file: KeyFile = None,
    gallery: Annotated[
        Path | None, typer.Option(help="Folder of photos of other people, or a file of --save-gallery.")
    ] = None,
    save_gallery: Annotated[
        Path | None,
        typer.Option(help="Keep what the network makes of the --gallery folder, of any size, for later evaluations."),
    ] = None,
    lpips: Annotated[
        Path | None,
        typer.Option(metavar="ALEXNET.pth", help="Measure LPIPS: torchvision's AlexNet checkpoint (and pip's lpips)."),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the overall figures as JSON.")] = False,
    resize: Resize = False,
    convert: Convert = False,
    overwrite: Overwrite = False,
    input_size: Size = 112,
    input_mean: Mean = None,
    input_std: Std = None,
    input_bgr: Bgr = False,
    input_range: Range = None,
) -> None:
    """Measure what the veils protect and what the network still recognises."""
    from veilkern.evaluate.lpips import Lpips
    from veilkern.evaluate.report import check_folder, write_report
    from veilkern.evaluate.run import evaluate as run

    check_folder(out, overwrite=overwrite)
    if gallery is None or gallery.is_file():
        refuse("is for a folder of --gallery", save_gallery=save_gallery)
    weights = None if lpips is None else Lpips.load(lpips)
    bank = vk.VeilBank.load(veils)
    key = master_key(bank, veils, key_file)
    network = load_network(model, input_size, input_mean, input_std, input_bgr, input_range)
    with errors.status("reading photos"):
        people = vk.read_people(faces, size=bank.size, resize=resize, convert=convert)
    problems = list(people.problems)
    with errors.status("reading the gallery"):
        others = _others(gallery, save_gallery, network, bank.size, resize, convert, overwrite, problems)
    with warnings.catch_warnings(), errors.status("evaluating"):
        warnings.simplefilter("ignore", UserWarning)  # they come as notices
        evaluation = run(network, people, bank, gallery=others, key=key, lpips=weights)
    title = f"veilkern: {faces.name}"
    report = write_report(out, evaluation, people, bank, key=key, title=title, overwrite=overwrite)
    if json_output:
        print(json.dumps(evaluation.as_dict()["overall"], indent=1))
    else:
        print_evaluation(evaluation)
        console.print(f"report: {escape(str(report))}", soft_wrap=True)
    finish(problems, people.notices + [Problem("evaluate", notice) for notice in evaluation.notices])


def _others(
    gallery: Path | None,
    save: Path | None,
    network: vk.FaceModel,
    size: tuple[int, int],
    resize: bool,
    convert: bool,
    overwrite: bool,
    problems: list[Problem],
) -> torch.Tensor | Gallery | None:
    """The photos of a folder, a gallery made of them, or one that was made before."""
    from veilkern.evaluate.gallery import Gallery, build_gallery

    if gallery is None:
        return None
    if gallery.is_file():
        return Gallery.load(gallery)
    if save is None:
        return read_gallery(gallery, size, resize, convert, problems)
    photos = gallery_photos(gallery, size, resize, convert, problems)
    return build_gallery(network, photos, save, overwrite=overwrite)


def print_evaluation(evaluation: Evaluation) -> None:
    """The overall table, per set of photos the mean over people and the worst person's; then the verdict."""
    from veilkern.evaluate.report import format_number, remarks
    from veilkern.evaluate.run import CLEAN

    sets = list(evaluation.overall.values())
    heads = [head for label, row in evaluation.overall.items() for head in (f"{label} ({row['photos']})", "worst")]
    title = f"{evaluation.model['name']}, {sets[0]['people']} people, {evaluation.gallery} gallery photos"
    table = Table("measure", title=escape(title), caption="worst: the worst person's; (n): photos", **NARROW)
    for head in heads:
        table.add_column(head, justify="right", overflow="fold")
    for name, label in evaluation.measures.items():
        cells = [(row[name], row["worst"][name]["value"]) for row in sets]
        table.add_row(label, *[format_number(name, value) for pair in cells for value in pair])
        if name in CLEAN:
            clean = [cell for row in sets for cell in (format_number(name, row[CLEAN[name]]), "")]
            table.add_row("  of clean photos", *clean, style="dim")
    table.add_row("lossless recovery", *["exact" if evaluation.lossless_exact else "NOT exact", ""] * len(sets))
    console.print(table)
    for remark in remarks(evaluation):
        console.print(remark, style="dim")
    for verdict in evaluation.verdicts():
        print_verdict(verdict)


def print_verdict(verdict: Verdict) -> None:
    """The answer in words, and below it every figure that is not good."""
    colour = {"good": "green", "watch": "yellow", "bad": "red"}
    console.print(f"[bold]{verdict.asks}[/] [{colour[verdict.level]}]{verdict.level}[/]: {verdict.answer}")
    for check in verdict.checks:
        if check.level != "good":
            value = "not measured" if math.isnan(check.value) else f"{check.value:.4g} ({escape(check.where)})"
            console.print(f"  [{colour[check.level]}]{check.level}[/]: {check.label}: {value}; {check.limits}")
