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
from common import ON_GPU, case_of, compare, copy_of, main, sizes

from veilkern import ops, reference

NAMES = ("veilkern", "eager", "eager_60", *(() if ON_GPU else ("cvxpy",)), "copy")  # cvxpy solves on the CPU


def plain_fista(features, clean, offsets, width, iterations=60):
    """What one would write first: 60 steps of batched FISTA on the Gram matrices, without a stopping rule. Everybody
    has `width` photos."""
    hull = clean.view(len(offsets) - 1, width, -1)
    gram, cross = hull @ hull.mT, features.view(hull.shape) @ hull.mT
    rate = torch.linalg.matrix_norm(gram, ord=float("inf"))[:, None, None]
    w = ahead = torch.full_like(cross, 1 / width)
    pace, rank = 1.0, torch.arange(1, width + 1, device=features.device)
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


def one_person_by_cvxpy(features, clean, offsets, width):
    """A solver's way: the problem compiled once, then one photo after the other, for one person of all."""
    import cvxpy as cp

    features, clean = (t.cpu().double().numpy() for t in (features, clean))
    w, target = cp.Variable(width), cp.Parameter(features.shape[1])
    task = cp.Problem(cp.Minimize(cp.sum_squares(clean[:width].T @ w - target)), [w >= 0, cp.sum(w) == 1])

    def solve():
        for feature in features[:width]:
            target.value = feature
            task.solve()
        return task.value

    return solve


def rivals(made: dict) -> dict:
    plain = {name: made[name] for name in ("features", "clean", "offsets")}
    calls = {
        "veilkern": functools.partial(ops.hull_distance, **made),
        "eager": functools.partial(reference.hull_distance, **plain),
        "eager_60": functools.partial(plain_fista, **made),
        "copy": copy_of(3 * made["features"].nbytes // 2),
    }
    return calls if ON_GPU else calls | {"cvxpy": one_person_by_cvxpy(**made)}


CASES = [case_of(size, rivals, NAMES, part={"cvxpy": size.parts}) for size in sizes("hull_distance")]
test_hull_distance = compare("hull_distance", CASES)

if __name__ == "__main__":
    main("hull_distance", CASES)
