"""veilkern tune: launches measured on this GPU."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

import veilkern as vk
from veilkern.cli._shared import console


def tune(
    op: Annotated[list[str] | None, typer.Option("--op", help="Only this op (may be repeated).")] = None,
    photos: Annotated[int, typer.Option(min=1, help="Photos to measure on.")] = 2048,
    side: Annotated[int, typer.Option(min=8, help="Their side, pixels.")] = 112,
    most: Annotated[int, typer.Option(min=1, help="Launches to try for one op and shape class.")] = 60,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes that compile [one a core, 16 at most].")] = None,
) -> None:
    """Measure the Triton kernels on this GPU and keep the fastest launches as your own table."""
    path = vk.tune(
        op,
        photos=photos,
        side=side,
        most=most,
        jobs=jobs,
        tell=lambda line: console.print(escape(line), soft_wrap=True),
    )
    console.print(f"written: {escape(str(path))}", soft_wrap=True)
