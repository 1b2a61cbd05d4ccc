"""Serving: a bank of veils behind HTTP, as `veilkern serve` runs it; see docs/serving.md. Needs the `serve` extra.

from veilkern.serving import Settings, create_app

app = create_app(Settings("veils.safetensors", key_files=("veils.safetensors.key",)))  # any ASGI server runs it
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from veilkern.serving.settings import Settings

if TYPE_CHECKING:
    from veilkern.serving.app import create_app as create_app

NEEDS = ("fastapi", "uvicorn", "httptools", "multipart", "prometheus_client")


def missing() -> list[str]:
    """The packages of the `serve` extra that are not installed."""
    return [name for name in NEEDS if importlib.util.find_spec(name) is None]


def __getattr__(name: str) -> Any:
    if name != "create_app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if lacking := missing():
        raise ImportError(f"veilkern.serving needs {', '.join(lacking)}: pip install 'veilkern[serve]'")
    from veilkern.serving.app import create_app

    return create_app


__all__ = ["Settings", "create_app", "missing"]
