"""Our rows against the paper's, line by line: better, equal, worse, or not comparable and why; and its claims.

A line of ours is better than the paper where its whole interval lies on the better side of all that the paper reports
for that method (its three surrogates), worse where it lies on the other side, equal where they overlap. The photos and
the networks are others than the paper's in any case: what is compared is the figures.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from veilkern.experiments.paper_says import NO_NUMBERS, PAPER

MOST = 8  # pairs that a claim lists one by one
JUDGE = 0.9  # rank-1 of clean photos by which a target can judge protected ones
# measure: whether less is better
LESS = {"ssim": True, "lpips": False}
LESS_RECOVERED = {"ssim": False, "lpips": True}
# Which of our methods are held against which of the paper's.
AGAINST = {"v-uap": "v-uap", "paper": "paper", "ours": "paper", "sealed": "paper"}
AGAINST_TABLE3 = {"paper": "paper", "ours": "paper", "sealed": "paper"}
AGAINST_TABLE3 |= {"paper w/o L_var": "paper w/o L_var", "ours w/o L_var": "paper w/o L_var"}


def comparisons(experiment: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry a line of ours and measure: line, measure, ours, paper (lowest, highest), verdict, why."""
    if experiment == "table1":
        return [*_table(rows, AGAINST, LESS, PAPER["table1"])]
    if experiment == "table2":
        kept = [row for row in rows if row["stored"] == "PNG, 8 bit"]
        return [
            *_table(kept, {"ours": "paper", "sealed": "paper"}, LESS_RECOVERED, PAPER["table2"], ("stored", "filter"))
        ]
    if experiment == "table3":
        kept = [row for row in rows if row["alpha"] in (0.2, None)]
        return [*_table(kept, AGAINST_TABLE3, LESS, PAPER["table3"])]
    if experiment == "fig4":
        kept = [row for row in rows if row["white_box"]]
        paper = [{"method": "paper", "rank1": 1.0}]
        against = dict.fromkeys(("paper", "ours", "sealed"), "paper")
        return [*_table(kept, against, {"rank1": False}, paper, ("target",))]
    if experiment == "cost":
        return [*_cost(rows)]
    return [{"line": experiment, "measure": "", "verdict": "not comparable", "why": _why(experiment)}] if rows else []


def _why(experiment: str) -> str:
    return NO_NUMBERS.get(experiment, "the paper prints a picture without numbers; see the claims")


def _table(
    rows, against: Mapping[str, str], less: Mapping[str, bool], paper, also: tuple[str, ...] = ()
) -> Iterator[dict[str, Any]]:
    for row in rows:
        if row["method"] not in against:
            continue
        words = [row["method"], row["surrogate"], *(f"{name} {row[name]}" for name in also), f"{row['photos']} photos"]
        for measure, wanted_less in less.items():
            theirs = [one[measure] for one in paper if one["method"] == against[row["method"]]]
            yield {"line": ", ".join(map(str, words)), "measure": measure} | judged(row[measure], theirs, wanted_less)


def judged(ours: Mapping[str, Any] | None, theirs: Sequence[float], less: bool) -> dict[str, Any]:
    """ours: a Figure. theirs: the paper's values. less: whether less is better."""
    found = {"ours": ours, "paper": [min(theirs), max(theirs)]}
    if ours is None:
        return found | {"verdict": "not comparable", "why": "not measured: LPIPS wants AlexNet's weights (--lpips)"}
    if not known(ours["value"]):
        return found | {"verdict": "not comparable", "why": "nothing to measure: see the counts"}
    low, high = ours["low"], ours["high"]
    if not (known(low) and known(high)):
        return found | {"verdict": "not comparable", "why": "of one person there is no interval"}
    if low <= max(theirs) and high >= min(theirs):
        return found | {"verdict": "equal", "why": "the interval meets the paper's values"}
    below = high < min(theirs)
    return found | {"verdict": "better" if below == less else "worse", "why": ""}


def known(value: float | None) -> bool:
    """Whether something was measured; in JSON what was not is null."""
    return value is not None and math.isfinite(value)


def _cost(rows) -> Iterator[dict[str, Any]]:
    """Seconds a veil: another machine, so the verdict says what is faster, and why the factor is not ours alone."""
    for row in rows:
        if row["scope"] != "person" or row["aim"] != "hide" or row["photos"] != "crafting":
            continue
        seconds, paper = row["seconds_per_person"], PAPER["cost"][0]["seconds_per_person"]
        words = f"{row['method']}, {row['surrogate']}"
        found = {"line": words, "measure": "seconds_per_person", "ours": seconds, "paper": [paper, paper]}
        why = f"another network and another machine ({paper:.0f} s on an RTX 3090, ResNet-50); see image-steps instead"
        yield found | {"verdict": "not comparable", "why": why}


# Claims


Rows = Sequence[Mapping[str, Any]]


def claims(found: Mapping[str, Rows]) -> list[dict[str, Any]]:
    """What the paper says in words, and the bars of this project, held against our rows: claim, experiment, verdict
    (holds, does not hold, not shown, not measured) and the figures. found: rows by experiment."""
    told = []
    for experiment, words, source, check in CLAIMS:
        rows = found.get(experiment) or []
        holds, figures = check(rows) if rows else (None, "not run")
        verdict = holds if isinstance(holds, str) else _WORDS[holds]
        told.append({"claim": words, "of": source, "experiment": experiment, "verdict": verdict, "figures": figures})
    return told


_WORDS = {None: "not measured", True: "holds", False: "does not hold"}


def _picked(rows: Rows, **wanted: Any) -> list[Mapping[str, Any]]:
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def _values(rows: Rows, measure: str) -> list[float]:
    values = [row[measure]["value"] for row in rows if row.get(measure) is not None]
    return [value for value in values if known(value)]


NOT_SHOWN = "not shown"  # holds for some, or the interval holds no difference too
Answer = tuple[bool | str | None, str]


def _below(method: str, measure: str, *, less: bool = True, **also: Any) -> Callable[[Rows], Answer]:
    """That this method's measure lies below (or not less: above) the other's, person by person: the whole interval of
    the difference, for every surrogate and set. Where an interval holds 0 nothing is shown."""

    def check(rows: Rows) -> Answer:
        found = [row for row in _picked(rows, method=method, **also) if row.get(f"{measure}_difference") is not None]
        ends, told = [], []
        for row in found:
            one = row[f"{measure}_difference"]
            if one["value"] is None or not all(map(known, (one["low"], one["high"]))):
                continue
            ends.append((one["low"], one["high"]) if less else (-one["high"], -one["low"]))
            told.append(
                f"{row['surrogate']}, {row['photos']}: {one['value']:+.4f} [{one['low']:+.4f}, {one['high']:+.4f}]"
            )
        if not ends:
            return None, "not measured"
        holds = True if all(high < 0 for _, high in ends) else False if any(low > 0 for low, _ in ends) else NOT_SHOWN
        return holds, "; ".join(told)

    return check


def _above(more: str, less: str, measure: str, **also: Any) -> Callable[[Rows], Answer]:
    """That method `more` has more of this measure than `less`, for every surrogate, target and set; where they are the
    same nothing is shown."""

    def check(rows: Rows) -> Answer:
        told, pairs = [], []
        for row in _judges(_picked(rows, method=more, **also)):
            same = {name: row[name] for name in ("surrogate", "photos", "target")}
            for other in _picked(rows, method=less, **also, **same):
                pair = _values([row], measure) + _values([other], measure)
                if len(pair) == 2:
                    pairs.append(pair)
                    words = f"{row['surrogate']} in {row['target']}, {row['photos']}"
                    told.append(f"{words}: {pair[0]:.3f} against {pair[1]:.3f}")
        if not pairs:
            return None, f"no other target network that finds {JUDGE:.0%} of clean photos"
        figures = "; ".join(told) if len(told) <= MOST else _in_short(pairs)
        if all(a >= b for a, b in pairs):
            return (any(a > b for a, b in pairs) or NOT_SHOWN), figures
        return (False if all(a <= b for a, b in pairs) else NOT_SHOWN), figures

    return check


def _in_short(pairs: Sequence[Sequence[float]]) -> str:
    higher, lower = (sum(compare(a, b) for a, b in pairs) for compare in (operator.gt, operator.lt))
    means = " against ".join(f"{sum(values) / len(pairs):.3f}" for values in zip(*pairs, strict=True))
    return f"higher in {higher}, lower in {lower}, the same in {len(pairs) - higher - lower} pairs; means {means}"


def _least(measure: str, least: float, **wanted: Any) -> Callable[[Rows], Answer]:
    def check(rows: Rows) -> Answer:
        values = _values(_picked(rows, **wanted), measure)
        return (min(values) >= least if values else None), f"least {min(values):.4f} of {len(values)}" if values else ""

    return check


def _judges(rows: Rows) -> Rows:
    """Those of targets that recognise clean photos: of others it says nothing that they do not know protected ones."""
    return [row for row in rows if _values([row], "clean_rank1") and row["clean_rank1"]["value"] >= JUDGE]


def _transfers_less(rows: Rows) -> Answer:
    """MSR of the paper's losses in other networks than the surrogate, at most half of that in the surrogate."""
    white = _values(_picked(rows, method="paper", white_box=True), "rank1")
    black = _values(_judges(_picked(rows, method="paper", white_box=False)), "rank1")
    if not white or not black:
        return None, f"no other target network that finds {JUDGE:.0%} of clean photos"
    holds = max(black) <= 0.5 * min(white)
    return holds, f"surrogates {min(white):.3f} at least, others {min(black):.3f} to {max(black):.3f}"


def _flat_over_alpha(rows: Rows) -> Answer:
    """The paper's: that MSR in the surrogate hardly varies over alpha; within 0.02 is taken for that."""
    spread = []
    for row in _picked(rows, method="paper", white_box=True, alpha=0.2):
        same = {name: row[name] for name in ("surrogate", "photos")}
        values = _values(_picked(rows, method="paper", white_box=True, **same), "rank1")
        spread += [max(values) - min(values)] if values else []
    return (max(spread) <= 0.02, f"largest spread {max(spread):.4f}") if spread else (None, "not measured")


def _noise(method: str, level: float, least: float) -> Callable[[Rows], Answer]:
    return _least("rank1", least, method=method, change="Gaussian noise", level=level)


def _falls_after_120(rows: Rows) -> Answer:
    """The mean MSR of the paper's losses: up to 120 at most a tenth is lost, at 160 it is lower by 0.05 or more."""
    at = {
        level: _values(_picked(rows, method="paper", change="Gaussian noise", level=level), "rank1")
        for level in (20, 120, 160)
    }
    if not all(at.values()):
        return None, "not measured"
    mean = {level: sum(values) / len(values) for level, values in at.items()}
    holds = mean[120] >= 0.9 * mean[20] and mean[160] <= mean[120] - 0.05
    return holds, ", ".join(f"sigma {level}: {value:.3f}" for level, value in mean.items())


CLAIMS: tuple[tuple[str, str, str, Callable[[Rows], Answer]], ...] = (
    ("table1", "SSIM of ours is below that of V-UAP", "paper", _below("paper", "ssim")),
    ("table1", "LPIPS of ours is above that of V-UAP", "paper", _below("paper", "lpips", less=False)),
    ("table1", "our default: SSIM below that of V-UAP", "veilkern", _below("ours", "ssim")),
    ("table1", "our default: residual contour below that of V-UAP", "veilkern", _below("ours", "contour")),
    ("table3", "SSIM with L_var is below that without", "paper", _below("paper", "ssim", alpha=0.2)),
    (
        "table3",
        "with L_var less contour is left than without",
        "paper",
        _below("paper", "contour", alpha=0.2),
    ),
    (
        "table3",
        "our default: SSIM with L_var below that without",
        "veilkern",
        _below("ours", "ssim", alpha=0.2),
    ),
    (
        "table3",
        "our default: contour with L_var below that without",
        "veilkern",
        _below("ours", "contour", alpha=0.2),
    ),
    (
        "fig4",
        "MSR in the surrogate is nearly 100 % (0.99)",
        "paper",
        _least("rank1", 0.99, method="paper", white_box=True),
    ),
    (
        "fig4",
        "our default: MSR in the surrogate is at least 0.99",
        "veilkern",
        _least("rank1", 0.99, method="ours", white_box=True),
    ),
    (
        "fig4",
        "sealed: MSR in the surrogate is at least 0.99",
        "veilkern",
        _least("rank1", 0.99, method="sealed", white_box=True),
    ),
    ("fig4", "MSR in other networks is far lower (at most half)", "paper", _transfers_less),
    (
        "fig4",
        "without L_var MSR in other networks is higher",
        "paper",
        _above("paper w/o L_var", "paper", "rank1", white_box=False),
    ),
    ("fig6", "MSR hardly varies over alpha (0.02)", "paper", _flat_over_alpha),
    ("fig7", "MSR falls noticeably only when sigma exceeds 120", "paper", _falls_after_120),
    ("fig7", "our default: MSR at sigma 60 is at least 0.95", "veilkern", _noise("ours", 60, 0.95)),
    ("fig7", "our strong veils: MSR at sigma 120 is at least 0.95", "veilkern", _noise("ours, strong", 120, 0.95)),
    ("fig7", "sealed: MSR at sigma 60 is at least 0.95", "veilkern", _noise("sealed", 60, 0.95)),
    ("fig7", "sealed, strong: MSR at sigma 120 is at least 0.95", "veilkern", _noise("sealed, strong", 120, 0.95)),
    (
        "table2",
        "recovered: SSIM at least 0.985 (paper: 0.868)",
        "veilkern",
        _least("ssim", 0.985, stored="PNG, 8 bit", filter=0.0),
    ),
)
