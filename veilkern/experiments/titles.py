"""The experiments by the names that `only` and paper.json use, in the paper's order."""

from __future__ import annotations

EXPERIMENTS = (
    "table1",
    "table2",
    "table3",
    "fig3",
    "fig4",
    "fig6",
    "fig7",
    "cost",
    "subspace",
    "another_person",
)
