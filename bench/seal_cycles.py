"""Cycles a byte of seal on one thread, photos and results in the nearest caches: `python bench/seal_cycles.py`.

By the rate of the time stamp counter (what Linux gives as BogoMIPS, twice that), as figures of ciphers often are: a
core that runs faster than its nominal rate needs fewer of these than of its own. The least of many runs, since other
processes only ever add.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import torch

from veilkern import _cpu
from veilkern.testing.making import SIDE, sealable_photos

PHOTOS, RUNS = 8, 3000


def rate() -> float:
    """Ticks of the counter a second."""
    found = re.search(r"bogomips\s*:\s*([\d.]+)", Path("/proc/cpuinfo").read_text())
    if found is None:
        raise SystemExit("no rate of the time stamp counter in /proc/cpuinfo: x86-64 under Linux is needed")
    return float(found[1]) / 2 * 1e6


def least(rounds: int) -> float:
    """Seconds of one call by address."""
    made = sealable_photos(PHOTOS, 2, SIDE, SIDE)
    out = torch.empty_like(made["images"])
    images, veils, rows, keys, nonces = made.values()
    size, runs = images[0].numel(), []
    for _ in range(RUNS):
        begun = time.perf_counter()
        _cpu.seal_u8(
            (images.data_ptr(), size), (veils.data_ptr(), 2, veils.stride()), rows.data_ptr(), (keys.data_ptr(), 2, 32),
            (nonces.data_ptr(), PHOTOS, 12), (out.data_ptr(), size), tuple(images.shape), False, 64, rounds, 1,
        )  # fmt: skip
        runs.append(time.perf_counter() - begun)
    return min(runs)


def main() -> None:
    bytes_, best = PHOTOS * 3 * SIDE * SIDE, _cpu.best_isa()
    for isa in ("baseline", "avx2", "avx512"):
        if isa == "baseline" or isa == best or best == "avx512":
            _cpu.set_isa(isa)
            print(isa, *(f"{rounds} rounds: {least(rounds) * rate() / bytes_:.3f}" for rounds in (20, 12)), sep="  ")


if __name__ == "__main__":
    main()
