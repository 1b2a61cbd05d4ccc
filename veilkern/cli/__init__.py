"""The command line: one file a command, what they share in _shared.py."""

from __future__ import annotations

import sys
import warnings

import typer
from rich.markup import escape

from veilkern.cli import bank
from veilkern.cli._shared import console, errors
from veilkern.cli.craft import craft
from veilkern.cli.demo import demo
from veilkern.cli.evaluate import evaluate
from veilkern.cli.folders import protect, recover
from veilkern.cli.info import info
from veilkern.cli.tune import tune
from veilkern.errors import VeilkernError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Face photos that people cannot read, networks still recognise, and the holder of a veil recovers.",
)
for command in (craft, protect, recover, evaluate, demo, tune, info):
    app.command()(command)
app.add_typer(bank.app, name="bank")


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


__all__ = ["app", "console", "main"]
