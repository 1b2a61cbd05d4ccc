"""Table 3 and Fig. 8: the block variance loss, with and without and in its two forms, at four values of alpha."""

from __future__ import annotations

from typing import Any

from veilkern.experiments.figures import compared, counts_of, look_figures, looks, rate_figures, recognised
from veilkern.experiments.lab import Lab
from veilkern.experiments.pictures import sheet
from veilkern.experiments.veils import OURS, PAPER, SEALED

TITLE = "Table 3: with and without the block variance loss, by alpha"
ALPHAS = (0.2, 0.4, 0.6, 0.8)
# What the losses are; with L_var in its form `consistent`, in `literal`, or without it.
WITHOUT = {PAPER: "paper w/o L_var", "paper, literal L_var": "paper w/o L_var", OURS: "ours w/o L_var"}
VARIANTS = (PAPER, "paper, literal L_var", "paper w/o L_var", OURS, "ours w/o L_var")


def kinds(*variants: str) -> list[tuple[dict[str, Any], str, dict]]:
    """These variants at each alpha, as Lab.each takes them; the default's value is not given, so that its veils are
    those of the other experiments. Sealed photos, which have no alpha, at the end."""
    found: list[tuple[dict[str, Any], str, dict]] = [
        ({"method": variant, "alpha": alpha}, variant, _given(alpha)) for alpha in ALPHAS for variant in variants
    ]
    return [*found, ({"method": SEALED, "alpha": None}, SEALED, {})]


def _given(alpha: float) -> dict[str, Any]:
    return {} if alpha == ALPHAS[0] else {"alpha": alpha}


def rows(lab: Lab) -> list[dict[str, Any]]:
    """A row a variant, alpha, surrogate and set of photos. The differences are those to the same losses without
    L_var."""
    found = []
    for head, veiled in lab.each(kinds(*VARIANTS)):
        for set_ in lab.sets:
            counts = counts_of(lab, veiled, set_)
            row = {**head, "photos": set_} | look_figures(looks(lab, veiled, set_), counts)
            row |= {"rank1": rate_figures(recognised(lab, veiled, veiled.surrogate, set_), counts)["rank1"]}
            if head["method"] in WITHOUT:
                without = lab.veiled(veiled.surrogate, WITHOUT[head["method"]], **_given(head["alpha"]))
                row |= compared(lab, veiled, without, set_)
            found.append(row)
    return found


def pictures(lab: Lab) -> dict[str, bytes]:
    """Fig. 8: one photo under veils with and without L_var by alpha, a picture a surrogate."""
    found = {}
    for surrogate in lab.surrogates:
        veils = {v: [lab.veiled(surrogate, v, **_given(alpha)) for alpha in ALPHAS] for v in VARIANTS}
        one = lab.of_all([veiled for line in veils.values() for veiled in line], next(iter(lab.sets)))
        if one is None:
            continue
        one = one.take([0])
        lines = {
            variant: [one.images[0], *(None if v is None else lab.protected(v, one)[0] for v in line)]
            for variant, line in veils.items()
        }
        heads = ["original", *(f"alpha {alpha}" for alpha in ALPHAS)]
        found[f"fig8 {surrogate}"] = sheet(lines, heads)
    return found
