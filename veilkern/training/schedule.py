"""The learning rate at a step: a function of the step alone, so that who resumes needs nothing but its number."""

from __future__ import annotations

import math

SCHEDULES = ("onecycle", "cosine", "step", "constant")
FIRST, LAST = 1 / 25, 1e-4 / 25  # of the largest rate, where one cycle begins and ends: those of torch's OneCycleLR
FALLS = (0.55, 0.75, 0.9)  # of the steps, where the schedule `step` divides the rate by ten


def share_of_rate(schedule: str, step: int, steps: int, warmup: float) -> float:
    """The learning rate of step 0 .. steps - 1 as a share of the largest one.

    onecycle: half a cosine from FIRST up to 1 over the share `warmup` of the steps, and half a cosine down to LAST, as
    torch's OneCycleLR. The others grow linearly over `warmup` and then: cosine falls to 0 along half a cosine, step is
    divided by ten at each of FALLS, constant stays.
    """
    if schedule == "onecycle":
        top = warmup * steps - 1
        if step <= top:
            return _anneal(FIRST, 1.0, step / top if top > 0 else 1.0)
        return _anneal(1.0, LAST, (step - max(top, 0.0)) / max(steps - 1 - max(top, 0.0), 1e-9))
    ramp = warmup * steps
    if step < ramp:
        return (step + 1) / (math.ceil(ramp) + 1)
    if schedule == "cosine":
        return _anneal(1.0, 0.0, (step - ramp) / max(steps - ramp, 1e-9))
    if schedule == "step":
        return 0.1 ** sum(step / steps >= fall for fall in FALLS)
    return 1.0


def share_of_margin(step: int, steps: int, warmup: float) -> float:
    """The margin of a step as a share of the full one: it grows linearly from 0 over a share `warmup` of the steps."""
    return min(1.0, step / (warmup * steps)) if warmup else 1.0


def _anneal(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * min(share, 1.0)))
