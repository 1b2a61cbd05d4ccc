"""veilkern bank: what is in a bank, and banks put together, cut down and checked. No veil or key is ever printed."""

from __future__ import annotations

import json
import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.markup import escape

import veilkern as vk
from veilkern.cli._shared import Overwrite, completing_names, console, key_path
from veilkern.data.files import locked, make_folder
from veilkern.data.photos import photo_id
from veilkern.errors import BankError, OutputError
from veilkern.veils import keyed

WAIT = 10.0  # seconds for whoever else is at work on a bank
app = typer.Typer(no_args_is_help=True, help="List, merge, cut down and check veil banks.")

Bank = Annotated[Path, typer.Argument(metavar="BANK", help="The veil bank.")]
IN_BANK = completing_names("bank")
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_people(bank: Bank, json_output: Json = False) -> None:
    """Everybody who has a veil in BANK."""
    read = vk.VeilBank.load(bank)
    people = [_summary(name, read.record(name)) for name in read.names]
    if json_output:
        _print_json({**_about(read), "people": people})
        return
    _print_line(f"{bank}: {read}")
    rows = [["–" if value is None else str(value) for value in person.values()] for person in people]
    _print_columns([["person", "status", "steps", "photos", "generation", "key id"], *rows])


@app.command()
def show(
    bank: Bank,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The person.", autocompletion=IN_BANK)],
    json_output: Json = False,
) -> None:
    """What BANK records of one person."""
    read = vk.VeilBank.load(bank)
    _refuse_absent(read, bank, [name])
    record = read.record(name)
    known: dict[str, Any] = {
        "name": name,
        "network": read.model.get("name"),
        "photos": len(record.get("photo_ids", ())),
    }
    known |= {key: value for key, value in record.items() if key not in {"name", "photos", "photo_ids"}}
    if json_output:
        _print_json(known)
    else:
        _print_columns([[key, str(value)] for key, value in known.items()])


@app.command()
def merge(
    banks: Annotated[list[Path], typer.Argument(metavar="BANK BANK..", help="Banks of one network and configuration.")],
    out: Annotated[Path, typer.Option("--out", help="The bank to write.")],
    overwrite: Overwrite = False,
) -> None:
    """One bank of everybody in several, which stay as they are."""
    if len(banks) < 2:
        raise typer.BadParameter("wanted two banks or more")
    with locked(out, wait=WAIT):
        if out.exists() and not overwrite:
            raise OutputError(f"{out}: there already; kept (--overwrite to replace it)")
        first, *others = [vk.VeilBank.load(bank) for bank in banks]
        merged = first.join(*others)
        merged.save(out, replace=overwrite)
    _print_line(f"{len(merged)} veils in {out}")


@app.command()
def split(
    bank: Bank,
    people: Annotated[int, typer.Option("--people", min=1, help="Persons in each part.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to write the parts to; made if missing.")],
    overwrite: Overwrite = False,
) -> None:
    """Banks of so many persons each, in the order of BANK, which stays as it is; `merge` makes one of them again."""
    whole = vk.VeilBank.load(bank, mmap=True)
    count = -(-len(whole) // people)
    parts = [out / f"{bank.stem}-{n + 1:0{len(str(count))}d}{bank.suffix}" for n in range(count)]
    if not parts:
        raise BankError(f"{bank}: nobody is in it")
    if any(part.exists() and part.samefile(bank) for part in parts):
        raise typer.BadParameter(f"a part would be written over {bank} itself", param_hint="--out")
    if not overwrite and (there := [part for part in parts if os.path.lexists(part)]):
        raise OutputError(f"{there[0]}: there already; kept (--overwrite to replace it)")
    make_folder(out)
    for n, part in enumerate(parts):
        with locked(part, wait=WAIT):
            whole.take(range(n * people, min((n + 1) * people, len(whole)))).save(part, replace=overwrite)
    _print_line(f"{len(whole)} veils in {count} banks, {parts[0]} to {parts[-1].name}")
    if whole.scheme == "sealed" and key_path(bank).exists():
        _print_line(f"their key stays in {key_path(bank)}: --key-file gives it to other commands")


@app.command()
def remove(
    bank: Bank,
    names: Annotated[list[str], typer.Argument(metavar="NAME..", help="Who goes.", autocompletion=IN_BANK)],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Take persons out of BANK. Without their veils the photos that those protect are lost."""
    _refuse_absent(vk.VeilBank.load(bank), bank, names)
    if not yes:
        _print_line(f"{', '.join(names)}: without these veils the photos that they protect are lost")
        typer.confirm("Remove?", abort=True)
    left = vk.update_bank(bank, lambda now: _there(now, bank, names).remove(names), wait=WAIT)
    _print_line(f"{len(set(names))} removed, {len(left)} veils in {bank}")


@app.command()
def rename(
    bank: Bank,
    old: Annotated[str, typer.Argument(metavar="OLD", help="The name now.", autocompletion=IN_BANK)],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The name wanted.")],
) -> None:
    """Give a person in BANK another name."""

    def change(now: vk.VeilBank | None) -> vk.VeilBank:
        there = _there(now, bank, [old])
        if new in there and new != old:
            raise OutputError(f"{bank}: has a veil of {new} already; kept")
        return there.rename({old: new})

    vk.update_bank(bank, change, wait=WAIT)
    _print_line(f"{old} is {new} in {bank}")


@app.command()
def check(bank: Bank, json_output: Json = False) -> None:
    """Read all of BANK and look for what is wrong; exit code 1 when anything is."""
    read = vk.VeilBank.load(bank)
    found = _faults(bank, read)
    if json_output:
        _print_json({**_about(read), "problems": found})
    else:
        _print_line(f"{bank}: {read}, {f'{len(found)} problems' if found else 'in order'}")
        for cause in found:
            _print_line(f"  {cause}")
    raise typer.Exit(1 if found else 0)


def _faults(path: Path, bank: vk.VeilBank) -> list[str]:
    found = []
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        found.append("others than its owner can read it: veils are keys (chmod 600)")
    for names in _groups((unicodedata.normalize("NFC", name).casefold(), name) for name in bank.names):
        found.append(f"one folder on some file systems: {', '.join(names)}")
    for names in _groups((photo_id(veil), name) for name, veil in zip(bank.names, bank.veils, strict=True)):
        found.append(f"the same veil: {', '.join(names)}")
    for name, veil in zip(bank.names, bank.veils, strict=True):
        if veil.min() == veil.max():
            found.append(f"no veil but an even colour: {name}")
    for key_id, name in dict(zip(bank.key_ids, bank.names, strict=True)).items():
        if (key := bank.key_of(name)) is not None and keyed.key_id(key) != key_id:
            found.append(f"the recorded key is not that of key id {key_id}")
    return found


def _groups(pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Names that share what comes before them, where several do."""
    groups = defaultdict(list)
    for shared, name in pairs:
        groups[shared].append(name)
    return [names for names in groups.values() if len(names) > 1]


def _summary(name: str, record: dict[str, Any]) -> dict[str, Any]:
    photos = len(record["photo_ids"]) if "photo_ids" in record else record.get("photos")
    known = {"name": name, "status": record.get("status"), "steps": record.get("steps"), "photos": photos}
    return {**known, "generation": record["generation"], "key_id": record["key_id"] or None}


def _about(bank: vk.VeilBank) -> dict[str, Any]:
    return {"veils": len(bank), "size": list(bank.size), **_scheme(bank), "model": bank.model}


def _scheme(bank: vk.VeilBank) -> dict[str, Any]:
    own = {"levels": bank.levels, "rounds": bank.rounds} if bank.levels else {"blend": bank.blend}
    return {"scheme": bank.scheme, **own}


def _there(bank: vk.VeilBank | None, path: Path, names: list[str]) -> vk.VeilBank:
    """The bank as it is under the lock: it may have changed since it was looked at."""
    if bank is None:
        raise BankError(f"{path}: no such veil file")
    _refuse_absent(bank, path, names)
    return bank


def _refuse_absent(bank: vk.VeilBank, path: Path, names: list[str]) -> None:
    if missing := [name for name in names if name not in bank]:
        raise BankError(f"{path}: no veil for {', '.join(missing[:10])}")


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=1))


def _print_line(text: str) -> None:
    console.print(escape(text), soft_wrap=True, highlight=False)


def _print_columns(rows: list[list[str]]) -> None:
    """A table as wide as its content, whatever the terminal: names are there to be copied whole."""
    widths = [max(cell_len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        _print_line("  ".join(cells).rstrip())
