"""The stage `build` of bench/gpu.sh: the package of this checkout into a folder, with the CUDA kernels.

`python bench/gpu_build.py FOLDER` fetches nothing; objects go into FOLDER.objects. Where the CUDA kernels do not build,
they are left out and the rest is built again: the stage has failed then, and the others still have what they need. In a
dry run the Python part alone, which takes seconds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
DRY = bool(os.environ.get("VEILKERN_BENCH_DRY"))
# Optimising across files takes minutes of linking, for a module of the CPU that nobody times here.
FULL = {"cmake.define.CMAKE_INTERPROCEDURAL_OPTIMIZATION": "OFF"}
PLAIN = {"wheel.cmake": "false", "wheel.py-api": "py3"}


def built(folder: Path, settings: dict[str, str], *, cuda: bool) -> list[str]:
    """Install; the modules of machine code that are there then."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "-v", "--no-deps", "--no-build-isolation", "--no-index"]
    settings = settings | {"build-dir": f"{folder}.objects"}  # an editable install's own is left as it is
    command += [f"--config-settings={name}={value}" for name, value in settings.items()]
    cores = str(os.cpu_count() or 1)
    environment = os.environ | {"VEILKERN_CUDA": "ON" if cuda else "OFF", "CMAKE_BUILD_PARALLEL_LEVEL": cores}
    subprocess.run([*command, "--target", str(folder), str(ROOT)], env=environment, check=False)
    return sorted(path.name.partition(".")[0] for path in (folder / "veilkern").glob("_c*.so"))


def main() -> None:
    folder, started = Path(sys.argv[1]), time.monotonic()
    made = built(folder, PLAIN if DRY else FULL, cuda=not DRY)
    failed = not (folder / "veilkern" / "__init__.py").is_file() or (not DRY and "_cuda" not in made)
    if failed and not DRY and "_cpu" not in made:  # with a fault in one module pip installs neither
        print("== without the CUDA kernels", flush=True)
        made = built(folder, FULL, cuda=False)
    told = f"{', '.join(made) or 'Python alone'}, {time.monotonic() - started:.0f} s"
    print(f"no CUDA kernels, see the log: {told}" if failed and not DRY else told)
    sys.exit(failed)


if __name__ == "__main__":
    main()
