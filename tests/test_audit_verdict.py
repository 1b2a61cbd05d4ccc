"""What an audit concludes from its rows."""

from __future__ import annotations

import pytest

from veilkern.auditing.statistics import NOTHING, Figure
from veilkern.auditing.verdict import GIVEN_AWAY, NOTHING_FOUND, TRACE, UNSURE, UNTRIED, Row


def row(**changes) -> Row:
    level = Figure(0.5, 0.45, 0.55)
    plain = {name: Figure(0.1, 0.09, 0.11) for name in ("ssim", "ssim_others", "contour_size", "contour_size_others")}
    plain |= {"contour": Figure(0.01, 0.0, 0.02), "auc_ssim": level, "auc_contour": level, "auc_contour_size": level}
    return Row("n", "t", "k", **({"keeps_veil": False} | plain | changes))


ABOVE, BELOW, MORE = Figure(0.6, 0.51, 0.7), Figure(0.4, 0.3, 0.49), Figure(0.4, 0.3, 0.5)


@pytest.mark.parametrize(
    "changes,verdict,evidence",
    [
        ({}, NOTHING_FOUND, []),
        ({"auc_ssim": ABOVE}, TRACE, ["SSIM AUC 0.60 [0.51, 0.70]"]),
        ({"auc_contour": BELOW}, TRACE, ["contour AUC 0.40 [0.30, 0.49]"]),
        ({"auc_contour_size": ABOVE}, TRACE, ["|contour| AUC 0.60 [0.51, 0.70]"]),
        ({"auc_ssim": ABOVE, "ssim": MORE}, GIVEN_AWAY, ["SSIM AUC 0.60 [0.51, 0.70]"]),
        ({"auc_contour": BELOW, "contour_size": MORE}, GIVEN_AWAY, ["contour AUC 0.40 [0.30, 0.49]"]),
        ({"ssim": MORE}, NOTHING_FOUND, []),  # much alike, but so are other people's
        ({"rank1": {"n": Figure(0.64, 0.2, 0.8)}, "chance": {"n": 0.1}}, GIVEN_AWAY, ["n finds 64 %"]),
        ({"rank1": {"n": Figure(0.3, 0.1, 0.4)}, "chance": {"n": 0.1}}, NOTHING_FOUND, []),
        ({"keeps_veil": True, "auc_contour": ABOVE, "contour": Figure(0.06, 0.05, 0.07)}, NOTHING_FOUND, []),
        ({"keeps_veil": True, "contour": Figure(-0.07, -0.08, -0.06)}, TRACE, ["mean contour -0.070"]),
        ({"keeps_veil": True, "rank1": {"n": Figure(1, 1, 1)}, "chance": {"n": 0.1}}, NOTHING_FOUND, []),
        ({"keeps_veil": True, "auc_ssim": ABOVE, "rank1": {"n": Figure(1, 1, 1)}, "chance": {"n": 0.1}}, TRACE, None),
        ({"auc_ssim": NOTHING, "auc_contour": NOTHING, "auc_contour_size": NOTHING}, NOTHING_FOUND, []),
        ({"not_possible": "no"}, UNTRIED, []),
        ({"auc_ssim": Figure(0.9, 0.0, 1.0)}, UNSURE, []),  # wide: nothing is known
        ({"auc_contour": Figure(0.48, 0.48, 0.48)}, UNSURE, None),  # no width: two people, of whom nothing varies
        ({"keeps_veil": True, "auc_ssim": Figure(0.96, 0.1, 1.0)}, UNSURE, []),
        ({"keeps_veil": True, "auc_contour": Figure(0.5, 0.0, 1.0)}, NOTHING_FOUND, []),
        ({"auc_ssim": Figure(0.9, 0.51, 1.0), "auc_contour": Figure(0.5, 0.0, 1.0), "ssim": MORE}, GIVEN_AWAY, None),
    ],
)
def test_verdict(changes, verdict, evidence):
    found = row(**changes)
    assert found.verdict == verdict and (evidence is None or found.evidence == evidence)
    assert found.sentence.startswith("no" if verdict == UNTRIED else verdict)
    assert all(words in found.sentence for words in found.evidence)
    levels = {NOTHING_FOUND: "good", TRACE: "watch", GIVEN_AWAY: "bad", UNTRIED: "untried", UNSURE: "untried"}
    assert found.level == levels[verdict]
