"""The verdict on an evaluation, in words: recognised? hidden? recoverable? All thresholds stand in one table here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from veilkern.evaluate.run import Evaluation

LEVELS = ("good", "watch", "bad")
Found = tuple[float, str]  # a value, and where it was found


@dataclass(frozen=True)
class Threshold:
    """good: up to here (from here on, where more_is_better). watch: up to here; None: never worse than watch.
    question: one of QUESTIONS. figure: one of _FIGURES. label: what the reader sees."""

    question: str
    figure: str
    label: str
    good: float
    watch: float | None
    more_is_better: bool = False

    def __str__(self) -> str:
        sign = "≥" if self.more_is_better else "≤"
        if self.watch is None:
            return f"good {sign} {self.good:g}, else watch"
        watch = "" if self.watch == self.good else f"watch {sign} {self.watch:g}, "
        return f"good {sign} {self.good:g}, {watch}else bad"

    def level(self, value: float) -> str:
        """`good`, `watch` or `bad`; what was not measured is `watch`."""
        sign = -1 if self.more_is_better else 1
        if not math.isnan(value) and sign * value <= sign * self.good + 1e-9:
            return "good"
        if math.isnan(value) or self.watch is None or sign * value <= sign * self.watch + 1e-9:
            return "watch"
        return "bad"


THRESHOLDS = (
    Threshold("recognised", "lost", "MSR rank-1 lost against clean photos, mean over people", 0.03, 0.10),
    Threshold("recognised", "lost_person", "MSR rank-1 lost against clean photos, worst person", 0.15, 0.40),
    Threshold("recognised", "clean", "MSR rank-1 of clean photos (whether this network can judge)", 0.95, None, True),
    Threshold("recognised", "others", "Other people searched among", 100, None, True),
    Threshold("recognised", "unseen", "Unseen photos tried (no veil was crafted on them)", 20, None, True),
    Threshold("hidden", "ssim", "SSIM of protected photos, mean over people", 0.02, 0.05),
    Threshold("hidden", "ssim_photo", "SSIM of protected photos, worst photo", 0.06, 0.15),
    Threshold("hidden", "contour", "Residual |contour|, mean over people", 0.25, 0.35),
    Threshold("hidden", "contour_person", "Residual |contour|, worst person", 0.35, 0.50),
    Threshold("hidden", "contour_photo", "Residual |contour|, worst photo", 0.50, 0.65),
    Threshold("recoverable", "excess", "Levels of error above the bound of the 8-bit form", 0, 0),
    Threshold("recoverable", "back", "SSIM of recovered photos, mean over people", 0.985, 0.95, True),
    Threshold("recoverable", "back_photo", "SSIM of recovered photos, worst photo", 0.97, 0.90, True),
    Threshold("recoverable", "inexact", "Lossless form not given back exactly (0: exact)", 0, 0),
)
# question: what it asks, the answer by level, and what the figures do not show
QUESTIONS: dict[str, tuple[str, dict[str, str], str]] = {
    "recognised": (
        "Does the network still recognise them?",
        {
            "good": "Yes: about as well as in clean photos.",
            "watch": "Not shown to be as good as in clean photos.",
            "bad": "No: clearly worse than in clean photos.",
        },
        "Only this network and these people were tried; other networks are not promised.",
    ),
    "hidden": (
        "Are the faces hidden from people?",
        {
            "good": "As far as these figures tell, yes: little of a single photo is left to see.",
            "watch": "Not surely: some photos keep more of a likeness than they should.",
            "bad": "No: a likeness is left in some photos.",
        },
        "Figures cannot prove that nobody sees a face: look at the worst photos. Not measured here, but by "
        "veilkern audit: what many protected photos of one person show when averaged, and what a program trained to "
        "undo veils sees.",
    ),
    "recoverable": (
        "Does the holder of the key get the photos back?",
        {
            "good": "Yes, within the bound of the 8-bit form; exactly from the lossless form.",
            "watch": "Yes, with more loss than usual.",
            "bad": "No: not as promised.",
        },
        "Holds while protected photos are kept as they are: JPEG, resizing or cropping ruins the recovery.",
    ),
}


@dataclass(frozen=True)
class Check:
    """One figure against its threshold. where: the set, person or photo it was found at. limits: the threshold."""

    label: str
    value: float
    where: str
    level: str
    limits: str


@dataclass(frozen=True)
class Verdict:
    """The answer to one question: the worst level of its checks, in words."""

    question: str
    asks: str
    level: str
    answer: str
    limits: str
    checks: list[Check]


def judge(evaluation: Evaluation) -> list[Verdict]:
    """One verdict a question, each from the worst of its figures over all sets of photos."""
    verdicts = []
    for question, (asks, answers, limits) in QUESTIONS.items():
        checks = [_check(t, evaluation) for t in THRESHOLDS if t.question == question]
        level = max((c.level for c in checks), key=LEVELS.index)
        verdicts.append(Verdict(question, asks, level, answers[level], limits, checks))
    return verdicts


def person_level(record: dict[str, Any], measure: str) -> str | None:
    """The level of a figure of one person (an entry of Evaluation.persons), None where it has no threshold."""
    figures = {
        "rank1": ("lost_person", record["clean_rank1"] - record["rank1"]),
        "contour2": ("contour_person", record["contour2"]),
        "contour2_worst": ("contour_photo", record["contour2_worst"]),
        "ssim_protected_worst": ("ssim_photo", record["ssim_protected_worst"]),
        "ssim_recovered_worst": ("back_photo", record["ssim_recovered_worst"]),
    }
    if measure not in figures or math.isnan(figures[measure][1]):
        return None
    figure, value = figures[measure]
    return next(t for t in THRESHOLDS if t.figure == figure).level(value)


def _check(threshold: Threshold, evaluation: Evaluation) -> Check:
    found = _FIGURES[threshold.figure](evaluation)
    value, where = _worst(found, threshold.more_is_better)
    return Check(threshold.label, value, where, threshold.level(value), str(threshold))


def _worst(found: Iterable[Found], more_is_better: bool) -> Found:
    known = [(value, where) for value, where in found if not math.isnan(value)]
    return (min if more_is_better else max)(known, key=lambda pair: pair[0], default=(math.nan, "not measured"))


def _means(measure: str) -> Callable[[Evaluation], Iterator[Found]]:
    return lambda e: ((row[measure], label) for label, row in e.overall.items())


def _persons(measure: str) -> Callable[[Evaluation], Iterator[Found]]:
    return lambda e: ((row[measure], f"{row['name']}, {row['set']}") for row in e.persons)


def _photos(measure: str, size: Callable[[float], float] = float) -> Callable[[Evaluation], Iterator[Found]]:
    return lambda e: (
        (size(value), file)
        for photos in e.photos.values()
        for value, file in zip(photos[measure], photos["file"], strict=True)
    )


def _lost(e: Evaluation) -> Iterator[Found]:
    return ((row["clean_rank1"] - row["rank1"], label) for label, row in e.overall.items())


def _lost_person(e: Evaluation) -> Iterator[Found]:
    return ((row["clean_rank1"] - row["rank1"], f"{row['name']}, {row['set']}") for row in e.persons)


def _others(e: Evaluation) -> Iterator[Found]:
    return ((float(row["people"] - 1 + e.gallery), label) for label, row in e.overall.items())


def _unseen(e: Evaluation) -> Iterator[Found]:
    """Photos of persons with one unseen photo are not tried: their MSR has no pairs."""
    tried = [row["photos"] for row in e.persons if row["set"] == "unseen" and math.isfinite(row["rank1"])]
    yield float(sum(tried)), "all people"


def _excess(e: Evaluation) -> Iterator[Found]:
    bound = e.bank["error_bound"]
    return ((max(0.0, row["max_error"] - bound), label) for label, row in e.overall.items())


_FIGURES: dict[str, Callable[[Evaluation], Iterable[Found]]] = {
    "lost": _lost,
    "lost_person": _lost_person,
    "clean": _means("clean_rank1"),
    "others": _others,
    "unseen": _unseen,
    "ssim": _means("ssim_protected"),
    "ssim_photo": _photos("ssim_protected"),
    "contour": _means("contour2"),
    "contour_person": _persons("contour2"),
    "contour_photo": _photos("contour2", abs),
    "excess": _excess,
    "back": _means("ssim_recovered"),
    "back_photo": _photos("ssim_recovered"),
    "inexact": lambda e: [(0.0 if e.lossless_exact else 1.0, "all photos")],
}
