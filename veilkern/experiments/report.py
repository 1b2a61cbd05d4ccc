"""report.html, tables.md and plots from paper.json alone."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from veilkern.data.files import atomic_write, make_folder
from veilkern.errors import OutputError
from veilkern.evaluate.pages import html_page
from veilkern.experiments.plots import plots
from veilkern.experiments.tables import escaped, table, table_of, text
from veilkern.experiments.titles import EXPERIMENTS

JSON = "paper.json"
LONG = 40  # lines of a table that is folded


def read(folder: Path) -> dict[str, Any]:
    """paper.json of a folder; OutputError where there is none or it is another file."""
    path = folder / JSON
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, dict) or any(not isinstance(found.get(name), dict) for name in EXPERIMENTS):
        raise OutputError(f"{path}: not the paper.json of veilkern paper: wanted the keys {', '.join(EXPERIMENTS)}")
    if wrong := [name for name, kind in _HEAD.items() if not isinstance(found.get(name), kind)]:
        raise OutputError(f"{path}: not as veilkern paper writes it: {', '.join(wrong)}")
    for name in EXPERIMENTS:
        if any(not isinstance(found[name].get(key), kind) for key, kind in _PART.items()):
            raise OutputError(f"{path}: not as veilkern paper writes it: {name} wants {', '.join(_PART)}")
    return found


_HEAD: dict[str, type | tuple[type, ...]] = {
    "veilkern": str,
    "machine": str,
    "settings": dict,
    "people": int,
    "photos": dict,
    "gallery": int,
    "surrogates": list,
    "networks": dict,
    "notes": list,
    "pictures": list,
    "claims": list,
}
_PART: dict[str, type] = {"title": str, "why": str, "rows": list, "comparison": list, "pictures": list, "paper": list}


def render_from(source: Path, folder: Path) -> Path:
    """The report of the paper.json in `source`, with the pictures there, written into `folder`, which gets both too
    where it is another. OutputError for what veilkern paper did not write."""
    paper = read(source)
    pictures = {name: png for name in paper["pictures"] if (png := _bytes(source, name)) is not None}
    try:
        made = render(paper, folder, pictures)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise OutputError(f"{source / JSON}: not as veilkern paper writes it: {error!r}") from error
    if folder.resolve() != source.resolve():
        atomic_write(folder / JSON, (source / JSON).read_bytes())
    return made


def render(paper: Mapping[str, Any], folder: Path, pictures: Mapping[str, bytes] | None = None) -> Path:
    """Write the report of `paper` (what paper.json holds) into `folder`; returns the path of report.html.

    pictures: PNG by name, written too; others that paper names are shown as they lie in the folder. Pictures and plots
    of earlier runs that it does not name are removed: they show other people.
    """
    folder = make_folder(folder)
    rows = {name: paper[name]["rows"] for name in EXPERIMENTS if paper[name]["rows"]}
    drawn = plots(rows)
    for name, svg in drawn.items():
        atomic_write(make_folder(folder / "plots") / f"{file_name(name)}.svg", _standing_alone(svg))
    for name, png in (pictures or {}).items():
        # As the photos themselves: originals are on them.
        atomic_write(make_folder(folder / "pictures") / f"{file_name(name)}.png", png, mode=0o600)
    _remove_others(folder / "plots", {f"{file_name(name)}.svg" for name in drawn})
    _remove_others(folder / "pictures", {f"{file_name(name)}.png" for name in paper["pictures"]})
    shown = {name: _picture(folder, name) for name in paper["pictures"]}
    atomic_write(folder / "tables.md", markdown(paper).encode())
    atomic_write(folder / "report.html", _html(paper, drawn, shown).encode(), mode=0o600)
    return folder / "report.html"


def file_name(name: str) -> str:
    """A name of a plot or picture as a file's: where it had to be changed a digest keeps it apart from others."""
    plain = "".join(c if (c.isascii() and c.isalnum()) or c in "-_." else "-" for c in name)[:80]
    return plain if plain == name.replace(" ", "-") and "-" not in name else f"{plain}-{_digest(name)}"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]


def _remove_others(folder: Path, kept: set[str]) -> None:
    for file in folder.glob("*") if folder.is_dir() else ():
        if file.name not in kept and file.name.startswith(_OURS) and file.suffix in (".svg", ".png"):
            file.unlink(missing_ok=True)


_OURS = ("fig3", "fig4", "fig5", "fig6", "fig7", "fig8", "cost")


def _bytes(folder: Path, name: str) -> bytes | None:
    try:
        return (folder / "pictures" / f"{file_name(name)}.png").read_bytes()
    except OSError:
        return None  # removed since: the report says so


def _picture(folder: Path, name: str) -> str:
    png = _bytes(folder, name)
    return "" if png is None else "data:image/png;base64," + base64.b64encode(png).decode()


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
    parts = ["# The paper's experiments", f"`veilkern paper`: {escaped(about(paper))}", *map(escaped, paper["notes"])]
    parts += ["## The paper's claims, and ours", _claims(paper)]
    for name in EXPERIMENTS:
        part = paper[name]
        parts.append(f"## {part['title']}")
        if not part["rows"]:
            parts.append(escaped(part["why"]))
            continue
        own = {plot: place for plot, place in (shown or {}).items() if plot == name or plot.startswith(f"{name} ")}
        parts += [f"![{plot}]({place})" for plot, place in own.items()]
        found = table_of(name, part["rows"])
        parts += [f"{found.of}.", _folded(found.markdown(), len(found.cells), "rows")]
        if part["comparison"]:
            count = len(part["comparison"])
            parts += ["Against the paper:", _folded(_comparison(part["comparison"]), count, "lines")]
    return "\n\n".join(parts) + "\n"


def _folded(text: str, count: int, what: str) -> str:
    """A long table behind a line that opens it, where Markdown is shown as HTML."""
    return text if count <= LONG else f"<details><summary>{count} {what}</summary>\n\n{text}\n\n</details>"


def _claims(paper: Mapping[str, Any]) -> str:
    head = ("claim", "whose", "verdict", "figures")
    return table(head, [[claim[key] for key in ("claim", "of", "verdict", "figures")] for claim in paper["claims"]])


def _comparison(found: list[dict[str, Any]]) -> str:
    return table(("line", "measure", "ours", "paper", "verdict"), [cells(one) for one in found])


def cells(one: Mapping[str, Any]) -> list[str]:
    """A comparison's cells."""
    theirs = one.get("paper")
    paper = (
        "" if not theirs else text(theirs[0]) if theirs[0] == theirs[1] else f"{text(theirs[0])} to {text(theirs[1])}"
    )
    why = f" ({one['why']})" if one["verdict"] == "not comparable" else ""
    return [one["line"], one["measure"], text(one.get("ours"), one["measure"]), paper, one["verdict"] + why]


def _html(paper: Mapping[str, Any], drawn: Mapping[str, str], shown: Mapping[str, str]) -> str:
    tables = {name: table_of(name, paper[name]["rows"]) for name in EXPERIMENTS if paper[name]["rows"]}
    return html_page(
        "veilkern.experiments",
        "paper.html",
        paper=paper,
        about=about(paper),
        experiments=EXPERIMENTS,
        tables=tables,
        plots=drawn,
        pictures=shown,
        cells=cells,
    )
