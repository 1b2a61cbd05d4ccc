"""What a row of the audit says in words: nothing found, a trace, or that photos are given away."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from veilkern.auditing.statistics import NOTHING, Figure

NOTHING_FOUND, TRACE, GIVEN_AWAY, UNTRIED = "nothing found", "a trace", "gives photos away", "not possible"
UNSURE = "too few people to tell"
LEVELS = {NOTHING_FOUND: "good", TRACE: "watch", GIVEN_AWAY: "bad", UNTRIED: "untried", UNSURE: "untried"}
WIDE = 0.75  # an interval of an AUC wider than this holds nearly everything
# From here on above chance a likeness is not only there, but shows the photo.
SSIM_SHOWS, CONTOUR_SHOWS = 0.05, 0.2
VEIL_CONTOUR = 0.06  # a mean contour up to which a veil tells nothing of the face


@dataclass
class Row:
    """One attack and what it got. Figures of likeness to the own original and to other people's (`_others`): SSIM,
    signed contour, and its size |contour|; the AUC between the two; rank-1 of each network on the outputs, by name.

    variant: the output of most SSIM above chance, which the networks and the page are shown. not_possible: why there is
    nothing. chance: rank-1 of guessing, by network.
    """

    name: str
    title: str
    knows: str
    keeps_veil: bool
    not_possible: str = ""
    photos: int = 0
    people: int = 0
    variant: str = ""
    ssim: Figure = NOTHING
    ssim_others: Figure = NOTHING
    contour: Figure = NOTHING
    contour_others: Figure = NOTHING
    contour_size: Figure = NOTHING
    contour_size_others: Figure = NOTHING
    auc_ssim: Figure = NOTHING
    auc_contour: Figure = NOTHING
    auc_contour_size: Figure = NOTHING
    rank1: dict[str, Figure] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """NOTHING_FOUND, TRACE, GIVEN_AWAY, UNTRIED, or UNSURE: intervals of AUCs that hold nearly everything, or, as
        of two people, nothing but the value."""
        if self.not_possible:
            return UNTRIED
        if self.evidence and self._shows:
            return GIVEN_AWAY
        if self._tells_nothing:
            return UNSURE
        return TRACE if self.evidence else NOTHING_FOUND

    @property
    def level(self) -> str:
        """good, watch, bad, or untried."""
        return LEVELS[self.verdict]

    @property
    def evidence(self) -> list[str]:
        """Every figure that is not chance, in words.

        Where the veil is taken out: an AUC (of SSIM, contour or |contour|) whose interval leaves 0.5 out, and rank-1 of
        a network whose interval lies above guessing. Where the veil is still there: the AUC of SSIM, and a mean contour
        beyond VEIL_CONTOUR; whom a network sees there says nothing of the photo, as veils are made to be recognised.
        """
        if self.not_possible:
            return []
        found = [f"SSIM AUC {words(self.auc_ssim)}"] if _beside(self.auc_ssim) else []
        if self.keeps_veil:
            return found + ([f"mean contour {self.contour.value:+.3f}"] if self._veil_shows else [])
        aucs = {"contour": self.auc_contour, "|contour|": self.auc_contour_size}
        found += [f"{name} AUC {words(figure)}" for name, figure in aucs.items() if _beside(figure)]
        return found + [f"{name} finds {100 * self.rank1[name].value:.0f} %" for name in self._found_by]

    @property
    def _tells_nothing(self) -> bool:
        aucs = [self.auc_ssim] if self.keeps_veil else [self.auc_ssim, self.auc_contour, self.auc_contour_size]
        return any(auc.high - auc.low > WIDE or auc.high == auc.low for auc in aucs if math.isfinite(auc.value))

    @property
    def _veil_shows(self) -> bool:
        return abs(self.contour.value) > VEIL_CONTOUR

    @property
    def _found_by(self) -> list[str]:
        return [name for name, figure in self.rank1.items() if figure.low > self.chance[name]]

    @property
    def _shows(self) -> bool:
        ssim = self.ssim.value - self.ssim_others.value
        contour = self.contour_size.value - self.contour_size_others.value
        found = not self.keeps_veil and bool(self._found_by)
        return ssim >= SSIM_SHOWS or contour >= CONTOUR_SHOWS or found

    @property
    def sentence(self) -> str:
        """The verdict with its numbers."""
        if self.not_possible:
            return self.not_possible
        if self.evidence:
            return f"{self.verdict}: {'; '.join(self.evidence)}"
        other = (
            f"mean contour {self.contour.value:+.3f}" if self.keeps_veil else f"contour AUC {words(self.auc_contour)}"
        )
        return f"{self.verdict}: SSIM AUC {words(self.auc_ssim)}, {other}"


def words(figure: Figure) -> str:
    """A share or AUC with its interval, as 0.48 [0.41, 0.55]."""
    return f"{figure.value:.2f} [{figure.low:.2f}, {figure.high:.2f}]"


def _beside(auc: Figure) -> bool:
    """Whether 0.5 lies outside of the interval of an AUC; not where there is none."""
    return math.isfinite(auc.value) and not auc.holds(0.5)
