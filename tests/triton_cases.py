"""A Python process of its own, for the tests of Triton."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment
    return subprocess.run([sys.executable, "-c", code], env=variables, check=True, capture_output=True, text=True)
