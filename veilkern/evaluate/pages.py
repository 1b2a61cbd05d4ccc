"""What every report is written by: values for JSON, a page from a template, a drawing as SVG."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """For JSON that any reader takes: tuples become lists, numbers that are not finite null."""
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def html_page(package: str, template: str, **values: Any) -> str:
    """A template of a package's folder `templates`, filled in; values are escaped."""
    from jinja2 import Environment, PackageLoader, select_autoescape

    environment = Environment(
        loader=PackageLoader(package), autoescape=select_autoescape(["html"]), trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(**values)


def svg_of(drawing: Any) -> str:
    """A matplotlib figure as an <svg> element, the same bytes each time (give rcParams an svg.hashsalt)."""
    file = io.StringIO()
    drawing.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
