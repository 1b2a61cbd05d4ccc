"""Fig. 6: MSR over alpha."""

from __future__ import annotations

from typing import Any

from veilkern.experiments.figures import by_target
from veilkern.experiments.lab import Lab
from veilkern.experiments.table3 import kinds
from veilkern.experiments.veils import OURS, PAPER

TITLE = "Fig. 6: matching success rate (MSR) over alpha"


def rows(lab: Lab) -> list[dict[str, Any]]:
    """A row a method, alpha, surrogate, target and set; sealed photos, which have no alpha, at the end."""
    return by_target(lab, kinds(PAPER, OURS))
