"""The pictures of a report: what is shown of which photos, and the histograms."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from veilkern.data.people import People
from veilkern.data.photos import encode_png
from veilkern.evaluate import metrics
from veilkern.evaluate.pages import svg_of
from veilkern.evaluate.run import Evaluation
from veilkern.evaluate.verdict import THRESHOLDS
from veilkern.veils.bank import VeilBank
from veilkern.veils.protect import protect, recover
from veilkern.veils.sealing import MasterKeys

KINDS = ("original", "protected", "original, blurred", "protected, blurred", "recovered")
SHEET = ("original", "protected", "protected, blurred", "recovered")  # protected next to what a blur leaves of it
SIGMA = 2.0  # of the blurred views, pixels: as in the measure contour2
SHOWN_WORST = {"contour2": 6, "ssim_protected": 4, "cosine": 4}
_INK = "#010203"  # stands for the page's own text colour until the picture is in the page
_COLOURS = {"crafting": "#30638e", "unseen": "#edae49", "unrecorded": "#888888"}


@dataclass(frozen=True)
class Views:
    """Every KINDS of some photos of one person, uint8 [n, 3, H, W] each."""

    name: str
    files: list[str]
    images: dict[str, torch.Tensor]


def views(people: People, bank: VeilBank, photos: Sequence[int], key: MasterKeys | None = None) -> Views:
    """The views of these photos (numbers in `people`) of one person; key: of a sealed bank."""
    index = torch.as_tensor(photos, dtype=torch.int64)
    name = people.names[int(people.rows[index[0]])]
    original = people.images[index]
    rows = bank.rows([name]).expand(len(original)).contiguous()
    hidden = protect(original, bank, rows, key=key)
    blurred, leaked = blurred_views(original, hidden)
    pictures = (original, hidden, blurred, leaked, recover(hidden, bank, rows, key=key))
    return Views(name, [people.files[i] for i in index.tolist()], dict(zip(KINDS, pictures, strict=True)))


def blurred_views(original: torch.Tensor, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Blurred luma of original and protected photos, each stretched to full contrast, as grey uint8 [n, 3, H, W]; where
    the protected photo is a negative of the original it is turned into a positive. What a human sees through the noise.
    """
    sign = metrics.contour(original, hidden, SIGMA).sign()
    sign[sign == 0] = 1
    return _stretched(metrics.blurred_luma(original, SIGMA)), _stretched(
        metrics.blurred_luma(hidden, SIGMA) * sign.view(-1, 1, 1)
    )


def _stretched(luma: torch.Tensor) -> torch.Tensor:
    """[n, H, W] from its 1st to its 99th percentile to 0..255, three equal channels."""
    low, high = (torch.quantile(luma.flatten(1), q, dim=1).view(-1, 1, 1) for q in (0.01, 0.99))
    grey = ((luma - low) / (high - low).clamp_min(1e-6)).clamp(0, 1) * 255
    return grey.round().to(torch.uint8).unsqueeze(1).expand(-1, 3, -1, -1)


def worst_photos(evaluation: Evaluation, measure: str, count: int) -> list[tuple[str, int]]:
    """(set, place in its list) of the photos that are worst by this measure, the worst first."""
    sign = {"contour2": -1, "ssim_protected": -1, "cosine": 1}[measure]
    ranked = [
        (sign * (abs(value) if measure == "contour2" else value), label, place)
        for label, photos in evaluation.photos.items()
        for place, value in enumerate(photos[measure])
    ]
    # A protected photo without a feature (NaN) is the least recognised of all.
    ranked = [(-math.inf if math.isnan(key) else key, label, place) for key, label, place in ranked]
    return [(label, place) for _, label, place in sorted(ranked)[:count]]


def contact_sheet(shown: Sequence[Views], kinds: Sequence[str] = SHEET) -> Image.Image:
    """One row a person: the photos of each of these kinds, all of one size, side by side."""
    height, width = shown[0].images[kinds[0]].shape[2:]
    columns = max(len(person.files) for person in shown)
    gap, head, label = 8, 18, 14
    sheet = Image.new(
        "RGB", (len(kinds) * (columns * width + gap) + gap, head + len(shown) * (height + label)), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for block, kind in enumerate(kinds):
        left = gap + block * (columns * width + gap)
        draw.text((left, 3), kind, fill="black")
        for line, person in enumerate(shown):
            top = head + line * (height + label)
            if not block:
                draw.text((left, top), person.name[:60], fill="black")
            strip = np.concatenate(list(person.images[kind].permute(0, 2, 3, 1).numpy()), 1)
            sheet.paste(Image.fromarray(strip), (left, top + label))
    return sheet


def data_uri(image: torch.Tensor) -> str:
    """A picture as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(encode_png(image)).decode()


def histogram(evaluation: Evaluation, measure: str, figure: str | None, title: str) -> str:
    """Histogram of a measure over photos, the sets apart, as inline SVG in the page's own text colour.

    figure: the entry of THRESHOLDS whose `good` and `watch` are drawn as lines.
    """
    import matplotlib
    from matplotlib.figure import Figure

    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    settings: Any = dict.fromkeys(inked, _INK) | {"svg.fonttype": "none", "svg.hashsalt": measure, "font.size": 9}
    with matplotlib.rc_context(settings):
        drawing = Figure(figsize=(5.2, 2.4), layout="constrained", facecolor="none")
        axes = drawing.add_subplot(facecolor="none")
        series = {
            label: [abs(v) if measure.startswith("contour") else v for v in values[measure] if math.isfinite(v)]
            for label, values in evaluation.photos.items()
        }
        axes.hist(list(series.values()), bins=24, label=list(series), color=[_COLOURS[label] for label in series])
        _draw_threshold(axes, figure)
        axes.set_ylabel("photos")
        axes.legend(frameon=False, fontsize=8)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        text = svg_of(drawing).replace(_INK, "currentColor")
    text = text.replace('id="', f'id="{measure}-').replace("url(#", f"url(#{measure}-").replace('="#', f'="#{measure}-')
    return text.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


def _draw_threshold(axes: Any, figure: str | None) -> None:
    threshold = next((t for t in THRESHOLDS if t.figure == figure), None)
    if threshold is None:
        return
    for value, colour in ((threshold.good, "#2e8b57"), (threshold.watch, "#c0392b")):
        if value is not None:
            axes.axvline(value, color=colour, linestyle="--", linewidth=1)
