"""veilkern evaluate: what the veils protect, and what the network still recognises."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

import veilkern as vk
from veilkern.cli._shared import (
    Bgr,
    Convert,
    Faces,
    Mean,
    Net,
    Range,
    Resize,
    Size,
    Std,
    Veils,
    console,
    errors,
    finish,
    load_network,
)
from veilkern.evaluate.run import MEASURES, Evaluation
from veilkern.people import Problem


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
    network = load_network(model, input_size, input_mean, input_std, input_bgr, input_range)
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
    finish(problems, people.notices + [Problem("evaluate", notice) for notice in evaluation.notices])


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
