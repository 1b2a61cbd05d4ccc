"""veilkern audit: what every attack we know gets out of the user's own protected photos."""

from __future__ import annotations

import json
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
    finish,
    load_network,
    master_key,
    read_gallery,
)
from veilkern.data.people import Problem

if TYPE_CHECKING:
    from veilkern.auditing.run import Audit

COLOURS = {"good": "green", "watch": "yellow", "bad": "red", "untried": "dim"}


def audit(
    faces: Faces,
    model: Net,
    veils: Veils,
    out: Annotated[Path, typer.Option("--out", help="Folder for audit.html and audit.json.")],
    key_file: KeyFile = None,
    networks: Annotated[
        list[str] | None, typer.Option(help="Another network to look at what attacks give; may be given several times.")
    ] = None,
    gallery: Annotated[Path | None, typer.Option(help="Folder of photos of other people.")] = None,
    train_minutes: Annotated[float, typer.Option(min=0, help="Let an inverter learn for so long; 0: none.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of every choice and of the intervals.")] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="Print audit.json instead of the tables.")] = False,
    resize: Resize = False,
    convert: Convert = False,
    overwrite: Overwrite = False,
    input_size: Size = 112,
    input_mean: Mean = None,
    input_std: Std = None,
    input_bgr: Bgr = False,
    input_range: Range = None,
) -> None:
    """Run every attack we know on your own photos, and say what each gives away."""
    from veilkern.auditing.report import check_folder, write_audit

    check_folder(out, overwrite=overwrite)
    bank = vk.VeilBank.load(veils)
    key = master_key(bank, veils, key_file)
    network, *others = (
        load_network(net, input_size, input_mean, input_std, input_bgr, input_range)
        for net in (model, *(networks or ()))
    )
    people = vk.read_people(faces, size=bank.size, resize=resize, convert=convert)
    problems = list(people.problems)
    strangers = None if gallery is None else read_gallery(gallery, bank.size, resize, convert, problems)
    found = vk.audit(
        network, people, bank, key=key, networks=others, gallery=strangers, train_minutes=train_minutes, seed=seed
    )
    page = write_audit(out, found, title=f"veilkern audit: {faces.name}", overwrite=overwrite)
    if json_output:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        print_audit(found)
        console.print(f"page: {escape(str(page))}", soft_wrap=True)
    finish(problems, people.notices + [Problem("audit", notice) for notice in found.notices])


def print_audit(found: Audit) -> None:
    """The attacks in a table and a verdict each, then recognition and the tests of the field."""
    _print_attacks(found)
    for row in found.attacks:
        console.print(f"[{COLOURS[row.level]}]{escape(row.title)}[/]: {escape(row.sentence)}", highlight=False)
    _print_recognition(found)
    if found.field_tests:
        _print_field_tests(found)


def _print_attacks(found: Audit) -> None:
    from veilkern.auditing.report import number

    table = Table(
        title=f"{found.scheme}, {found.people} people, {found.photos} photos, {found.gallery} gallery photos",
        caption="own photo / other people's: chance. AUC of SSIM, contour, |contour|: 0.5 is chance",
        **NARROW,
    )
    table.add_column("attack", no_wrap=True)
    for head in ("SSIM", "contour", "AUC", "cont.", "|cont|", "rank-1"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in found.attacks:
        if row.not_possible:
            table.add_row(row.title, *["–"] * 6, style="dim")
            continue
        aucs = (row.auc_ssim, row.auc_contour, row.auc_contour_size)
        best = max((figure.value for figure in row.rank1.values()), default=float("nan"))
        table.add_row(
            row.title,
            f"{number(row.ssim.value, 3)}/{number(row.ssim_others.value, 3)}",
            f"{row.contour.value:+.2f}/{row.contour_others.value:+.2f}",
            *(number(figure.value) for figure in aucs),
            number(best),
        )
    console.print(table)


def _print_recognition(found: Audit) -> None:
    from veilkern.auditing.report import number

    table = Table("network", title="what recognition means: rank-1", **NARROW)
    for head in ("clean", "protected", "another's photo: as the veil's person", "as the person in it"):
        table.add_column(head, justify="right")
    for one in found.recognition:
        figures = (one.clean, one.protected, one.impostor_as_veil, one.impostor_as_photo)
        table.add_row(escape(one.network), *(number(figure.value, 3) for figure in figures))
    console.print(table)


def _print_field_tests(found: Audit) -> None:
    from veilkern.auditing.report import noise

    table = Table("the sealed photo as noise", **NARROW)
    for head in ("value", "ideal", "z", ""):
        table.add_column(head, justify="right", no_wrap=True)
    for test in found.field_tests:
        table.add_row(test.title, *noise(test), "[green]✓[/]" if test.fine else "[red]✗[/]")
    console.print(table)
