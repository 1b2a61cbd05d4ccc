"""docs/convergence.md and its pictures from the rows of convergence.py."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

from convergence import POINTS, choices, reached

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- convergence -->", "<!-- end of convergence -->"
SHOWN = {
    "blend": ("start", "steps x 2", "decay 0.8, steps x 2", "decay 0.5, steps x 4", "from grey", "5 photos a step"),
    "sealed": ("start", "steps x 2", "decay 0.8, steps x 2", "decay 0.5, steps x 2", "from grey", "5 photos a step"),
}


def write(rows: list[dict]) -> None:
    parts = [table(rows, scheme, network) for scheme, network in _pairs(rows)]
    path = DOCS / "convergence.md"
    old = path.read_text()
    new = old[: old.index(BEGIN) + len(BEGIN)] + "\n" + "\n".join(parts) + "\n" + old[old.index(END) :]
    path.write_text(new)
    for scheme in SHOWN:
        picture(rows, scheme, DOCS / f"convergence-{scheme}.svg")


def _pairs(rows: list[dict]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["scheme"], row["network"]) for row in rows))


def table(rows: list[dict], scheme: str, network: str) -> str:
    """A row a choice, a column a number of image-steps."""
    by = {
        (row["choice"], row["image_steps"]): row for row in rows if (row["scheme"], row["network"]) == (scheme, network)
    }
    points = sorted({steps for _, steps in by})
    names = [name for name in choices(scheme) if any((name, steps) in by for steps in points)]
    lines = [f"\n### {scheme}, {network}\n", f"| choice | {' | '.join(f'{p} image-steps' for p in points)} |"]
    lines.append("|---" * (1 + len(points)) + "|")
    for name in names:
        cells = [_cell(by.get((name, p)), by.get(("start", p))) for p in points]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: dict | None, start: dict | None) -> str:
    """Mean cosine of the unseen photos, how far it is from the start's at as many image-steps (with its standard
    error over persons), what is left of the contour; ✓ where every bar is reached."""
    if row is None:
        return ""
    found = row["unseen"]
    text = f"{statistics.mean(found['cosine']):.3f}"
    if start is not None and row is not start:
        gains = [a - b for a, b in zip(found["cosine"], start["unseen"]["cosine"], strict=True)]
        error = statistics.stdev(gains) / math.sqrt(len(gains))
        text += f" ({statistics.mean(gains):+.3f} ± {error:.3f})"
    if after := found.get("damaged"):
        text += f"; MSR {after['sigma 60']['msr']:.3f}, {after['sigma 120']['msr']:.3f}"
    else:
        text += f"; {found['contour_size']:.2f}"
    return text + (" ✓" if reached(row) else "")


def picture(rows: list[dict], scheme: str, path: Path) -> None:
    """1 - cosine of the unseen photos over image-steps, both logarithmic, a panel a network."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "veilkern", "svg.fonttype": "none"}  # the same file from the same rows
    import matplotlib.pyplot as plt

    networks = [network for s, network in _pairs(rows) if s == scheme]
    figure, axes = plt.subplots(1, len(networks), figsize=(4.6 * len(networks), 3.6), sharey=True, squeeze=False)
    for axis, network in zip(axes[0], networks, strict=True):
        for name in SHOWN[scheme]:
            own = sorted(
                (row["image_steps"], 1 - statistics.mean(row["unseen"]["cosine"]), reached(row))
                for row in rows
                if (row["scheme"], row["network"], row["choice"]) == (scheme, network, name)
            )
            (line,) = axis.plot([p for p, *_ in own], [q for _, q, _ in own], label=name, linewidth=1.4)
            for steps, value, good in own:
                face = line.get_color() if good else "white"
                axis.plot(steps, value, "o", color=line.get_color(), markerfacecolor=face, markersize=5)
        axis.set(xscale="log", yscale="log", title=network, xlabel="image-steps a person")
        axis.set_xticks(POINTS[scheme], [str(steps) for steps in POINTS[scheme]])
        axis.minorticks_off()
    axes[0][0].set_ylabel("1 - cosine, unseen photos")
    axes[0][-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
