"""seal_normalize: ours, eager PyTorch and a copy that moves as many bytes.

`python bench/bench_seal_normalize.py` prints ratios from one interleaved run;
`pytest --benchmark-enable bench/bench_seal_normalize.py` gives pytest-benchmark's table.
Without torch.compile, which takes minutes over the reference: every round of the cipher is written out for it.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from common import case_of, compare, copy_of, main, sizes

from veilkern import ops, reference

NAMES = ("veilkern", "eager", "copy")


def rivals(made: dict) -> dict:
    out = ops.seal_normalize(**made)
    return {
        "veilkern": functools.partial(ops.seal_normalize, **made, out=out),
        "eager": functools.partial(reference.seal_normalize, **made),
        "copy": copy_of((made["images"].nbytes + out.nbytes) // 2),
    }


CASES = [case_of(size, rivals, NAMES) for size in sizes("seal_normalize")]
test_seal_normalize = compare("seal_normalize", CASES)

if __name__ == "__main__":
    main("seal_normalize", CASES)
