"""`{figure-of} NAME`: a plot drawn, in each build, from the JSON lines that a benchmark has written.

Inline SVG: its words are text in the page's own font and colour, so that it reads in the dark as in the light. The
caption names the command, the file, the machine and the commit of its rows.
"""

from __future__ import annotations

import html
import io
import itertools
import json
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive

RESULTS = Path(__file__).parents[2] / "bench" / "results"
OURS = ("#2a9d8f", "#72b84a")  # veilkern's own, and those of its second scheme
OTHERS = ("#e08e45", "#7b87c6", "#c2607f", "#8d8d8d", "#9a8f2a")  # seen on white and on black
INK = "#010203"  # becomes the text's colour
FOUND: dict[str, Figure] = {}


@dataclass(frozen=True)
class Figure:
    """A plot of the rows of one file. says: what it shows, for the caption and for who cannot see it."""

    file: str
    command: str
    says: str
    draw: Callable
    op: str = ""  # of these rows alone


def figure(file: str, command: str, says: str, op: str = ""):
    """Register a function of (rows, pyplot) that returns a matplotlib figure, under its own name."""

    def register(draw: Callable) -> Callable:
        FOUND[draw.__name__.replace("_", "-")] = Figure(file, command, says, draw, op)
        return draw

    return register


def rows_of(file: str) -> list[dict]:
    """The rows of a file of results, of each case the last one measured."""
    lines = [json.loads(line) for line in (RESULTS / file).read_text().splitlines() if line.endswith("}")]
    key = ("op", "size", "network", "scheme", "choice", "image_steps")
    return list({tuple(row.get(k) for k in key): row for row in lines}.values())


def machines(rows: list[dict]) -> str:
    """The machines of the rows in words, each with the commits that it ran."""
    seen: dict[str, set[str]] = {}
    for row in rows:
        threads = "1 thread" if row["threads"] == 1 else f"{row['threads']} threads"
        where = f"{row['cpu']}, {threads}, {row['backend']}, torch {row['torch']}, Python {row['python']}"
        seen.setdefault(where, set()).add(row["commit"])
    return "; ".join(
        f"{where}, {'commit' if len(commits) == 1 else 'commits'} {', '.join(sorted(commits))}"
        for where, commits in sorted(seen.items())
    )


def _bars(plt, labels: list[str], series: dict[str, list], words: str, *, base: float = 0, log=True, unit="{:g}"):
    """Horizontal bars from `base`, a group a label, a colour a series; each with its number."""
    height = 0.8 / len(series)
    made, axis = plt.subplots(figsize=(7.2, 0.55 + len(labels) * (0.16 + 0.2 * len(series))))
    ours, others = iter(OURS), itertools.cycle(OTHERS)
    for number, (name, values) in enumerate(series.items()):
        known = [(i, v) for i, v in enumerate(values) if v is not None]
        places = [i + (number - (len(series) - 1) / 2) * height for i, _ in known]
        colour = next(ours if name.startswith("veilkern") else others)
        axis.barh(places, [v - base for _, v in known], height * 0.86, left=base, color=colour, label=name)
        for place, (_, value) in zip(places, known, strict=True):
            style = {"textcoords": "offset points", "va": "center", "size": 8}
            axis.annotate(unit.format(value), (max(value, base), place), (3, 0), **style)
    axis.set_yticks(range(len(labels)), labels)
    axis.invert_yaxis()
    axis.set_xlabel(words)
    axis.margins(x=0.12, y=0.02)
    if log:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
    if base:
        axis.axvline(base, color=INK, linewidth=0.8)
        axis.set_xlim(left=min([base, *(v for values in series.values() for v in values if v is not None)]) * 0.9)
    if len(series) > 1:
        made.legend(loc="outside upper center", ncols=len(series), frameon=False)
    return made


def _fastest(row: dict, kind: str) -> float | None:
    values = [v for k, v in row.items() if k == f"x_{kind}" or k.startswith(f"x_{kind}_")]
    return min(values, default=None)


SPEED = "time of the fastest formulation that we know, in eager PyTorch and by torch.compile, for one of veilkern's"


@figure("cpu.jsonl", "make bench", f"Ops on the CPU: {SPEED}. 1: as fast.")
def ops_speed(rows, plt):
    rows = [row for row in rows if row["op"] != "protector"]
    labels = [f"{row['op']}\n{row['size']}" for row in rows]
    kinds = {"eager PyTorch": "eager", "torch.compile": "compile"}
    return _bars(
        plt, labels, {n: [_fastest(r, k) for r in rows] for n, k in kinds.items()}, "times as long as veilkern"
    )


@figure(
    "cpu.jsonl", "make bench", "Ops on the CPU: the time of an op, in times of a copy of the bytes that it must move."
)
def ops_copy(rows, plt):
    labels = [f"{row['op']}, {row['size']}" for row in rows]
    times = {"veilkern": [row["x_copy_time"] for row in rows]}
    return _bars(plt, labels, times, "a copy of the same bytes: 1", base=1)


@figure("craft.jsonl", "python bench/bench_craft.py", "Image-steps a second of a craft, and of two loops in PyTorch.")
def craft_speed(rows, plt):
    labels = [row["size"].partition(",")[0] for row in rows]
    series = {
        "veilkern, blend": "veilkern_image_steps_s",
        "veilkern, sealed": "veilkern_sealed_image_steps_s",
        "a careful loop": "compile_strong_image_steps_s",
        "the customary loop": "eager_naive_image_steps_s",
    }
    return _bars(plt, labels, {n: [row[k] for row in rows] for n, k in series.items()}, "image-steps a second", base=1)


@figure("craft_cost.jsonl", "python bench/craft_cost.py memory", "Memory of a photo forwards and backwards, at most.",
        "craft memory")  # fmt: skip
def craft_memory(rows, plt):
    series = {
        "veilkern": "veilkern_mib_photo",
        "autograd, frozen": "autograd_frozen_mib_photo",
        "autograd, trainable": "autograd_trained_mib_photo",
    }
    labels = [row["size"].partition(",")[0] for row in rows]
    return _bars(plt, labels, {n: [row[k] for row in rows] for n, k in series.items()}, "MiB a photo", log=False)


@figure("to_the_bars.jsonl", "python bench/to_the_bars.py", "Seconds until 12 people reach every bar of protection.")
def to_the_bars(rows, plt):
    (row,) = rows
    names = {"veilkern, sealed, robust none": "sealed_none_s", "veilkern, blend": "blend_s"}
    names |= {"veilkern, sealed, mild": "sealed_mild_s", "the customary loop": "naive_s"}
    ours = {"veilkern": [row[k] if k != "naive_s" else None for k in names.values()]}
    theirs = {"the customary loop": [row[k] if k == "naive_s" else None for k in names.values()]}
    return _bars(plt, list(names), ours | theirs, "seconds", log=False)


@figure("unit_costs.jsonl", "python bench/unit_costs.py --faces FACES", "What one thread does in a second, in photos.")
def unit_costs(rows, plt):
    (row,) = rows
    names = {"seal": "sealed_per_s", "unseal": "unsealed_per_s", "read a JPEG": "read_jpeg_per_s"}
    names |= {"read a PNG": "read_png_per_s", "write a PNG, synced": "written_per_s"}
    names |= {
        "veilkern recover, all of it": "recover_folder_per_s",
        "veilkern protect, all of it": "protect_folder_per_s",
    }
    return _bars(plt, list(names), {"veilkern": [row[k] for k in names.values()]}, "photos a second", unit="{:,.0f}")


CHOICES = {
    "blend": ("start", "steps x 2", "decay 0.9, steps x 2", "decay 0.5, steps x 4"),
    "sealed": ("start", "steps x 2", "decay 0.8, steps x 2"),
}
FAR = "How far the features of protected unseen photos are from the person's mean clean one, by image-steps."


@figure("convergence.jsonl", "python bench/convergence.py", FAR)
def convergence(rows, plt):
    networks = list(dict.fromkeys(row["network"] for row in rows))
    made, axes = plt.subplots(2, len(networks), figsize=(7.2, 6), sharey=True, squeeze=False)
    for line, (scheme, choices) in enumerate(CHOICES.items()):
        for axis, network in zip(axes[line], networks, strict=True):
            for name, colour in zip(choices, (OTHERS[3], OTHERS[0], OURS[0], OTHERS[1]), strict=False):
                own = sorted(
                    (row["image_steps"], 1 - statistics.mean(row["unseen"]["cosine"]))
                    for row in rows
                    if (row["scheme"], row["network"], row["choice"]) == (scheme, network, name)
                )
                axis.plot(*zip(*own, strict=True), "o-", label=name, color=colour, markersize=4, linewidth=1.4)
            axis.set(xscale="log", yscale="log", title=f"{scheme}, {network}", xlabel="image-steps a person")
            steps = sorted({p for p, _ in own})
            axis.set_xticks(steps, [str(p) for p in steps])
            axis.minorticks_off()
        axes[line][0].set_ylabel("1 - cosine")
        axes[line][-1].legend(frameon=False)
    return made


def svg_of(name: str) -> tuple[str, str]:
    """A figure as SVG for a page, and its caption."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    one = FOUND[name]
    rows = [row for row in rows_of(one.file) if one.op in ("", row.get("op"))]
    colours = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    plain = {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif", "font.size": 9}
    with matplotlib.rc_context({**colours, **plain, "axes.spines.top": False, "axes.spines.right": False,
                                "figure.constrained_layout.use": True}):  # fmt: skip
        made, file = one.draw(rows, plt), io.StringIO()
        made.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        plt.close(made)
    svg = file.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL).replace(
        INK, "currentColor"
    )
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1; font-family: inherit", svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)  # several figures on a page
    svg = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", svg)
    label = html.escape(one.says, quote=True)
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', f'role="img" aria-label="{label}"', svg, count=1)
    return svg, f"{one.says} <code>{one.command}</code>, bench/results/{one.file}; {machines(rows)}."


class FigureOf(Directive):
    """The directive."""

    required_arguments = 1

    def run(self):
        name = self.arguments[0]
        if name not in FOUND:
            raise self.error(f"figure-of: no figure {name!r}; there are {', '.join(sorted(FOUND))}")
        self.state.document.settings.env.note_dependency(str(RESULTS / FOUND[name].file))
        svg, caption = svg_of(name)
        page = f'<figure class="bench">{svg}<figcaption>{caption}</figcaption></figure>'
        return [nodes.raw("", page, format="html")]


def setup(app):
    app.add_directive("figure-of", FigureOf)
    return {"parallel_read_safe": True}
