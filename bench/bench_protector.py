"""Protector: calls of one photo and of 64, as a server makes them; a clone and integer NumPy beside them.

`python bench/bench_protector.py` prints ratios from one interleaved run; `copy` is a clone: new memory, as of a call.
With VEILKERN_BENCH_DEVICE=cuda the veils and photos are on the GPU, and `staged` takes photos from the host and back.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import DEVICE, ON_GPU, Case, compare, main

import veilkern as vk
from veilkern import ops
from veilkern.testing.making import SIDE, mixed_photos, on

A = 51
NAMES = ("veilkern", "eager_numpy", "op", "numpy", "out", "names", "recover", "copy")
LARGE = 100_000  # people of a bank that no cache and no table of small size holds; their veils share one memory


def numpy_blend(images: np.ndarray, veils: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The formula in the narrowest integers that hold it."""
    mixed = np.uint16(A) * images + np.uint16(255 - A) * veils[rows]
    return ((mixed + np.uint16(127)) // np.uint16(255)).astype(np.uint8)


def rivals(photos: int, layout: str, people: int) -> dict:
    made = on(DEVICE, mixed_photos(photos, 64, SIDE, SIDE, a=A))
    images, veils, rows = made["images"], made["veils"], made["rows"]
    if people > len(veils):
        veils, rows = veils[:1].expand(people, -1, -1, -1), rows * (people // 64)
    names = [f"person {row}" for row in range(people)]
    protector = vk.Protector(vk.VeilBank(veils, names, A), DEVICE)
    laid = images.permute(0, 2, 3, 1).contiguous() if layout == "NHWC" else images
    host, who = laid.cpu().numpy(), [names[row] for row in rows.tolist()]
    out = torch.empty_like(laid)
    plain = images.cpu().numpy(), veils[:64].cpu().numpy(), (rows % 64).cpu().numpy()
    call = functools.partial(protector.protect, layout=layout)
    return {
        "veilkern": functools.partial(call, laid, rows),
        "eager_numpy": functools.partial(numpy_blend, *plain),
        "op": functools.partial(ops.blend, images, veils, rows, A),
        "staged" if ON_GPU else "numpy": functools.partial(call, host, rows.cpu()),
        "out": functools.partial(call, laid, rows, out=out),
        "names": functools.partial(call, laid, who),
        "recover": functools.partial(protector.recover, laid, rows, layout=layout),
        "copy": laid.clone,
    }


CASES = [
    Case(
        f"{photos} photo{'s' * (photos > 1)} {layout}, bank of {people}",
        2 * photos * 3 * 112 * 112,
        functools.partial(rivals, photos, layout, people),
        tuple("staged" if ON_GPU and name == "numpy" else name for name in NAMES),
    )
    for photos, layout, people in (
        (1, "NCHW", 64),
        (1, "NHWC", 64),
        (1, "NCHW", LARGE),
        (64, "NCHW", 64),
        (64, "NHWC", 64),
    )
]
test_protector = compare("protector", CASES)

if __name__ == "__main__":
    main("protector", CASES)
