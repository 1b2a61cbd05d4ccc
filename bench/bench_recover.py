"""recover, with and without its Gaussian filter: ours, eager PyTorch, torch.compile and a copy of the image bytes.

`python bench/bench_recover.py` prints ratios from one interleaved run;
`pytest --benchmark-enable bench/bench_recover.py` gives pytest-benchmark's table.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import case_of, compare, compiled, main, on_device, sizes

from veilkern import ops, reference
from veilkern.filters import gaussian_taps

NAMES = ("veilkern", "eager", "eager_float", "compile", "copy")
FILTERED = (*NAMES[:-1], "compile_float", "copy")


def eager_float(protected, veils, rows, a):
    """The best plain float formulation; within rounding of the integer contract."""
    return torch.sub(protected * (255 / a), veils[rows] * ((255 - a) / a)).round_().clamp_(0, 255).to(torch.uint8)


def eager_float_filtered(protected, veils, rows, a, taps):
    """The same, then the filter as two convolutions in float32; within a level of the integer contract."""
    found = torch.sub(protected * (255 / a), veils[rows] * ((255 - a) / a)).round_().clamp_(0, 255)
    padded = torch.nn.functional.pad(found, (2, 2, 2, 2), mode="reflect")
    lines = torch.nn.functional.conv2d(padded, taps.view(1, 1, 5, 1).expand(3, 1, 5, 1), groups=3)
    return (
        torch.nn.functional.conv2d(lines, taps.view(1, 1, 1, 5).expand(3, 1, 1, 5), groups=3).round_().to(torch.uint8)
    )


def rivals(made: dict) -> dict:
    sigma = made["gaussian_sigma"]
    arguments = [made[name] for name in ("protected", "veils", "rows", "a")]
    arguments[0] = ops.blend(*arguments)  # the table's are any photos; here ones that were protected
    out = torch.empty_like(arguments[0])
    by_compiler = compiled(reference.recover)
    calls = {
        "veilkern": functools.partial(ops.recover, *arguments, gaussian_sigma=sigma, out=out),
        "eager": functools.partial(reference.recover, *arguments, gaussian_sigma=sigma),
        "compile": functools.partial(by_compiler, *arguments, gaussian_sigma=sigma),
        "copy": functools.partial(out.copy_, arguments[0]),
    }
    if sigma is None:
        return calls | {"eager_float": functools.partial(eager_float, *arguments)}
    taps = on_device(gaussian_taps(5, sigma, torch.float32))
    floats = compiled(eager_float_filtered)
    return calls | {
        "eager_float": functools.partial(eager_float_filtered, *arguments, taps),
        "compile_float": functools.partial(floats, *arguments, taps),
    }


CASES = [case_of(size, rivals, FILTERED if "Gaussian" in size.words else NAMES) for size in sizes("recover")]
test_recover = compare("recover", CASES)

if __name__ == "__main__":
    main("recover", CASES)
