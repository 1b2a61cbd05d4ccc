"""What the tests of Triton share: where they run, for which architectures, a Python process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from helpers import SLOW

ROOT = Path(__file__).parents[1]
DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
# A machine with a GPU may have another Triton than CI: there its own architecture counts.
ARCHES = (
    [10 * major + minor for major, minor in [torch.cuda.get_device_capability()]]
    if torch.cuda.is_available()
    else ([90, 100] if SLOW else [90])  # sm_80 too by bench/resources.py, after each edit of a kernel
)
STEMS = (
    "blend", "blend_normalize", "recover", "rectify", "block_variance", "hull_distance", "seal", "seal_normalize",
    "ssim", "unseal", "veil_step",
)  # fmt: skip


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment
    return subprocess.run([sys.executable, "-c", code], env=variables, check=True, capture_output=True, text=True)
