"""The command line: one file a command, what they share in _shared.py.

A command's file is imported when that command is asked for: most import torch, which takes seconds.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Collection
from typing import Annotated, Any

import typer
from rich.markup import escape

from veilkern import __version__
from veilkern.cli._manual import epilog
from veilkern.cli._shared import console, errors
from veilkern.errors import VeilkernError

# Each command, the file and the name in it that it is found by, and its line in the list of commands.
COMMANDS = {
    "align": ("align", "align", "Find the face in each ordinary photo and write it aligned; skip those done."),
    "craft": ("craft", "craft", "Craft one veil per person."),
    "protect": ("folders", "protect", "Protect every photo of everybody who has a veil; skip those done."),
    "recover": ("folders", "recover", "Recover the originals of protected photos; skip those done."),
    "rotate": ("folders", "rotate", "Bring protected photos under another bank or key; skip those done."),
    "evaluate": ("evaluate", "evaluate", "Measure what the veils protect and what the network still recognises."),
    "audit": ("audit", "audit", "Run every attack we know on your own photos, and say what each gives away."),
    "serve": ("serve", "serve", "Protect and recover over HTTP, with a page to try it."),
    "paper": (
        "paper",
        "paper",
        "Run the paper's experiments on your photos and networks, and compare line by line.",
    ),
    "train": ("train", "train", "Fit or fine-tune a face-recognition network on a folder of identities."),
    "bank": ("bank", "app", "List, merge, cut down and check veil banks."),
    "demo": ("demo", "demo", "The whole job on synthetic people and the embedded network."),
    "tune": ("tune", "tune", "Measure the Triton kernels on this GPU and keep the fastest launches as your own table."),
    "info": ("info", "info", "Versions and backends, with the reason for each absence; how a network would be run."),
}


COMPLETE = "_VEILKERN_COMPLETE"  # in the environment of a process that a shell starts on TAB


def build(names: Collection[str] = tuple(COMMANDS)) -> typer.Typer:
    """The command line; commands other than `names` are listed in its help, but cannot be run."""
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        help="Face photos that people cannot read, networks still recognise, and the holder of the key recovers.",
        epilog=epilog(""),
    )
    app.callback()(_options)
    for name, (file, inside, text) in COMMANDS.items():
        if name not in names:
            app.command(name, help=text)(lambda: None)
            continue
        module = importlib.import_module(f"veilkern.cli.{file}")
        found = getattr(module, inside)
        if isinstance(found, typer.Typer):
            for command in found.registered_commands:
                command.epilog = f"Examples, exit codes and files: veilkern {name} --help"
            app.add_typer(found, name=name, epilog=epilog(name))
        else:
            app.command(name, cls=getattr(module, "COMMAND", None), epilog=epilog(name))(found)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"veilkern {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def __getattr__(name: str) -> Any:
    if name == "app":  # all of it
        globals()[name] = build()
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """Run the command line; an expected error is one line and exit code 1, Ctrl-C is 130."""
    if COMPLETE in os.environ:
        _complete()
    warnings.showwarning = lambda message, *_: errors.print(f"[yellow]note[/] {escape(str(message))}", soft_wrap=True)
    try:
        build(_asked(sys.argv[1:]))(standalone_mode=True)
    except (VeilkernError, ValueError, TypeError) as error:
        errors.print(f"[red]error[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("interrupted; nothing half-written is left")
        sys.exit(130)


def _complete() -> None:
    """What a shell asks on TAB, in the environment: answered, or passed over in silence, whatever happens."""
    words = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
    try:
        build(_asked(words.split()[1:]))(prog_name="veilkern")
    except Exception:
        sys.exit(1)


def _asked(words: list[str]) -> list[str]:
    """The command among the words of a command line."""
    return [word for word in words if not word.startswith("-")][:1]


__all__ = ["app", "console", "main"]
