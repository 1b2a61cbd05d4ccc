"""veilkern align: from ordinary photos to one aligned face of each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

import veilkern as vk
from veilkern.aligning.choosing import LEAST_COSINE, LEAST_EYES
from veilkern.aligning.run import SIZES
from veilkern.cli._shared import (
    Bgr,
    Convert,
    Mean,
    Overwrite,
    Range,
    Size,
    Std,
    console,
    finish,
    load_network,
    refuse,
)

WHICH = "Which face"


def align(
    photos: Annotated[
        Path,
        typer.Argument(metavar="PHOTOS", help="One folder per person, photos of any size inside: PNG, JPEG, WebP."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FACES", help="Folder for <person>/<photo>.png.")],
    size: Annotated[int, typer.Option(min=SIZES[0], max=SIZES[1], help="Side of the crops, pixels.")] = 112,
    detector: Annotated[
        str | None,
        typer.Option(
            help="Who finds faces: mtcnn (the default), yunet:MODEL.onnx, or file.py:callable.", show_default=False
        ),
    ] = None,
    landmarks: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Your own points in place of a detector: .json or .csv (docs/align.md has the form)."
        ),
    ] = None,
    least_eyes: Annotated[
        float, typer.Option(min=0, help="Faces with fewer pixels between the eyes do not count.", rich_help_panel=WHICH)
    ] = LEAST_EYES,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Of several faces take the one most like those in the person's clear photos, by this network: "
            "file.py:callable, ARCH:checkpoint, or a network file. Without it the largest is taken.",
            rich_help_panel=WHICH,
        ),
    ] = None,
    least_cosine: Annotated[
        float,
        typer.Option(
            min=-1, max=1, help="With --model: faces less like the person's are doubtful.", rich_help_panel=WHICH
        ),
    ] = LEAST_COSINE,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Folder for report.html, report.json, contact_sheet.png; default: FACES.report.", show_default=False
        ),
    ] = None,
    convert: Convert = False,
    overwrite: Overwrite = False,
    input_size: Size = 112,
    input_mean: Mean = None,
    input_std: Std = None,
    input_bgr: Bgr = False,
    input_range: Range = None,
) -> None:
    """Find the face in each ordinary photo and write it aligned; skip those done."""
    network = None
    if model is None:
        refuse("is for --model", input_size=input_size != 112, input_mean=input_mean, input_std=input_std)
        refuse("is for --model", input_bgr=input_bgr, input_range=input_range)
        refuse("is for --model", least_cosine=least_cosine != LEAST_COSINE)
    else:
        network = load_network(model, input_size, input_mean, input_std, input_bgr, input_range)
    if landmarks is not None:
        refuse("is not for --landmarks: they take its place", detector=detector)
    done = vk.align(
        photos,
        out,
        size=size,
        detector=detector,
        landmarks=landmarks,
        model=network,
        least_eyes=least_eyes,
        least_cosine=least_cosine,
        convert=convert,
        overwrite=overwrite,
        report=report,
    )
    counts = [f"{done.written} faces written in {escape(str(out))}"]
    if several := sum(photo.several for photo in done.photos):
        counts.append(f"{several} of them from photos of several faces")
    if done.skipped:
        counts.append(f"{done.skipped} there already, skipped")
    console.print(", ".join(counts), soft_wrap=True)
    console.print(f"report: {escape(str(done.report))}", soft_wrap=True)
    finish(done.problems, done.notices)
