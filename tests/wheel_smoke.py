"""What a wheel must do once it is installed, from outside the source tree: python tests/wheel_smoke.py (cibuildwheel's
test, in an empty folder). Native module, the reference's bits, the command line."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import torch

import veilkern as vk
from veilkern import _cpu, ops  # a wheel without the native module fails here


def main() -> None:
    inside = Path(vk.__file__).resolve()
    assert inside.is_relative_to(Path(sysconfig.get_path("platlib")).resolve()), f"not the installed package: {inside}"
    assert (inside.parent / "py.typed").is_file(), "no py.typed"
    photos = torch.randint(0, 256, (5, 3, 112, 112), dtype=torch.uint8)
    veils = torch.randint(0, 256, (2, 3, 112, 112), dtype=torch.uint8)
    rows = torch.tensor([0, 1, 1, 0, 1])
    made = {}
    for backend in ("reference", "cpu"):
        with vk.use_backend(backend):
            made[backend] = ops.blend(photos, veils, rows, 102)
    assert torch.equal(made["reference"], made["cpu"]), "the C++ kernel and the reference differ"
    script = Path(sys.executable).with_name("veilkern")
    for words in (["--version"], ["info"], ["demo", "--out", "smoke"]):
        subprocess.run([script, *words], check=True)
    print(f"in order: veilkern {vk.__version__}, {_cpu.isa()}, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
