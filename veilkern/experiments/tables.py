"""Tables from the rows alone: which columns an experiment shows, in Markdown and for HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Layout:
    """index: the columns that say what a row is. measures: those that follow, key and head. across: or a column whose
    values become columns of one measure (the first of `measures`)."""

    index: tuple[str, ...]
    measures: tuple[tuple[str, str], ...]
    across: str = ""


_SEEN = (("ssim", "SSIM"), ("lpips", "LPIPS"), ("contour", "contour"))
LAYOUTS: dict[str, Layout] = {
    "table1": Layout(("method", "surrogate", "photos"), (*_SEEN, ("rank1", "MSR"))),
    "table2": Layout(
        ("method", "surrogate", "stored", "filter", "photos"), (*_SEEN[:2], ("max_error", "largest error, levels"))
    ),
    "table3": Layout(("method", "alpha", "surrogate", "photos"), (*_SEEN, ("rank1", "MSR"))),
    "fig3": Layout(("method", "surrogate", "photos"), (_SEEN[0], _SEEN[2])),
    "fig4": Layout(("method", "surrogate", "photos"), (("rank1", "MSR rank-1"),), "target"),
    "fig6": Layout(("method", "surrogate", "target", "photos"), (("rank1", "MSR rank-1"),), "alpha"),
    "fig7": Layout(("change", "level", "surrogate", "photos"), (("rank1", "MSR rank-1"),), "method"),
    "cost": Layout(
        ("method", "scope", "surrogate", "photos"),
        (
            ("passes_per_once", "image-steps once"),
            ("passes_per_person", "a person"),
            ("passes_per_photo", "a photo"),
            ("seconds_per_once", "seconds once"),
            ("seconds_per_person", "a person"),
            ("seconds_per_photo", "a photo"),
            *_SEEN,
            ("rank1", "MSR"),
            ("evasion", "evasion"),
            ("ssim_recovered", "SSIM recovered"),
        ),
    ),
    "subspace": Layout(
        ("subspace", "surrogate", "photos"),
        (
            *_SEEN,
            ("rank1", "MSR"),
            ("cosine", "cosine"),
            ("feature_distance", "feature distance"),
            ("image_steps_per_veil", "image-steps a veil"),
            ("seconds_per_veil", "seconds a veil"),
        ),
    ),
    "another_person": Layout(
        ("method", "surrogate", "photos"),
        (("owner", "for the veil's owner"), ("shown", "for who is shown"), ("neither", "for neither")),
    ),
}


@dataclass(frozen=True)
class Table:
    """heads, and cells of text; of: how many people and photos its figures are of."""

    heads: list[str]
    cells: list[list[str]]
    of: str

    def markdown(self) -> str:
        """As Markdown."""
        return table(self.heads, self.cells)


def table(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, whatever is in its cells."""
    lines = [[*map(escaped, heads)], ["---"] * len(heads), *([*map(escaped, line)] for line in cells)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def escaped(words: str) -> str:
    """Words that Markdown shows as they are, in one line."""
    words = " ".join(words.split()).replace("&", "&amp;").replace("<", "&lt;")
    return words.replace("|", "\\|")


def table_of(experiment: str, rows: Rows) -> Table:
    """The table of an experiment's rows."""
    layout = LAYOUTS[experiment]
    counts = sorted({(f["people"], f["photos"]) for row in rows for f in row.values() if _is_figure(f) and f["people"]})
    people, photos = ([str(c) for c in sorted({pair[i] for pair in counts})] for i in (0, 1))
    of = f"means over people, [95 % over people]; {_or(people)} people, {_or(photos)} photos" if counts else ""
    if not layout.across:
        heads = [*layout.index, *(head for _, head in layout.measures)]
        cells = [
            [*(_word(row[k]) for k in layout.index), *(text(row.get(k), k) for k, _ in layout.measures)] for row in rows
        ]
        return Table(heads, cells, of)
    across = list(dict.fromkeys(row[layout.across] for row in rows))
    measure, name = layout.measures[0]
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        lines.setdefault(tuple(row[k] for k in layout.index), {})[row[layout.across]] = text(row[measure])
    heads = [*layout.index, *(f"{layout.across} {_word(v)}" if layout.across != "target" else str(v) for v in across)]
    cells = [[*map(_word, key), *(line.get(v, "") for v in across)] for key, line in lines.items()]
    return Table(heads, cells, f"{name}; {of}")


def _or(counts: list[str]) -> str:
    return counts[0] if len(counts) == 1 else f"{counts[0]} to {counts[-1]}" if len(counts) > 2 else " or ".join(counts)


def _is_figure(value: Any) -> bool:
    return isinstance(value, Mapping) and "value" in value


def _word(value: Any) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def text(value: Any, measure: str = "") -> str:
    """A figure with its interval, or a number; – where nothing was measured. measure: whose digits are shown."""
    if _is_figure(value):
        digits = 4 if measure.startswith("ssim") else 3
        number = _fixed(value["value"], digits)
        low, high = value["low"], value["high"]
        known = all(end is not None and math.isfinite(end) for end in (low, high))
        return f"{number} [{_fixed(low, digits)}, {_fixed(high, digits)}]" if known and number != "–" else number
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, (int, float)):
        return (
            f"{value:.0f}"
            if abs(value) >= 100 or value == int(value)
            else f"{value:.3g}"
            if abs(value) >= 1
            else f"{value:.3f}"
        )
    return str(value)


def _fixed(value: float | None, digits: int) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"
