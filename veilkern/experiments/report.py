"""report.html, tables.md and plots from paper.json alone."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from veilkern.data.files import atomic_write, make_folder
from veilkern.errors import OutputError
from veilkern.experiments.plots import plots
from veilkern.experiments.tables import table_of, text
from veilkern.experiments.titles import EXPERIMENTS

JSON = "paper.json"
LONG = 40  # lines of a table that is folded


def read(folder: Path) -> dict[str, Any]:
    """paper.json of a folder; OutputError where there is none or it is another file."""
    path = folder / JSON
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, dict) or any(not isinstance(found.get(name), dict) for name in EXPERIMENTS):
        raise OutputError(f"{path}: not the paper.json of veilkern paper: wanted the keys {', '.join(EXPERIMENTS)}")
    return found


def render(paper: Mapping[str, Any], folder: Path, pictures: Mapping[str, bytes] | None = None) -> Path:
    """Write the report of `paper` (what paper.json holds) into `folder`; returns the path of report.html.

    pictures: PNG by name, written too; None: those that lie in the folder from before are shown.
    """
    folder = make_folder(folder)
    rows = {name: paper[name]["rows"] for name in EXPERIMENTS if paper[name]["rows"]}
    drawn = plots(rows)
    for name, svg in drawn.items():
        atomic_write(make_folder(folder / "plots") / f"{_file(name)}.svg", _standing_alone(svg))
    for name, png in (pictures or {}).items():
        # As the photos themselves: originals are on them.
        atomic_write(make_folder(folder / "pictures") / f"{_file(name)}.png", png, mode=0o600)
    shown = {name: _picture(folder, name) for name in paper["pictures"]}
    atomic_write(folder / "tables.md", markdown(paper).encode())
    atomic_write(folder / "report.html", _html(paper, drawn, shown).encode(), mode=0o600)
    return folder / "report.html"


def _file(name: str) -> str:
    """A name of a plot or picture as a file's."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)


def _picture(folder: Path, name: str) -> str:
    path = folder / "pictures" / f"{_file(name)}.png"
    try:
        return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    except OSError:
        return ""  # removed since: the report says so


def _standing_alone(svg: str) -> bytes:
    if "xmlns=" not in svg[:400]:
        svg = svg.replace(
            "<svg", '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"', 1
        )
    return svg.encode()


def about(paper: Mapping[str, Any]) -> str:
    """What a run was of, in one sentence."""
    settings, photos = paper["settings"], paper["photos"]
    sets = ", ".join(f"{count} {name}" for name, count in photos.items())
    bounded = "" if settings["steps"] is None else f", at most {settings['steps']} steps a craft"
    return (
        f"{paper['people']} people ({sets} photos), {paper['gallery']} gallery photos, surrogates "
        f"{', '.join(paper['surrogates'])}, {len(paper['networks'])} networks, seed {settings['seed']}{bounded}; "
        f"{paper['machine']}; veilkern {paper['veilkern']}."
    )


def markdown(paper: Mapping[str, Any], shown: Mapping[str, str] | None = None) -> str:
    """All tables, the comparison with the paper and its claims. shown: where plots lie, by name, to be shown with their
    experiments."""
    parts = ["# The paper's experiments", f"`veilkern paper`: {about(paper)}", *paper["notes"]]
    parts += ["## The paper's claims, and ours", _claims(paper)]
    for name in EXPERIMENTS:
        part = paper[name]
        parts.append(f"## {part['title']}")
        if not part["rows"]:
            parts.append(part["why"])
            continue
        own = {plot: place for plot, place in (shown or {}).items() if plot == name or plot.startswith(f"{name}-")}
        parts += [f"![{plot}]({place})" for plot, place in own.items()]
        table = table_of(name, part["rows"])
        parts += [f"{table.of}.", _folded(table.markdown(), len(table.cells), "rows")]
        if part["comparison"]:
            count = len(part["comparison"])
            parts += ["Against the paper:", _folded(_comparison(part["comparison"]), count, "lines")]
    return "\n\n".join(parts) + "\n"


def _folded(text: str, count: int, what: str) -> str:
    """A long table behind a line that opens it, where Markdown is shown as HTML."""
    return text if count <= LONG else f"<details><summary>{count} {what}</summary>\n\n{text}\n\n</details>"


def _claims(paper: Mapping[str, Any]) -> str:
    lines = ["| claim | whose | verdict | figures |", "|---|---|---|---|"]
    return "\n".join(
        lines + [f"| {c['claim']} | {c['of']} | {c['verdict']} | {c['figures']} |" for c in paper["claims"]]
    )


def _comparison(found: list[dict]) -> str:
    lines = ["| line | measure | ours | paper | verdict |", "|---|---|---|---|---|"]
    return "\n".join(lines + [f"| {' | '.join(cells(one))} |" for one in found])


def cells(one: Mapping[str, Any]) -> list[str]:
    """A comparison's cells."""
    theirs = one.get("paper")
    paper = (
        "" if not theirs else text(theirs[0]) if theirs[0] == theirs[1] else f"{text(theirs[0])} to {text(theirs[1])}"
    )
    why = f" ({one['why']})" if one["verdict"] == "not comparable" else ""
    return [one["line"], one["measure"], text(one.get("ours"), one["measure"]), paper, one["verdict"] + why]


def _html(paper: Mapping[str, Any], drawn: Mapping[str, str], shown: Mapping[str, str]) -> str:
    from jinja2 import Environment, PackageLoader, select_autoescape

    environment = Environment(
        loader=PackageLoader("veilkern.experiments"),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tables = {name: table_of(name, paper[name]["rows"]) for name in EXPERIMENTS if paper[name]["rows"]}
    return environment.get_template("paper.html").render(
        paper=paper,
        about=about(paper),
        experiments=EXPERIMENTS,
        tables=tables,
        plots=drawn,
        pictures=shown,
        cells=cells,
    )
