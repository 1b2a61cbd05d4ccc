"""veilkern demo: the whole job on synthetic people, in both schemes."""

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
    for scheme, job in made.jobs.items():
        console.print(f"\n[bold]{scheme}[/]")
        print_evaluation(job.evaluation)
        console.print(
            f"{len(job.result.bank)} veils, {job.written[0].written} photos protected, {job.written[1].written} "
            f"recovered\nthe average taken off protected photos: SSIM with the originals {job.leak:.2f} "
            f"(with other people's {job.by_chance:.2f})\nreport: {escape(str(job.report))}",
            soft_wrap=True,
        )
    console.print(f"\n{time.monotonic() - started:.0f} s; both side by side: {escape(str(made.picture))}", soft_wrap=True)
    finish([problem for job in made.jobs.values() for outcome in job.written for problem in outcome.problems])
