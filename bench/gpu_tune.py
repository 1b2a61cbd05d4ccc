"""The stage `tune` of bench/gpu.sh: what `veilkern tune` does, op by op, so that a run that is cut off leaves a table.

`python bench/gpu_tune.py --rows FILE` writes a row for each shape class as it is measured; the table lies in the folder
that VEILKERN_LAUNCHES names and is whole after every op. The ops that Triton serves come first, since only there the
launches count. Candidates are fewer than those of the command: minutes count here.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import DEVICE, DRY, on_the_device
from rows import append

from veilkern import backends, tuning

MOST = 2 if DRY else 12
WORK = {"photos": 2, "side": 8} if DRY else {"photos": 2048, "side": 112}
LEAST = 10.0  # seconds that must be left for an op to be begun, of which most go into compiling
AT_ONCE = 4  # ops compiled ahead together: their kernels fill the processors better than one op's


def order() -> list[str]:
    """The ops with launches, first those that no CUDA kernel serves; in a dry run one of them."""
    loaded = {b.name: b for b in backends.list_backends()}
    ops = sorted(loaded["triton"].ops, key=lambda op: (op in loaded["cuda"].ops, op))
    return ops[:1] if DRY else ops


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, required=True, help="JSON lines are added here")
    parser.add_argument("--until", type=float, default=float("inf"), help="the moment (Unix time) to be done by")
    options = parser.parse_args()
    ops, about = order(), {"stage": "tune"} | ({"dry": True} if DRY else {})
    plain, tuning.compile_ahead = tuning.compile_ahead, lambda *_: None  # done for several ops at once, below
    done, table = [], None

    def tell(line: str) -> None:
        append(options.rows, about | {"launch": line})
        print(line, flush=True)

    while ops and time.time() + LEAST < options.until:
        some, ops = ops[:AT_ONCE], ops[AT_ONCE:]
        if DEVICE != "cpu":
            plain(torch.device(DEVICE, 0), WORK["side"], some, MOST, max(1, min((os.cpu_count() or 1) - 1, 15)))
        for op in some:
            if time.time() < options.until:
                with on_the_device():
                    table = tuning.tune([op], **WORK, most=MOST, tell=tell)
                done.append(op)
            else:
                ops.append(op)
    for op in ops:
        append(options.rows, about | {"op": op, "left_out": "no time"})
    print(f"{table}: {', '.join(done)}" + (f"; left out, no time: {', '.join(ops)}" if ops else ""))
    sys.exit(not done)


if __name__ == "__main__":
    main()
