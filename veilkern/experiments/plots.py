"""Plots from the rows alone: Fig. 4, 6 and 7, and the total cost against photos per person."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from veilkern.evaluate.pages import svg_of

Rows = Sequence[Mapping[str, Any]]


def plots(found: Mapping[str, Rows]) -> dict[str, str]:
    """SVG by name, of the experiments whose rows are there. found: rows by experiment."""
    made: dict[str, str] = {}
    for experiment, draw in _DRAWN.items():
        if found.get(experiment):
            made |= draw(found[experiment])
    return made


def _figure(draw: Callable[[Sequence[Any]], None], salt: str, columns: int, size: tuple[float, float]) -> str:
    """SVG of `columns` panels side by side, `size` inches each; draw gets the panels."""
    import matplotlib
    from matplotlib.figure import Figure

    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 8, "axes.spines.top": False}
    settings |= {"axes.spines.right": False, "text.parse_math": False}  # a $ in a network's label is a $
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a letter that the font lacks is a box
        drawing = Figure(figsize=(size[0] * columns, size[1]), layout="constrained")
        draw(drawing.subplots(1, columns, squeeze=False)[0])
        return svg_of(drawing)


def _legend(panel: Any) -> None:
    panel.legend(frameon=False, fontsize=6)


def _label(words: str) -> str:
    """matplotlib leaves out of a legend what begins with an underscore."""
    return f" {words}" if words.startswith("_") else words


def _of(rows: Rows, name: str) -> list[Any]:
    """Values of a column in their order, once each."""
    return list(dict.fromkeys(row[name] for row in rows))


def _value(row: Mapping[str, Any], measure: str) -> float:
    """NaN where nothing was measured."""
    figure = row[measure]
    return math.nan if figure is None or figure["value"] is None else figure["value"]


def _ends(row: Mapping[str, Any], measure: str) -> tuple[float, float]:
    ends = [row[measure][end] for end in ("low", "high")]
    low, high = (_value(row, measure) if end is None or not math.isfinite(end) else end for end in ends)
    return low, high


def _matrices(rows: Rows) -> dict[str, str]:
    """Fig. 4: a matrix of MSR, surrogates by targets, a panel a method; unseen photos where there are some."""
    set_ = _of(rows, "photos")[-1]
    shown = [row for row in rows if row["photos"] == set_ and row["surrogate"]]  # clean photos have none
    if not shown:
        return {}
    methods, surrogates, targets = (_of(shown, name) for name in ("method", "surrogate", "target"))

    def draw(axes) -> None:
        for panel, method in zip(axes, methods, strict=True):
            at = {(r["surrogate"], r["target"]): _value(r, "rank1") for r in shown if r["method"] == method}
            cells = [[at.get((s, t), math.nan) for t in targets] for s in surrogates]
            panel.imshow(cells, vmin=0, vmax=1, cmap="viridis", aspect="auto")
            for y, surrogate in enumerate(surrogates):
                for x, target in enumerate(targets):
                    value = at.get((surrogate, target), math.nan)
                    panel.text(
                        x, y, f"{value:.2f}", ha="center", va="center", color="white" if value < 0.6 else "black"
                    )
            panel.set_title(method)
            panel.set_xticks(range(len(targets)), targets, rotation=60, ha="right")
            panel.set_yticks(range(len(surrogates)), surrogates if panel is panel.figure.axes[0] else [])

    height = 1.6 + 0.3 * len(surrogates) + 0.08 * max(map(len, targets))
    return {"fig4": _figure(draw, "fig4", len(methods), (1.2 + 0.35 * len(targets), height))}


def _over_alpha(rows: Rows) -> dict[str, str]:
    """Fig. 6: MSR over alpha in each target, a panel a surrogate; * marks the surrogate itself."""
    set_ = _of(rows, "photos")[-1]
    shown = [row for row in rows if row["photos"] == set_ and row["alpha"] is not None]
    surrogates = _of(shown, "surrogate")

    def draw(axes) -> None:
        for panel, surrogate in zip(axes, surrogates, strict=True):
            own = [row for row in shown if row["surrogate"] == surrogate]
            for method, style in zip(_of(own, "method"), ("-", "--", ":"), strict=False):
                for number, target in enumerate(_of(own, "target")):
                    line = [row for row in own if row["method"] == method and row["target"] == target]
                    star = "*" if line[0]["white_box"] else ""
                    panel.plot(
                        [row["alpha"] for row in line],
                        [_value(row, "rank1") for row in line],
                        style,
                        color=f"C{number % 10}",
                        label=_label(f"{target}{star}, {method}"),
                    )
            panel.set(xlabel="alpha", ylabel=f"MSR, {set_} photos", ylim=(-0.02, 1.02), title=surrogate)
            _legend(panel)

    return {"fig6": _figure(draw, "fig6", len(surrogates), (4.2, 3.4))}


def _over_changes(rows: Rows) -> dict[str, str]:
    """Fig. 7: MSR over the level of each change, a panel a change, a file a surrogate; bands are the intervals."""
    set_ = _of(rows, "photos")[-1]
    kinds = [kind for kind in _of(rows, "change") if kind != "none"]
    made = {}
    for surrogate in _of(rows, "surrogate") if kinds else ():
        own = [row for row in rows if row["photos"] == set_ and row["surrogate"] == surrogate]

        def draw(axes, own=own) -> None:
            for panel, kind in zip(axes, kinds, strict=True):
                for number, method in enumerate(_of(own, "method")):
                    _draw_change(panel, kind, [row for row in own if row["method"] == method], f"C{number}", method)
                panel.set(title=kind, ylim=(-0.02, 1.02))
                if kind in UNCHANGED_AT:  # less is worse
                    panel.invert_xaxis()
            axes[0].set_ylabel(f"MSR, {set_} photos")
            _legend(axes[0])

        made[f"fig7 {surrogate}"] = _figure(draw, f"fig7 {surrogate}", len(kinds), (2.3, 2.8))
    return made


UNCHANGED_AT = {"JPEG": 100, "resize": 1.0}  # where `none` stands on the axis; of all others at 0


def _draw_change(panel: Any, kind: str, rows: Rows, colour: str, method: str) -> None:
    """One method's line in the panel of a change, beginning with no change."""
    line = [row for row in rows if row["change"] in ("none", kind)]
    levels = [UNCHANGED_AT.get(kind, 0) if row["change"] == "none" else row["level"] for row in line]
    low, high = zip(*(_ends(row, "rank1") for row in line), strict=True)
    panel.plot(levels, [_value(row, "rank1") for row in line], ".-", color=colour, label=method, linewidth=1)
    panel.fill_between(levels, low, high, color=colour, alpha=0.12, linewidth=0)
    panel.set(xticks=levels, xlabel=line[-1]["unit"])
    panel.tick_params(axis="x", labelsize=5)


def _total_cost(rows: Rows) -> dict[str, str]:
    """Image-steps a person in all, against her photos: once for all against again for each."""
    photos = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    surrogates = _of(rows, "surrogate")

    def draw(axes) -> None:
        for panel, surrogate in zip(axes, surrogates, strict=True):
            own = [row for row in rows if row["surrogate"] == surrogate and row["aim"] == "hide"]
            for method in _of(own, "method"):
                row = next(row for row in own if row["method"] == method)
                once, person, photo = (row[f"passes_per_{kind}"] or 0 for kind in ("once", "person", "photo"))
                people = max(row["rank1"]["people"] or 0, 1)
                if row["scope"] != "everybody":
                    people = 1
                total = [once / people + person + n * photo for n in photos]
                panel.plot(photos, total, "o-", markersize=2.5, label=f"{method} ({row['scope']})")
            panel.set(xscale="log", yscale="log", xlabel="photos of a person", title=surrogate)
            panel.set_ylabel("image-steps a person, in all")
            _legend(panel)

    return {"cost": _figure(draw, "cost", len(surrogates), (4.2, 3.4))}


_DRAWN: dict[str, Callable[[Rows], dict[str, str]]] = {
    "fig4": _matrices,
    "fig6": _over_alpha,
    "fig7": _over_changes,
    "cost": _total_cost,
}
