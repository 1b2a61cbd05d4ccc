"""The service under load, with another arithmetic in the place of its Protector where that is asked for.

    python bench/serve_server.py BANK veilkern|numpy|unbatched|window [--workers N]

numpy: integers in NumPy, 16 bit, photos of a batch together, as one would write it; recover by floats. unbatched: each
request calls the Protector by itself. window: a photo waits 2 ms for others. It prints its port, and serves until it is
told to stop.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import veilkern as vk
from veilkern.serving import served
from veilkern.serving.server import bound, serve
from veilkern.serving.settings import Settings

ARITHMETICS = ("veilkern", "numpy", "unbatched", "window")


class NumpyProtector:
    """Protector's two calls, in NumPy, of a bank that blends."""

    def __init__(self, bank: vk.VeilBank, device: str, max_batch: int, *, key: None):
        self._veils, self._a = bank.veils.permute(0, 2, 3, 1).contiguous().numpy(), bank.blend

    def protect(self, photos, rows, *, out=None, lossless=False, layout="NHWC"):
        mixed = np.uint16(self._a) * photos + np.uint16(255 - self._a) * self._veils[rows]
        found = mixed if lossless else ((mixed + np.uint16(127)) // np.uint16(255)).astype(np.uint8)
        return _into(found, out)

    def recover(self, photos, rows, *, out=None, gaussian_sigma=None, layout="NHWC"):
        values = (255 * photos.astype(np.int32) - (255 - self._a) * self._veils[rows].astype(np.int32)) / self._a
        return _into(values.round().clip(0, 255).astype(np.uint8), out)


def _into(found: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    if out is None:
        return found
    out[:] = found
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bank", type=Path)
    parser.add_argument("arithmetic", choices=ARITHMETICS)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    if options.arithmetic == "numpy":
        served.Protector = NumpyProtector  # type: ignore[misc,assignment]
    most = 1 if options.arithmetic == "unbatched" else 64
    window = 2.0 if options.arithmetic == "window" else 0.0
    roles = ("protect", "recover")
    how = {"most": most, "window_ms": window, "workers": options.workers, "deadline": 120, "open_protect": True}
    settings = Settings(options.bank, roles=roles, **how)
    with bound("127.0.0.1", 0) as listener:
        print(listener.getsockname()[1], flush=True)
        serve(settings, listener)


if __name__ == "__main__":
    main()
