"""unseal: ours, eager PyTorch, arithmetic on OpenSSL's keystream, and a copy of the image bytes.

`python bench/bench_unseal.py` prints ratios from one interleaved run;
`pytest --benchmark-enable bench/bench_unseal.py` gives pytest-benchmark's table.
Without torch.compile, which takes minutes over the reference: every round of the cipher is written out for it.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import ON_GPU, case_of, compare, main, sizes

from veilkern import ops, reference

PLAIN = ("veilkern", "eager", "copy")
OPENSSL = () if ON_GPU else ("openssl_numpy", "openssl_torch")  # of 20 rounds only


def rivals(made: dict) -> dict:
    out = torch.empty_like(made["sealed"])
    calls = {
        "veilkern": functools.partial(ops.unseal, **made, out=out),
        "eager": functools.partial(reference.unseal, **made),
        "copy": functools.partial(out.copy_, made["sealed"]),
    }
    return calls if ON_GPU or made["rounds"] != 20 else calls | on_openssl(made)


def on_openssl(made: dict) -> dict:
    import openssl

    calls = {
        "openssl_numpy": functools.partial(openssl.unseal_numpy, **openssl.as_arrays(made)),
        "openssl_torch": functools.partial(openssl.unseal_torch, **openssl.as_tensors(made)),
    }
    wanted = ops.unseal(**made)
    assert all(torch.equal(torch.as_tensor(call()), wanted) for call in calls.values())
    return calls


CASES = [case_of(size, rivals, PLAIN + (OPENSSL if "20 rounds" in size.words else ())) for size in sizes("unseal")]
test_unseal = compare("unseal", CASES)

if __name__ == "__main__":
    main("unseal", CASES)
