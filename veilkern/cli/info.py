"""veilkern info: versions and backends, with the reason for each absence."""

from __future__ import annotations

import platform

from rich.markup import escape
from rich.table import Table

import veilkern as vk
from veilkern.cli._shared import console


def info() -> None:
    """Versions and backends, with the reason for each absence."""
    import torch

    console.print(
        f"veilkern {vk.__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{platform.machine()}, {torch.get_num_threads()} threads, "
        f"GPU: {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}",
        soft_wrap=True,
    )
    table = Table("backend", "available", "ops, or the reason for its absence")
    for backend in vk.list_backends():
        detail = f"{backend.detail}: {', '.join(sorted(backend.ops))}" if backend.available else str(backend.reason)
        table.add_row(backend.name, "yes" if backend.available else "no", escape(detail))
    console.print(table)
