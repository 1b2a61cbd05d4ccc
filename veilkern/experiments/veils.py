"""The veils that the experiments compare: by name the fields of CraftConfig that make them."""

from __future__ import annotations

from typing import Any

OURS, PAPER, SEALED = "ours", "paper", "sealed"
# `paper` is eq. 13 as printed: convex hull, L_vis and L_var. `ours` is this library's default of the same scheme, with
# the residual contour in the loss and the hull's centre. V-UAP is eq. 15.
VEILS: dict[str, dict[str, Any]] = {
    OURS: {},
    PAPER: {"subspace": "convex", "nu": 0.0},
    "v-uap": {"subspace": "self", "mu": 0.0, "nu": 0.0},
    "ours w/o L_var": {"mu": 0.0},
    "paper w/o L_var": {"subspace": "convex", "nu": 0.0, "mu": 0.0},
    "paper, literal L_var": {"subspace": "convex", "nu": 0.0, "block_form": "literal"},
    "ours, strong": {"robust": "strong"},
    SEALED: {"scheme": "sealed"},
    "sealed, strong": {"scheme": "sealed", "robust": "strong"},
}


def options_of(name: str, **more: Any) -> dict[str, Any]:
    """The fields of VEILS[name], and more; ValueError for a name that is not there."""
    if name not in VEILS:
        raise ValueError(f"veils: must be one of {', '.join(VEILS)}, got {name!r}")
    return {**VEILS[name], **more}
