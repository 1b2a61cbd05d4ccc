"""The report of an evaluation: report.html (all in one file), report.json and contact_sheet.png."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import torch

from veilkern import __version__
from veilkern.data.files import atomic_write, make_folder
from veilkern.data.people import People
from veilkern.errors import OutputError
from veilkern.evaluate.identification import TAR
from veilkern.evaluate.pages import html_page
from veilkern.evaluate.run import CLEAN, Evaluation
from veilkern.evaluate.verdict import LEVELS, person_level
from veilkern.evaluate.views import (
    KINDS,
    SHOWN_WORST,
    Views,
    contact_sheet,
    data_uri,
    histogram,
    views,
    worst_photos,
)
from veilkern.veils.bank import VeilBank
from veilkern.veils.sealing import MasterKeys

FILES = ("report.html", "report.json", "contact_sheet.png")
SHOWN_PEOPLE, SHOWN_PHOTOS = 12, 4
LEAST_WIDTH = 112  # CSS pixels of a picture: smaller photos are shown at a whole multiple of their size
_GROUPS = {
    "contour2": ("Most contour left", "the two blurred views agree most"),
    "ssim_protected": ("Most like the original by SSIM", "fine structure agrees most"),
    "cosine": ("Least recognised", "lowest cosine to the person's clean photos"),
}
_HISTOGRAMS = {
    "contour2": ("contour_photo", "residual |contour|, sigma 2 (less is better hidden)"),
    "ssim_protected": ("ssim_photo", "SSIM of protected photos (less is better hidden)"),
    "cosine": (None, "cosine of protected photos to the person (more is better recognised)"),
    "ssim_recovered": ("back_photo", "SSIM of recovered photos (1 is perfect)"),
}
_PERSON_COLUMNS = {
    "rank1": "MSR rank-1",
    "clean_rank1": "same, clean",
    "cosine": "cosine",
    "cosine_worst": "worst photo",
    "contour2": "|contour|",
    "contour2_worst": "worst photo",
    "ssim_protected": "SSIM protected",
    "ssim_protected_worst": "worst photo",
    "ssim_recovered": "SSIM recovered",
    "ssim_recovered_worst": "worst photo",
    "max_error": "max error",
}


def check_folder(folder: str | Path, *, overwrite: bool = False) -> None:
    """OutputError when `folder` holds a report already and overwrite is False; to be asked before the work begins."""
    there = [name for name in FILES if (Path(folder) / name).exists() or (Path(folder) / name).is_symlink()]
    if there and not overwrite:
        raise OutputError(
            f"{folder}: holds a report already ({', '.join(there)}); choose another folder, or overwrite it "
            "(overwrite=True, --overwrite)"
        )


def write_report(
    folder: str | Path,
    evaluation: Evaluation,
    people: People,
    bank: VeilBank,
    *,
    key: MasterKeys | None = None,
    title: str = "veilkern",
    overwrite: bool = False,
) -> Path:
    """Write the three files into `folder`, readable by their owner alone; returns the path of report.html.

    people, bank, key: those that were evaluated; sealed photos are sealed anew for their pictures. The report shows
    originals beside their protected photos, from which a veil that is blended with can be computed: keep it as the
    photos themselves. Raises OutputError, for a report that is there already too unless `overwrite`.
    """
    check_folder(folder, overwrite=overwrite)
    folder = make_folder(folder)
    shown = _examples(evaluation, people, bank, key)
    buffer = io.BytesIO()
    contact_sheet(shown).save(buffer, "PNG")
    contents = {
        "report.json": json.dumps(evaluation.as_dict() | {"veilkern": __version__}, indent=1).encode(),
        "contact_sheet.png": buffer.getvalue(),
        "report.html": _html(evaluation, people, bank, key, shown, title).encode(),
    }
    for name, data in contents.items():
        atomic_write(folder / name, data, mode=0o600, replace=overwrite)
    return folder / "report.html"


def worst_first(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The persons' records, worst first: by the worst level of their figures, then by contour."""

    def badness(record: dict[str, Any]) -> tuple[Any, ...]:
        levels = [LEVELS.index(level) for m in record if (level := person_level(record, m)) is not None]
        return -max(levels, default=0), -record["contour2"], record["name"], record["set"]

    return sorted(evaluation.persons, key=badness)


def _examples(evaluation: Evaluation, people: People, bank: VeilBank, key: MasterKeys | None) -> list[Views]:
    """Photos of the worst persons, evenly spread over those of each that were evaluated."""
    numbers = sorted(number for photos in evaluation.photos.values() for number in photos["photo"])
    shown = []
    for name in list(dict.fromkeys(record["name"] for record in worst_first(evaluation)))[:SHOWN_PEOPLE]:
        person = people.names.index(name)
        own = [n for n in numbers if people.offsets[person] <= n < people.offsets[person + 1]]
        pick = torch.linspace(0, len(own) - 1, min(SHOWN_PHOTOS, len(own))).round().long().tolist()
        shown.append(views(people, bank, [own[i] for i in pick], key))
    return shown


def _worst_cards(
    evaluation: Evaluation, people: People, bank: VeilBank, key: MasterKeys | None
) -> list[dict[str, Any]]:
    """The groups of worst photos; a photo that an earlier group shows already is not shown again."""
    groups: list[dict[str, Any]] = []
    seen: set[tuple[str, int]] = set()
    for measure, count in SHOWN_WORST.items():
        title, why = _GROUPS[measure]
        cards: list[dict[str, Any]] = []
        for label, place in worst_photos(evaluation, measure, count + len(seen)):
            if (label, place) in seen or len(cards) == count:
                continue
            seen.add((label, place))
            photos = evaluation.photos[label]
            figures = {k: photos[k][place] for k in ("contour2", "ssim_protected", "cosine", "rank1")}
            shown = views(people, bank, [photos["photo"][place]], key)
            cards.append({"file": shown.files[0], "set": label, **figures, "pictures": _pictures(shown)[0]})
        groups.append({"title": title, "why": why, "measure": measure, "cards": cards})
    return groups


def _pictures(shown: Views) -> list[list[dict[str, Any]]]:
    """Per photo, each kind as an address and the words for those who cannot see it."""
    return [
        [
            {"kind": kind, "uri": data_uri(shown.images[kind][i]), "alt": f"{kind}: {file}, {shown.name}"}
            for kind in KINDS
        ]
        for i, file in enumerate(shown.files)
    ]


def _html(
    evaluation: Evaluation, people: People, bank: VeilBank, key: MasterKeys | None, shown: list[Views], title: str
) -> str:
    width = people.images.shape[3]
    return html_page(
        "veilkern.evaluate",
        "report.html",
        title=title,
        e=evaluation,
        verdicts=evaluation.verdicts(),
        measures=evaluation.measures,
        remarks=remarks(evaluation),
        clean=CLEAN,
        worst=_worst_cards(evaluation, people, bank, key),
        persons=worst_first(evaluation),
        columns=_PERSON_COLUMNS,
        level=person_level,
        pictures=[{"name": person.name, "photos": _pictures(person)} for person in shown],
        width=width * math.ceil(LEAST_WIDTH / width),
        version=__version__,
        number=format_number,
        histograms=[(text, histogram(evaluation, name, figure, text)) for name, (figure, text) in _HISTOGRAMS.items()],
    )


def remarks(evaluation: Evaluation) -> list[str]:
    """What of the figures was not measured, and why."""
    found = []
    for name, far in TAR.items():
        needed = round(1 / far)
        few = {k: row["impostor_pairs"] for k, row in evaluation.overall.items() if row["impostor_pairs"] < needed}
        if few:
            counts = ", ".join(f"{label} {count}" for label, count in few.items())
            found.append(f"{evaluation.measures[name]}: too few impostor pairs ({counts}; it takes {needed})")
    if evaluation.lpips is None:
        found.append("LPIPS: not measured, it needs AlexNet's weights (--lpips, lpips=)")
    elif not evaluation.lpips.get("published"):
        found.append("LPIPS: not by the weights that torchvision publishes, so not comparable with others' figures")
    return found


def format_number(name: str, value: float | None) -> str:
    """A measure as the tables show it."""
    if value is None or not math.isfinite(value):
        return "–" if value is None or math.isnan(value) else "∞"
    if name == "max_error":
        return str(int(value))
    if name.startswith("psnr"):
        return f"{value:.1f}"
    return f"{value:.4f}" if name.startswith(("ssim", "lpips")) else f"{value:.3f}"
