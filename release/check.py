"""What an sdist and a wheel must be before anybody gets them: python release/check.py dist (`make dist`).

The sdist holds every file under version control but docs and CI, nothing else, nothing huge, no key. The wheel holds
the package and nothing beside it. Versions agree wherever one is said. Exits with 1 and a line for each fault.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOT_IN_SDIST = ("docs/*", ".ci/*")
NEEDED = [
    "CHANGELOG.md",
    "CITATION.cff",
    "CMakeLists.txt",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "constraints.txt",
    "pyproject.toml",
    "bench/",
    "cmake/",
    "csrc/",
    "fuzz/",
    "kernels/",
    "mutants/",
    "release/",
    "tests/",
    "veilkern/",
]  # to build, to test, to know what it is; a folder: something in it
SECRET = ("*.key", "*.pem", "*.journal", "*veils.safetensors", "*.pth", ".env*", "*id_rsa*", "*.lock")
MOST = 2 << 20  # bytes of the largest file: the samples' network has fewer
KERNEL = re.compile(r"kernels/(\w+\.py|launch/[\w-]+\.json)")


def versions() -> dict[str, str]:
    """Every place where the version is said; it is written in the first, the build reads it there."""
    places = {
        "veilkern/__init__.py": r'^__version__ = "(.+)"$',
        "CITATION.cff": r"^version: (.+)$",
        "CHANGELOG.md": r"^## (\d\S*)",  # the newest release
    }
    return {place: re.search(form, (ROOT / place).read_text(), re.M)[1] for place, form in places.items()}  # type: ignore[index]


def sdist_faults(path: Path) -> list[str]:
    top = path.name.removesuffix(".tar.gz")
    with tarfile.open(path) as archive:
        sizes = {member.name.removeprefix(f"{top}/"): member.size for member in archive if member.isfile()}
        about = archive.extractfile(f"{top}/PKG-INFO").read().decode()  # type: ignore[union-attr]
    sizes.pop("PKG-INFO")
    faults = [f"{name} is missing" for name in NEEDED if not any(has.startswith(name) for has in sizes)]
    faults += [f"{name} looks like a secret" for name in sizes if any(fnmatch(Path(name).name, s) for s in SECRET)]
    faults += [f"{name} has {size} bytes" for name, size in sizes.items() if size > MOST]
    faults += metadata_faults(about)
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        kept = {n for n in listed.splitlines() if not any(fnmatch(n, form) for form in NOT_IN_SDIST)}
        faults += [f"{name} is missing" for name in sorted(kept - sizes.keys())]
        faults += [f"{name} is not under version control" for name in sorted(sizes.keys() - kept)]
    return [f"{path.name}: {fault}" for fault in faults]


def wheel_faults(path: Path, sdist: Path) -> list[str]:
    with tarfile.open(sdist) as archive:
        inside = {member.name.partition("/")[2] for member in archive if member.isfile()}
    wanted = {n for n in inside if n.startswith("veilkern/")} | {f"veilkern/{n}" for n in inside if KERNEL.fullmatch(n)}
    with zipfile.ZipFile(path) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        info = next(name.partition("/")[0] for name in names if name.endswith(".dist-info/METADATA"))
        about = archive.read(f"{info}/METADATA").decode()
    found = {name for name in names if not name.startswith(info)}
    native = {name for name in found if re.fullmatch(r"veilkern/_(cpu|cuda)\.[\w-]+\.so", name)}
    libraries = {name for name in found if name.startswith("veilkern.libs/")}  # auditwheel's
    faults = [f"{name} is missing" for name in sorted(wanted - found)]
    faults += [f"{name} does not belong there" for name in sorted(found - wanted - native - libraries)]
    if not any("/_cpu." in name for name in native):
        faults.append("no native module")
    if not {f"{info}/licenses/LICENSE", f"{info}/entry_points.txt"} <= names:
        faults.append("no licence, or no command")
    return [f"{path.name}: {fault}" for fault in faults + metadata_faults(about)]


def metadata_faults(text: str) -> list[str]:
    about, said = HeaderParser().parsestr(text), versions()
    said["metadata"] = about["Version"]
    faults = [] if len(set(said.values())) == 1 else [f"versions differ: {said}"]
    wanted = {"Name": "veilkern", "Requires-Python": ">=3.10", "License-Expression": "Apache-2.0"}
    faults += [f"{name} is {about[name]}, not {value}" for name, value in wanted.items() if about[name] != value]
    return faults


def main(folder: Path) -> None:
    (sdist,), wheels = folder.glob("*.tar.gz"), sorted(folder.glob("*.whl"))
    faults = sdist_faults(sdist) + [fault for wheel in wheels for fault in wheel_faults(wheel, sdist)]
    print("\n".join(faults) or f"in order: {', '.join(path.name for path in (sdist, *wheels))}")
    sys.exit(1 if faults or not wheels else 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
