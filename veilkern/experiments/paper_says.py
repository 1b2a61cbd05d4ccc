"""What the paper reports: its tables' numbers, and what it says of its figures, which print none.

Privacy-Celebrities (400 people, 10 photos to craft, 10 unseen), LFW as gallery (13,233), 112 x 112, alpha 0.2.
"""

from __future__ import annotations

from typing import Any

SURROGATES = ("S-ResNet", "L-ResNet", "A-ResNet")


def _rows(method: str, **columns: tuple[float, float, float]) -> list[dict[str, Any]]:
    return [
        {"method": method, "surrogate": surrogate} | {name: values[i] for name, values in columns.items()}
        for i, surrogate in enumerate(SURROGATES)
    ]


_WITH = {"ssim": (0.011, 0.012, 0.011), "lpips": (1.250, 1.287, 1.247)}
PAPER: dict[str, list[dict[str, Any]]] = {
    "table1": [*_rows("v-uap", ssim=(0.040, 0.043, 0.034), lpips=(0.723, 0.710, 0.785)), *_rows("paper", **_WITH)],
    "table2": _rows("paper", ssim=(0.868, 0.869, 0.869), lpips=(0.046, 0.047, 0.046)),
    "table3": [
        *_rows("paper", **_WITH),
        *_rows("paper w/o L_var", ssim=(0.032, 0.037, 0.030), lpips=(0.776, 0.734, 0.852)),
    ],
    "fig3": [
        {"says": "the protected images exhibit noticeable visual distinctions and are confusing to human observers"}
    ],
    "fig4": [
        {"says": "when the testing model aligns with the surrogate model, the MSR reaches nearly 100%", "rank1": 1.0},
        {"says": "the MSR decreases significantly even if the two models share the same backbone"},
        {"says": "without block variance loss protected images have higher MSR on other models"},
    ],
    "fig6": [{"says": "the variation of alpha within a certain range has a negligible impact on the MSR"}],
    "fig7": [{"says": "when sigma exceeds 120, there is a noticeable decrease in the MSR"}],
    "cost": [{"says": "generating a veil takes nearly 3 minutes on a GTX 3090 GPU", "seconds_per_person": 180.0}],
    "subspace": [],
    "another_person": [],
}
NO_NUMBERS = {
    "subspace": "the paper tries the convex hull alone",
    "another_person": "the paper does not try it",
}
