"""hull_distance: ours, the batched FISTA of the reference, and cvxpy, one problem after the other.

`python bench/bench_hull_distance.py` prints ratios from one interleaved run;
`pytest --benchmark-enable bench/bench_hull_distance.py` gives pytest-benchmark's table.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import DEVICE, ON_GPU, Case, compare, copy_of, main, on_device

from veilkern import ops, reference

NAMES = ("veilkern", "eager", "eager_60", *(() if ON_GPU else ("cvxpy",)), "copy")  # cvxpy solves on the CPU
PEOPLE, PHOTOS, DIMENSIONS = 1024 if ON_GPU else 64, 10, 512


def problem():
    """Features of unit length; photos of one person have a cosine of about 0.6, as real ones do."""
    g = torch.Generator().manual_seed(0)
    person = torch.nn.functional.normalize(torch.randn(PEOPLE, 1, DIMENSIONS, generator=g), dim=2)

    def photos():
        noise = torch.randn(PEOPLE, PHOTOS, DIMENSIONS, generator=g) * (0.8 / DIMENSIONS**0.5)
        return torch.nn.functional.normalize(person + noise, dim=2).flatten(0, 1)

    return on_device(photos(), photos(), torch.arange(PEOPLE + 1) * PHOTOS)


def plain_fista(features, clean, offsets, iterations=60):
    """What one would write first: 60 steps of batched FISTA on the Gram matrices, without a stopping rule."""
    hull = clean.view(PEOPLE, PHOTOS, -1)
    gram, cross = hull @ hull.mT, features.view(PEOPLE, PHOTOS, -1) @ hull.mT
    rate = torch.linalg.matrix_norm(gram, ord=float("inf"))[:, None, None]
    w = ahead = torch.full_like(cross, 1 / PHOTOS)
    pace, rank = 1.0, torch.arange(1, PHOTOS + 1, device=DEVICE)
    for _ in range(iterations):
        x = ahead - (ahead @ gram - cross) / rate
        ordered = x.sort(2, descending=True).values
        above = ordered.cumsum(2) - 1
        support = (ordered * rank > above).sum(2, keepdim=True)
        new = (x - above.gather(2, support - 1) / support).clamp_min_(0)
        grown = (1 + (1 + 4 * pace * pace) ** 0.5) / 2
        ahead, w, pace = new + (pace - 1) / grown * (new - w), new, grown
    residual = features - (w @ hull).flatten(0, 1)
    return residual.square().sum(1), w, 2 * residual


def one_person_by_cvxpy():
    """A solver's way: the problem compiled once, then one photo after the other, for one person of all."""
    import cvxpy as cp

    features, clean, _ = (t.cpu().double().numpy() for t in problem())
    w, target = cp.Variable(PHOTOS), cp.Parameter(DIMENSIONS)
    task = cp.Problem(cp.Minimize(cp.sum_squares(clean[:PHOTOS].T @ w - target)), [w >= 0, cp.sum(w) == 1])

    def solve():
        for feature in features[:PHOTOS]:
            target.value = feature
            task.solve()
        return task.value

    return solve


def rivals() -> dict:
    arguments = problem()
    calls = {
        "veilkern": functools.partial(ops.hull_distance, *arguments, width=PHOTOS),
        "eager": functools.partial(reference.hull_distance, *arguments),
        "eager_60": functools.partial(plain_fista, *arguments),
        "copy": copy_of(MOVED // 2),
    }
    return calls if ON_GPU else calls | {"cvxpy": one_person_by_cvxpy()}


MOVED = 3 * 4 * PEOPLE * PHOTOS * DIMENSIONS
CASES = [Case(f"convex, {PEOPLE} people x 10 photos x 512", MOVED, rivals, NAMES, part={"cvxpy": PEOPLE})]
test_hull_distance = compare("hull_distance", CASES)

if __name__ == "__main__":
    main("hull_distance", CASES)
