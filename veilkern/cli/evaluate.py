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
)
from veilkern.data.people import Problem

if TYPE_CHECKING:
    from veilkern.evaluate.run import Evaluation
    from veilkern.evaluate.verdict import Verdict


def evaluate(
    faces: Faces,
    model: Net,
    veils: Veils,
    out: Annotated[Path, typer.Option("--out", help="Folder for report.html, report.json, contact_sheet.png.")],
    key_file: KeyFile = None,
    gallery: Annotated[Path | None, typer.Option(help="Folder of photos of other people.")] = None,
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
    from veilkern.evaluate.report import check_folder, write_report
    from veilkern.evaluate.run import evaluate as run

    check_folder(out, overwrite=overwrite)
    bank = vk.VeilBank.load(veils)
    key = master_key(bank, veils, key_file)
    network = load_network(model, input_size, input_mean, input_std, input_bgr, input_range)
    with errors.status("reading photos"):
        people = vk.read_people(faces, size=bank.size, resize=resize, convert=convert)
    problems = list(people.problems)
    others = None if gallery is None else read_gallery(gallery, bank.size, resize, convert, problems)
    with warnings.catch_warnings(), errors.status("evaluating"):
        warnings.simplefilter("ignore", UserWarning)  # they come as notices
        evaluation = run(network, people, bank, gallery=others, key=key)
    title = f"veilkern: {faces.name}"
    report = write_report(out, evaluation, people, bank, key=key, title=title, overwrite=overwrite)
    if json_output:
        print(json.dumps(evaluation.as_dict()["overall"], indent=1))
    else:
        print_evaluation(evaluation)
        console.print(f"report: {escape(str(report))}", soft_wrap=True)
    finish(problems, people.notices + [Problem("evaluate", notice) for notice in evaluation.notices])


def print_evaluation(evaluation: Evaluation) -> None:
    """The overall table, per set of photos the mean over people and the worst person's; then the verdict."""
    from veilkern.evaluate.report import format_number
    from veilkern.evaluate.run import CLEAN, MEASURES

    sets = list(evaluation.overall.values())
    heads = [head for label, row in evaluation.overall.items() for head in (f"{label} ({row['photos']})", "worst")]
    title = f"{evaluation.model['name']}, {sets[0]['people']} people, {evaluation.gallery} gallery photos"
    table = Table("measure", title=escape(title), caption="worst: the worst person's; (n): photos", **NARROW)
    for head in heads:
        table.add_column(head, justify="right", overflow="fold")
    for name, label in MEASURES.items():
        cells = [(row[name], row["worst"][name]["value"]) for row in sets]
        table.add_row(label, *[format_number(name, value) for pair in cells for value in pair])
        if name in CLEAN:
            clean = [cell for row in sets for cell in (format_number(name, row[CLEAN[name]]), "")]
            table.add_row("  of clean photos", *clean, style="dim")
    table.add_row("lossless recovery", *["exact" if evaluation.lossless_exact else "NOT exact", ""] * len(sets))
    console.print(table)
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
