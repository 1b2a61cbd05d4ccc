"""Table 3 and Fig. 8: the block variance loss, with and without and in its two forms, at four values of alpha."""

from __future__ import annotations

from veilkern.experiments.figures import compared, count, look_figures, looks, rate_figures, recognised
from veilkern.experiments.lab import Lab, VeilSet
from veilkern.experiments.pictures import sheet
from veilkern.experiments.veils import OURS, PAPER, SEALED

TITLE = "Table 3: with and without the block variance loss, by alpha"
ALPHAS = (0.2, 0.4, 0.6, 0.8)
# What the losses are; with L_var in its form `consistent`, in `literal`, or without it.
WITHOUT = {PAPER: "paper w/o L_var", "paper, literal L_var": "paper w/o L_var", OURS: "ours w/o L_var"}
VARIANTS = (PAPER, "paper, literal L_var", "paper w/o L_var", OURS, "ours w/o L_var")


def at(lab: Lab, surrogate: str, variant: str, alpha: float) -> VeilSet:
    """Veils of this variant at this alpha; the default's value is not given, so that its veils are those of the other
    experiments."""
    return lab.veiled(surrogate, variant, **({} if alpha == ALPHAS[0] else {"alpha": alpha}))


def rows(lab: Lab) -> list[dict]:
    """A row a variant, alpha, surrogate and set of photos; sealed photos, which have no alpha, at the end. The
    differences are those to the same losses without L_var."""
    kinds = [(variant, alpha) for alpha in ALPHAS for variant in VARIANTS]
    found = []
    for variant, alpha in [*kinds, (SEALED, None)]:
        for surrogate in lab.surrogates:
            veiled = lab.veiled(surrogate, variant) if alpha is None else at(lab, surrogate, variant, alpha)
            for set_ in lab.sets:
                photos = count(lab, veiled, set_)
                row: dict = {"method": variant, "alpha": alpha, "surrogate": surrogate, "photos": set_}
                rates = rate_figures(recognised(lab, veiled, surrogate, set_), photos)
                row |= look_figures(lab, looks(lab, veiled, set_), photos) | {"rank1": rates["rank1"]}
                if variant in WITHOUT and alpha is not None:
                    row |= compared(lab, veiled, at(lab, surrogate, WITHOUT[variant], alpha), set_)
                found.append(row)
    return found


def pictures(lab: Lab) -> dict[str, bytes]:
    """Fig. 8: one photo under veils with and without L_var by alpha, a picture a surrogate."""
    found = {}
    for surrogate in lab.surrogates:
        lines = {}
        for variant in VARIANTS:
            veiled = [at(lab, surrogate, variant, alpha) for alpha in ALPHAS]
            some = lab.part(veiled[0], next(iter(lab.sets)))
            one = some.take([0])
            shown = [lab.protected(v, one)[0] for v in veiled if one.names[0] in v.bank]
            lines[variant] = [one.images[0], *shown]
        heads = ["original", *(f"alpha {alpha}" for alpha in ALPHAS)]
        found[f"fig8 {surrogate}"] = sheet(lines, heads)
    return found
