"""veilkern demo: the whole job on synthetic people."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from veilkern.cli._shared import console, errors, finish
from veilkern.cli.evaluate import print_evaluation


def demo(out: Annotated[Path, typer.Option("--out", help="Where to write everything.")] = Path("demo")) -> None:
    """The whole job on synthetic people and the embedded network."""
    from veilkern.samples.demo import run_demo

    started = time.monotonic()
    made = run_demo(out, tell=lambda stage: errors.print(f"{stage} ..."))
    print_evaluation(made.evaluation)
    console.print(
        f"{len(made.result.bank)} veils, {made.written[0].written} photos protected, "
        f"{made.written[1].written} recovered "
        f"in {time.monotonic() - started:.0f} s\nreport: {escape(str(made.report))}",
        soft_wrap=True,
    )
    finish([problem for outcome in made.written for problem in outcome.problems])
