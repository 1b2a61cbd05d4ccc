"""Cells: what took long to find out, kept as soon as it is known, so that an interrupted run goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from veilkern import __version__
from veilkern.data.files import atomic_write, make_folder
from veilkern.errors import OutputError

FORMAT = 1  # of a cell's contents: raised when what a cell of the same inputs would hold changes


class Store:
    """A folder of cells, each a JSON file named by its kind and the SHA-256 of its inputs, written whole. A cell of
    other inputs (other photos, another network, configuration or version) is another file, so nothing stale is read.
    """

    def __init__(self, folder: Path):
        self.folder = make_folder(folder)

    def path(self, kind: str, inputs: Mapping[str, Any], suffix: str = ".json") -> Path:
        """Where the cell of these inputs lies, or something else that belongs to it."""
        about = json.dumps({"format": FORMAT, "veilkern": __version__, **inputs}, sort_keys=True)
        return self.folder / f"{kind}-{hashlib.sha256(about.encode()).hexdigest()[:20]}{suffix}"

    def cell(self, kind: str, inputs: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> dict:
        """The values of this cell: read, or made by `make` and written. Values are plain; NaN is kept. OutputError
        where it cannot be written."""
        path = self.path(kind, inputs)
        known = self._read(path)
        if known is None:
            known = make()
            atomic_write(path, json.dumps({"inputs": dict(inputs), "values": known}).encode())
        return known

    @staticmethod
    def _read(path: Path) -> dict[str, Any] | None:
        try:
            held = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{path}: a cell that cannot be read ({error}); delete it and it is made again"
            ) from error
        if not isinstance(held, dict) or not isinstance(held.get("values"), dict):
            raise OutputError(f"{path}: not a cell; delete it and it is made again")
        return held["values"]
