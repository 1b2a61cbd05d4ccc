"""veilkern protect and veilkern recover: whole folders of photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

import veilkern as vk
from veilkern.cli._shared import Convert, Faces, Overwrite, Resize, Veils, console, finish
from veilkern.folders import Outcome, protect_folder, recover_folder
from veilkern.people import Problem


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
    finish(outcome.problems, outcome.notices)
