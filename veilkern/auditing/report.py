"""The report of an audit: audit.html (all in one file, with pictures) and audit.json."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from veilkern import __version__
from veilkern.auditing.encryption import FieldTest
from veilkern.auditing.run import Audit
from veilkern.auditing.statistics import Figure
from veilkern.data.files import atomic_write, make_folder
from veilkern.errors import OutputError
from veilkern.evaluate.pages import html_page
from veilkern.evaluate.views import data_uri

FILES = ("audit.html", "audit.json")
LEAST_WIDTH = 112  # CSS pixels of a picture: smaller photos are shown at a whole multiple of their size
_MARKS = {"good": "✓", "watch": "▲", "bad": "✗", "untried": "–"}


def check_folder(folder: str | Path, *, overwrite: bool = False) -> None:
    """OutputError when `folder` holds an audit already and overwrite is False; to be asked before the work begins."""
    there = [name for name in FILES if (Path(folder) / name).exists() or (Path(folder) / name).is_symlink()]
    if there and not overwrite:
        raise OutputError(
            f"{folder}: holds an audit already ({', '.join(there)}); choose another folder, or overwrite it "
            "(overwrite=True, --overwrite)"
        )


def write_audit(folder: str | Path, audit: Audit, *, title: str = "veilkern audit", overwrite: bool = False) -> Path:
    """Write audit.html and audit.json into `folder`, readable by their owner alone; returns the path of audit.html.

    The page shows originals beside their protected photos, from which a blended veil can be computed: keep it as the
    photos themselves. Raises OutputError, for an audit that is there already too unless `overwrite`.
    """
    check_folder(folder, overwrite=overwrite)
    folder = make_folder(folder)
    contents = {
        "audit.json": json.dumps(audit.as_dict() | {"veilkern": __version__}, indent=1).encode(),
        "audit.html": _html(audit, title).encode(),
    }
    for name, data in contents.items():
        atomic_write(folder / name, data, mode=0o600, replace=overwrite)
    return folder / "audit.html"


def _html(audit: Audit, title: str) -> str:
    shown = next((photos for photos in audit.pictures.values() if photos), None)
    width = shown[0].original.shape[2] if shown else LEAST_WIDTH
    return html_page(
        "veilkern.auditing",
        "audit.html",
        title=title,
        a=audit,
        marks=_MARKS,
        pictures={name: _pictures(audit, name) for name in audit.pictures},
        others=list(dict.fromkeys(name for row in audit.attacks for name in row.rank1)),
        width=width * math.ceil(LEAST_WIDTH / width),
        version=__version__,
        number=number,
        interval=interval,
        noise=noise,
    )


def _pictures(audit: Audit, name: str) -> list[dict[str, Any]]:
    """Of each photo shown for an attack: original, protected and output as addresses, and words for those who cannot
    see them."""
    return [
        {
            "file": one.file,
            "ssim": number(one.ssim, 3),
            "contour": f"{one.contour:+.2f}",
            "views": [
                {"kind": kind, "uri": data_uri(image), "alt": f"{kind}: {one.file}"}
                for kind, image in (("original", one.original), ("protected", one.protected), ("output", one.output))
            ],
        }
        for one in audit.pictures[name]
    ]


def number(value: float, digits: int = 2) -> str:
    """A figure as the tables show it; a dash where there is none."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def interval(figure: Figure, digits: int = 2) -> str:
    """The 95 % interval of a figure."""
    if not math.isfinite(figure.low):
        return ""
    return f"{figure.low:.{digits}f} to {figure.high:.{digits}f}"


def noise(test: FieldTest) -> tuple[str, str, str]:
    """Value, what ideal noise gives, and z of a test of the field."""
    digits = 6 if abs(test.expected) < 2 else 4 if abs(test.expected) < 10 else 2
    if not math.isfinite(test.z):
        return f"{test.value:.6g}", f"{test.expected:.6g}", ""
    return f"{test.value:.{digits}f}", f"{test.expected:.{digits}f}", f"{test.z:+.1f}"
