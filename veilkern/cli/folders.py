"""veilkern protect and veilkern recover: whole folders of photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

import veilkern as vk
from veilkern.cli._shared import Convert, Faces, Overwrite, Resize, Veils, console, finish
from veilkern.veils.folders import Outcome, protect_folder, recover_folder


def protect(
    faces: Faces,
    veils: Veils,
    out: Annotated[Path, typer.Option("--out", help="Folder for <person>/<photo>.png.")],
    lossless: Annotated[bool, typer.Option("--lossless", help="16-bit PNG, recovered exactly.")] = False,
    resize: Resize = False,
    convert: Convert = False,
    overwrite: Overwrite = False,
    force: Annotated[bool, typer.Option("--force", help="Protect photos too that are protected already.")] = False,
) -> None:
    """Protect every photo of everybody who has a veil; skip those done."""
    bank = vk.VeilBank.load(veils)
    options = {"lossless": lossless, "resize": resize, "convert": convert, "overwrite": overwrite, "force": force}
    _report_folder(protect_folder(faces, bank, out, **options), "protected", out)


def recover(
    protected: Annotated[Path, typer.Argument(metavar="DIR", help="What protect wrote.")],
    veils: Veils,
    out: Annotated[Path, typer.Option("--out", help="Folder for <person>/<photo>.png.")],
    gaussian_sigma: Annotated[float | None, typer.Option(help="Smooth the result, pixels.")] = None,
    overwrite: Overwrite = False,
    force: Annotated[bool, typer.Option("--force", help="Recover even what another veil is on.")] = False,
) -> None:
    """Recover the originals of protected photos; skip those done."""
    bank = vk.VeilBank.load(veils)
    outcome = recover_folder(protected, bank, out, gaussian_sigma=gaussian_sigma, overwrite=overwrite, force=force)
    _report_folder(outcome, "recovered", out)


def _report_folder(outcome: Outcome, what: str, out: Path) -> None:
    """One line of counts, then the notices and what was left out."""
    counts = [f"{outcome.written} photos {what} in {escape(str(out))}"]
    if outcome.skipped:
        counts.append(f"{outcome.skipped} there already, skipped")
    console.print(", ".join(counts), soft_wrap=True)
    finish(outcome.problems, outcome.notices)
