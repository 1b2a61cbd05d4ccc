"""veilkern paper: the paper's experiments on your own photos and networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

import veilkern as vk
from veilkern.cli._several import Several
from veilkern.cli._shared import (
    NARROW,
    Convert,
    Overwrite,
    Resize,
    console,
    errors,
    finish,
    sigterm_as_ctrl_c,
)
from veilkern.data.files import refuse_inside
from veilkern.data.people import Problem
from veilkern.experiments.titles import EXPERIMENTS

COMMAND = Several.of("--surrogates", "--targets", "--only")


def paper(
    faces: Annotated[
        Path | None, typer.Argument(metavar="FACES", help="One folder per person, PNG, JPEG or WebP inside.")
    ] = None,
    surrogates: Annotated[
        list[str] | None,
        typer.Option(metavar="NET..", help="Networks that veils are crafted for; LABEL=NET names one in the report."),
    ] = None,
    targets: Annotated[
        list[str] | None, typer.Option(metavar="NET..", help="More networks that look at the protected photos.")
    ] = None,
    gallery: Annotated[Path | None, typer.Option(help="Folder of photos of other people.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for report.html, paper.json, tables.md.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME..", help=f"Of {', '.join(EXPERIMENTS)}; default: all.")
    ] = None,
    people: Annotated[int | None, typer.Option(min=1, help="The first so many people.")] = None,
    held_out: Annotated[
        int | None, typer.Option(min=0, help="Photos of each person that no veil is crafted on; default: 10, or half.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Bounds the steps of every craft.")] = None,
    image_specific: Annotated[
        int, typer.Option(min=1, help="Photos that methods which craft each photo for itself are tried on.")
    ] = 4,
    lpips: Annotated[
        Path | None, typer.Option(help="AlexNet's weights, for LPIPS; without them it is left out.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Everything that is drawn follows from it.")] = 0,
    size: Annotated[int, typer.Option(min=1, help="Side of the photos, pixels, as the surrogates read them.")] = 112,
    threads: Annotated[int | None, typer.Option(min=1, help="On the CPU.")] = None,
    render: Annotated[
        Path | None, typer.Option(help="Write report and tables again from this folder's paper.json; nothing is run.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Refuse a surrogate that does not tell these people apart.")
    ] = True,
    resize: Resize = False,
    convert: Convert = False,
    overwrite: Overwrite = False,
) -> None:
    """Run the paper's experiments on your photos and networks, and compare line by line.

    FACES comes first: options of several values take all words that follow. Interrupted, the same command goes on.
    """
    if render is not None:
        given: dict[str, object] = {
            "FACES": faces,
            "--surrogates": surrogates,
            "--targets": targets,
            "--gallery": gallery,
            "--only": only,
        }
        given |= {"--people": people, "--steps": steps, "--lpips": lpips, "--held-out": held_out}
        if meaningless := [name for name, value in given.items() if value]:
            raise typer.BadParameter(f"means nothing with --render: {', '.join(meaningless)}", param_hint="--render")
        _render(render, out or render)
        return
    if faces is None or not surrogates or out is None:
        missing = "FACES" if faces is None else "--surrogates" if not surrogates else "--out"
        raise typer.BadParameter("is needed", param_hint=missing)
    from veilkern.experiments.gallery import GalleryPhotos

    for folder in filter(None, (faces, gallery)):
        refuse_inside(folder, out)
    networks = [_networks(surrogates), _networks(targets or [])]
    measure = None if lpips is None else _lpips(lpips)
    with errors.status("reading photos"):
        found = vk.read_people(faces, size=size, resize=resize, convert=convert)
    others = None
    if gallery is not None:
        others = GalleryPhotos.of_folder(gallery, (size, size), resize, convert)
    with sigterm_as_ctrl_c():
        try:
            made = vk.paper(
                found, *networks, out=out, gallery=others, only=only or EXPERIMENTS, count=people, held_out=held_out,
                steps=steps, image_specific=image_specific, seed=seed, lpips=measure, check=check, overwrite=overwrite,
                threads=threads, tell=lambda what: errors.print(escape(what), soft_wrap=True),
            )  # fmt: skip
        except KeyboardInterrupt:
            if (out / "cells").is_dir():
                kept = escape(str(out / "cells"))
                errors.print(f"what was found is kept in {kept}: the same command goes on from there", soft_wrap=True)
            raise
    _print(made)
    console.print(f"report: {escape(str(out / 'report.html'))}", soft_wrap=True)
    problems: list[Problem] = list(found.problems) + ([] if others is None else others.problems)
    notes = [Problem("paper", note) for note in made["notes"] if not note.startswith("Left out: ")]
    problems += [Problem("paper", n.removeprefix("Left out: ")) for n in made["notes"] if n.startswith("Left out: ")]
    finish(problems, found.notices + notes[1:])


def _render(source: Path, out: Path) -> None:
    from veilkern.experiments.report import render_from

    console.print(f"report: {escape(str(render_from(source, out)))}", soft_wrap=True)


def _networks(given: list[str]) -> dict[str, vk.FaceModel]:
    """Networks by label: LABEL=NET, or the network's own name."""
    found: dict[str, vk.FaceModel] = {}
    for text in given:
        label, equals, source = text.partition("=")
        if not equals or "/" in label or "\\" in label or Path(text).exists():
            label, source = "", text
        network = vk.FaceModel.load(source)
        label = label or network.name
        if label in found:
            raise ValueError(f"two networks are called {label}: name them, LABEL={source}")
        found[label] = network
    return found


def _lpips(path: Path) -> Any:
    from veilkern.evaluate.lpips import Lpips

    return Lpips.load(path)


def _print(made: dict[str, Any]) -> None:
    """The claims and what came of them."""
    colours = {"holds": "green", "does not hold": "red", "not shown": "yellow", "not measured": "dim"}
    table = Table("claim", "whose", "verdict", "figures", title="the paper's claims, and ours", **NARROW)
    for claim in made["claims"]:
        colour = colours[claim["verdict"]]
        words = [escape(claim[k]) for k in ("claim", "of")]
        table.add_row(*words, f"[{colour}]{claim['verdict']}[/]", escape(claim["figures"]))
    console.print(table)
