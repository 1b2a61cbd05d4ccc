"""rectify_ and its slope: ours, eager PyTorch, torch.compile, PReLU with autograd's state, a pass in place, and a copy.

eager_in_place changes the sign of each value: what the cheapest pass that reads and writes x takes. The copy writes
elsewhere, twice the memory. Each call changes its own values again, so slopes are -1: any other leads to denormals.

`python bench/bench_rectify.py` prints ratios from one interleaved run;
`pytest --benchmark-enable bench/bench_rectify.py` gives pytest-benchmark's table.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import case_of, compare, compiled, main, sizes

from veilkern import ops, reference

NAMES = ("veilkern", "eager", "eager_prelu", "compile_prelu", "eager_in_place", "copy")


def prelu(x, add, slope):
    """The activation with its bias, in place, and what autograd would keep of it: the input itself."""
    z = x + add.view(-1, 1, 1)
    x.copy_(torch.nn.functional.prelu(z, slope))
    return z


def prelu_back(gradient, kept, slope):
    """The slope by the input that was kept."""
    return gradient.mul_(torch.where(kept > 0, 1.0, slope.view(-1, 1, 1)))


def steady(made: dict) -> dict:
    """The arguments with slopes that keep the size of what they multiply."""
    return made | {"slope": torch.full_like(made["slope"], -1.0)}


def forth(given: dict) -> dict:
    made = steady(given)
    x = made["x"]
    return {
        "veilkern": functools.partial(ops.rectify_, **made),
        "eager": functools.partial(reference.rectify_, **made),
        "eager_prelu": functools.partial(prelu, **made),
        "compile_prelu": functools.partial(compiled(prelu), **made),
        "eager_in_place": x.neg_,
        "copy": functools.partial(torch.empty_like(x).copy_, x),
    }


def back(given: dict) -> dict:
    made = steady(given)
    gradient, slope = made["gradient"], made["slope"]
    kept = torch.randn_like(gradient)
    return {
        "veilkern": functools.partial(ops.rectify_gradient_, **made),
        "eager": functools.partial(reference.rectify_gradient_, **made),
        "eager_prelu": functools.partial(prelu_back, gradient, kept, slope),
        "compile_prelu": functools.partial(compiled(prelu_back), gradient, kept, slope),
        "eager_in_place": gradient.neg_,
        "copy": functools.partial(torch.empty_like(gradient).copy_, gradient),
    }


CASES = [
    *(case_of(size, forth, NAMES) for size in sizes("rectify_")),
    *(case_of(size, back, NAMES) for size in sizes("rectify_gradient_")),
]
test_rectify = compare("rectify_", CASES)

if __name__ == "__main__":
    main("rectify_", CASES)
