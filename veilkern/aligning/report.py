"""The report of align: report.html (all in one file), report.json with every photo's outcome, and contact_sheet.png."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from veilkern import __version__
from veilkern.aligning.pictures import TILE, address, tiles
from veilkern.aligning.result import LEFT_OUT, Alignment, Photo
from veilkern.data.files import atomic_write, make_folder
from veilkern.errors import OutputError
from veilkern.evaluate.pages import html_page, plain
from veilkern.evaluate.views import Views, contact_sheet

KIND = "veilkern align"
FILES = ("report.html", "report.json", "contact_sheet.png")
SHOWN_PEOPLE, SHOWN_PHOTOS = 24, 6  # on the contact sheet
SHEET = ("photo", "face")


def earlier(folder: Path, overwrite: bool) -> dict[str, dict[str, Any]]:
    """What an earlier run's report in `folder` says of each photo; none where there is no report. OutputError where
    something else has a report's name, unless `overwrite`; to be asked before the work begins."""
    there = [name for name in FILES if (folder / name).exists() or (folder / name).is_symlink()]
    if not there:
        return {}
    try:
        values = json.loads((folder / "report.json").read_bytes())
        if values["kind"] == KIND:
            return {name: one for name, one in dict(values["photos"]).items() if isinstance(one, dict)}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass  # not one of ours
    if overwrite:
        return {}
    raise OutputError(
        f"{folder}: holds {', '.join(there)}, and not of align; choose another folder for the report (report=, "
        "--report), or overwrite it (overwrite=True, --overwrite)"
    )


def write_report(folder: Path, alignment: Alignment, how: Mapping[str, Any], *, title: str) -> Path:
    """Write the three files into `folder`, readable by their owner alone, over those of an earlier run; returns the
    path of report.html. how: size, detector and the like, for the record. Raises OutputError."""
    make_folder(folder)
    contents = {
        "report.json": json.dumps(plain(_as_dict(alignment, how) | {"veilkern": __version__}), indent=1).encode(),
        "report.html": _html(alignment, how, title).encode(),
    }
    if shown := _sheet(alignment):
        buffer = io.BytesIO()
        contact_sheet(shown, SHEET).save(buffer, "PNG")
        contents["contact_sheet.png"] = buffer.getvalue()
    for name, data in contents.items():
        atomic_write(folder / name, data, mode=0o600)
    return folder / "report.html"


def _as_dict(alignment: Alignment, how: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": KIND,
        **how,
        "written": alignment.written,
        "there_already": alignment.skipped,
        "left_out": [str(problem) for problem in alignment.problems],
        "notices": [str(notice) for notice in alignment.notices],
        "photos": {photo.name: photo.as_dict() for photo in alignment.photos},
    }


def groups(alignment: Alignment) -> list[tuple[str, list[Photo]]]:
    """The photos that want a look first, then the others; each is in one group."""
    named: dict[str, list[Photo]] = {"Left out": [], "Doubtful": [], "One of several faces": [], "One face": []}
    for photo in alignment.photos:
        if photo.state == LEFT_OUT:
            named["Left out"].append(photo)
        elif photo.doubtful:
            named["Doubtful"].append(photo)
        else:
            named["One of several faces" if photo.several else "One face"].append(photo)
    return [(name, photos) for name, photos in named.items() if photos]


def _html(alignment: Alignment, how: Mapping[str, Any], title: str) -> str:
    looked_at = {str(photo.file) for photo in alignment.photos}
    return html_page(
        "veilkern.aligning",
        "align.html",
        title=title,
        a=alignment,
        how=how,
        people=len({photo.person for photo in alignment.photos}),
        groups=[(name, [_card(photo) for photo in photos]) for name, photos in groups(alignment)],
        others=[str(problem) for problem in alignment.problems if problem.file not in looked_at],
        width=2 * TILE,
        version=__version__,
    )


def _card(photo: Photo) -> dict[str, Any]:
    """A photo as the page shows it."""
    words = [photo.reason] if photo.reason else []
    if photo.chosen is not None:
        face = photo.faces[photo.chosen]
        words.append(f"{face.eyes:.0f} pixels between the eyes, score {face.score:.2f}")
        if photo.several:
            words.append(f"{len(photo.faces)} faces")
        if photo.outside > 0.005:
            words.append(f"{photo.outside:.0%} outside of the photo")
    elif not photo.reason:
        words.append(photo.state)
    if photo.cosine is not None:
        words.append(f"cosine {photo.cosine:.2f}")
    uri = address(photo.picture) if photo.picture else ""
    return {"name": photo.name, "words": "; ".join(words + photo.remarks), "uri": uri}


def _sheet(alignment: Alignment) -> list[Views]:
    """Rows of the contact sheet: persons with something to look at first, of each such photos first."""
    rank = {id(photo): (place, photo.name) for place, (_, photos) in enumerate(groups(alignment)) for photo in photos}
    persons: dict[str, list[Photo]] = {}
    for photo in sorted((p for p in alignment.photos if p.picture), key=lambda p: rank[id(p)]):
        persons.setdefault(photo.person, []).append(photo)
    rows = []
    for name, photos in list(persons.items())[:SHOWN_PEOPLE]:
        pictures = torch.stack([tiles(photo.picture) for photo in photos[:SHOWN_PHOTOS]])
        files = [photo.name for photo in photos[:SHOWN_PHOTOS]]
        rows.append(Views(name, files, {kind: pictures[:, i] for i, kind in enumerate(SHEET)}))
    return rows
