"""seal: ours, eager PyTorch, arithmetic on OpenSSL's keystream, and a copy of the image bytes.

`python bench/bench_seal.py` prints ratios from one interleaved run;
`pytest --benchmark-enable bench/bench_seal.py` gives pytest-benchmark's table.
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
    out = torch.empty_like(made["images"])
    calls = {
        "veilkern": functools.partial(ops.seal, **made, out=out),
        "eager": functools.partial(reference.seal, **made),
        "copy": functools.partial(out.copy_, made["images"]),
    }
    return calls if ON_GPU or made["rounds"] != 20 else calls | on_openssl(made)


def on_openssl(made: dict) -> dict:
    import openssl

    calls = {
        "openssl_numpy": functools.partial(openssl.seal_numpy, **openssl.as_arrays(made)),
        "openssl_torch": functools.partial(openssl.seal_torch, **openssl.as_tensors(made)),
    }
    wanted = ops.seal(**made)
    assert all(torch.equal(torch.as_tensor(call()), wanted) for call in calls.values())
    return calls


CASES = [case_of(size, rivals, PLAIN + (OPENSSL if "20 rounds" in size.words else ())) for size in sizes("seal")]
test_seal = compare("seal", CASES)

if __name__ == "__main__":
    main("seal", CASES)
