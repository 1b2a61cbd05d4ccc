"""veilkern protect, recover and rotate: whole folders of photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

import veilkern as vk
from veilkern.cli._shared import (
    Convert,
    Cores,
    Faces,
    KeyFile,
    Overwrite,
    RayAddress,
    Resize,
    Veils,
    Workers,
    console,
    finish,
    master_key,
    refuse,
)
from veilkern.data.people import Problem
from veilkern.errors import OutputError
from veilkern.veils.folder_plan import Outcome
from veilkern.veils.folders import protect_folder, recover_folder
from veilkern.veils.rotate import rotate_folder
from veilkern.veils.sealing import keyring_of

LEAKS = (
    "blended photos of one person give each other away: their average shows the faces, and one known photo opens the "
    "others; to store several, craft with --scheme sealed"
)


def protect(
    faces: Faces,
    veils: Veils,
    out: Annotated[Path, typer.Option("--out", help="Folder for <person>/<photo>.png.")],
    key_file: KeyFile = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="16-bit PNG, recovered exactly.")] = False,
    resize: Resize = False,
    convert: Convert = False,
    overwrite: Overwrite = False,
    force: Annotated[bool, typer.Option("--force", help="Protect photos too that are protected already.")] = False,
    ray: RayAddress = None,
    workers: Workers = None,
    cores: Cores = 1,
) -> None:
    """Protect every photo of everybody who has a veil; skip those done."""
    how = {"lossless": lossless, "resize": resize, "convert": convert, "overwrite": overwrite, "force": force}
    if ray is None:
        refuse("is for --ray", workers=workers, cores=cores != 1)
        bank = vk.VeilBank.load(veils)
        scheme = bank.scheme
        outcome = protect_folder(faces, bank, out, key=master_key(bank, veils, key_file), **how)  # type: ignore[arg-type]
    else:
        from veilkern.cli import _ray

        where = _ray.cluster(ray, workers, cores, 0.0)
        with _ray.going_on():
            scheme, outcome = _ray.protect(faces, veils, out, key_file, where, **how)
    if scheme == "blend" and outcome.written:
        outcome.notices.append(Problem(str(veils), LEAKS))
    _report_folder(outcome, "protected", out)


def recover(
    protected: Annotated[Path, typer.Argument(metavar="DIR", help="What protect wrote.")],
    veils: Veils,
    out: Annotated[Path, typer.Option("--out", help="Folder for <person>/<photo>.png.")],
    key_file: KeyFile = None,
    gaussian_sigma: Annotated[float | None, typer.Option(help="Smooth the result, pixels.")] = None,
    overwrite: Overwrite = False,
    force: Annotated[
        bool, typer.Option("--force", help="Recover even what is damaged, or under another veil or key.")
    ] = False,
) -> None:
    """Recover the originals of protected photos; skip those done."""
    bank = vk.VeilBank.load(veils)
    key = master_key(bank, veils, key_file)
    outcome = recover_folder(
        protected, bank, out, key=key, gaussian_sigma=gaussian_sigma, overwrite=overwrite, force=force
    )
    _report_folder(outcome, "recovered", out)


def rotate(
    protected: Annotated[Path, typer.Argument(metavar="DIR", help="What protect wrote.")],
    veils: Veils,
    new_veils: Annotated[
        Path,
        typer.Option("--new-veils", help="The bank to go over to. Not there yet: --veils under the new key, written."),
    ],
    key_file: KeyFile = None,
    new_key_file: Annotated[
        list[Path] | None, typer.Option("--new-key-file", help="The master key of the new bank; default: NEW.key.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the photos; without it each is replaced where it lies.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Take photos without a mark for protected ones.")] = False,
) -> None:
    """Bring protected photos under another bank or key; skip those done."""
    bank = vk.VeilBank.load(veils)
    key = master_key(bank, veils, key_file)
    if new_veils.exists():
        new_bank = vk.VeilBank.load(new_veils)
        new_key = master_key(new_bank, new_veils, new_key_file)
    else:
        new_bank, new_key = _under_new_key(bank, key, veils, new_veils, new_key_file)
    outcome = rotate_folder(protected, bank, new_bank, out, key=key, new_key=new_key, force=force)
    _report_folder(outcome, "rotated", out or protected)


def _under_new_key(
    bank: vk.VeilBank, key: list[bytes] | None, veils: Path, new_veils: Path, files: list[Path] | None
) -> tuple[vk.VeilBank, list[bytes]]:
    """The bank under another master key, saved before any photo needs it, and that key."""
    if not files:
        raise OutputError(f"{new_veils}: no such veil file; to bring {veils} under a new key give --new-key-file")
    if len(files) > 1:
        raise ValueError("--new-key-file: one key for all persons of a new bank, got several")
    keyring = keyring_of("rotate", bank, key)
    if keyring is not None:
        keyring.check()
    new_key = vk.read_key(files[0])
    new_bank = bank.under_key(new_key)
    new_bank.save(new_veils, replace=False)
    return new_bank, [new_key]


def _report_folder(outcome: Outcome, what: str, out: Path) -> None:
    """One line of counts, then the notices and what was left out."""
    counts = [f"{outcome.written} photos {what} in {escape(str(out))}"]
    if outcome.skipped:
        counts.append(f"{outcome.skipped} there already, skipped")
    console.print(", ".join(counts), soft_wrap=True)
    finish(outcome.problems, outcome.notices)
