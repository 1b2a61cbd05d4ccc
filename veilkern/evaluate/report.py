"""The report of an evaluation: report.html (all in one file), report.json and contact_sheet.png."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from veilkern import __version__
from veilkern.evaluate.run import MEASURES, Evaluation
from veilkern.files import atomic_write, make_folder
from veilkern.people import People
from veilkern.photos import encode_png
from veilkern.protect import protect, recover
from veilkern.veils import VeilBank

SHOWN_PEOPLE, SHOWN_PHOTOS = 12, 4
_HISTOGRAMS = {
    "ssim_protected": "SSIM of protected photos (less is better hidden)",
    "contour2": "residual contour, sigma 2 (0 is best; below 0: a photographic negative)",
    "cosine": "cosine of protected photos to the person (more is better recognised)",
    "ssim_recovered": "SSIM of recovered photos (1 is perfect)",
}


def write_report(
    folder: str | Path, evaluation: Evaluation, people: People, bank: VeilBank, *, title: str = "veilkern"
) -> Path:
    """Write the three files into `folder`; returns the path of report.html. Raises OutputError."""
    folder = make_folder(folder)
    shown = _examples(people, bank)
    atomic_write(
        folder / "report.json", json.dumps(evaluation.as_dict() | {"veilkern": __version__}, indent=1).encode()
    )
    buffer = io.BytesIO()
    contact_sheet(shown).save(buffer, "PNG")
    atomic_write(folder / "contact_sheet.png", buffer.getvalue())
    atomic_write(folder / "report.html", _html(evaluation, shown, title).encode())
    return folder / "report.html"


def _examples(people: People, bank: VeilBank) -> list[dict]:
    """Original, protected and recovered photos of the first persons, evenly spread over each person's photos."""
    shown = []
    for name in [n for n in people.names if n in set(bank.names)][:SHOWN_PEOPLE]:
        photos = people.photos(name)
        pick = torch.linspace(0, len(photos) - 1, min(SHOWN_PHOTOS, len(photos))).round().long()
        original = photos[pick]
        rows = bank.rows([name]).expand(len(original)).contiguous()
        hidden = protect(original, bank, rows)
        shown.append(
            {"name": name, "original": original, "protected": hidden, "recovered": recover(hidden, bank, rows)}
        )
    return shown


def contact_sheet(shown: list[dict]) -> Image.Image:
    """One row a person: originals, protected, recovered."""
    height, width = shown[0]["original"].shape[2:]
    columns = max(len(person["original"]) for person in shown)
    gap, head, label = 8, 18, 14
    sheet = Image.new("RGB", (3 * (columns * width + gap) + gap, head + len(shown) * (height + label)), "white")
    draw = ImageDraw.Draw(sheet)
    for block, kind in enumerate(("original", "protected", "recovered")):
        left = gap + block * (columns * width + gap)
        draw.text((left, 3), kind, fill="black")
        for line, person in enumerate(shown):
            top = head + line * (height + label)
            if not block:
                draw.text((left, top), person["name"][:60], fill="black")
            strip = np.concatenate(list(person[kind].permute(0, 2, 3, 1).numpy()), 1)
            sheet.paste(Image.fromarray(strip), (left, top + label))
    return sheet


def _html(evaluation: Evaluation, shown: list[dict], title: str) -> str:
    from jinja2 import Environment, PackageLoader, select_autoescape

    environment = Environment(
        loader=PackageLoader("veilkern.evaluate"),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pictures = [
        {
            "name": p["name"],
            **{kind: [_data_uri(image) for image in p[kind]] for kind in ("original", "protected", "recovered")},
        }
        for p in shown
    ]
    return environment.get_template("report.html").render(
        title=title,
        e=evaluation,
        measures=MEASURES,
        pictures=pictures,
        version=__version__,
        number=format_number,
        histograms=[(_HISTOGRAMS[name], _histogram(evaluation, name)) for name in _HISTOGRAMS],
    )


def format_number(name: str, value: float | None) -> str:
    """A measure as the tables show it."""
    if value is None or not math.isfinite(value):
        return "–" if value is None or math.isnan(value) else "∞"
    if name == "max_error":
        return str(int(value))
    return f"{value:.1f}" if name.startswith("psnr") else f"{value:.4f}" if name.startswith("ssim") else f"{value:.3f}"


def _data_uri(image: torch.Tensor) -> str:
    return "data:image/png;base64," + base64.b64encode(encode_png(image)).decode()


def _histogram(evaluation: Evaluation, name: str) -> str:
    """Histogram of a measure over photos, crafting and unseen apart, as inline SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 2.2), layout="constrained")
    axes = figure.add_subplot()
    series = {label: values[name] for label, values in evaluation.photos.items()}
    axes.hist(list(series.values()), bins=24, label=list(series), color=["#30638e", "#edae49"][: len(series)])
    axes.set_ylabel("photos")
    axes.legend(frameon=False, fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
