"""Who may import whom: imports go one way, and this list says which."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import veilkern

PACKAGE = Path(veilkern.__file__).parent
ROOT = Path(__file__).parents[1]
BASE = {"errors", "progress", "threads", "filters"}
# Room -> the rooms that it may import, besides itself. `kernels` are the Triton kernels, installed from kernels/.
MAY = {
    **dict.fromkeys(BASE, BASE),
    "data": BASE,
    "reference": BASE,
    "networks": BASE,
    "kernels": set(),
    "backends": BASE | {"kernels"},
    "backends.reference": {"backends", "reference"},
    "ops": BASE | {"backends"},
    "engine": BASE | {"networks", "backends", "ops"},
    "veils": BASE | {"data", "backends", "ops"},
    "crafting": BASE | {"data", "networks", "engine", "backends", "ops", "veils"},
    "datasets": BASE | {"data", "networks", "veils", "crafting"},
    "training": BASE | {"data", "networks", "datasets"},
    "evaluate": BASE | {"data", "networks", "backends", "ops", "veils", "crafting"},
    "auditing": BASE | {"data", "networks", "backends", "ops", "veils", "crafting", "evaluate"},
    "aligning": BASE | {"data", "networks", "veils", "evaluate"},
    "serving": BASE | {"data", "networks", "veils", "crafting", "auditing"},
    "methods": BASE | {"data", "networks", "engine", "backends", "ops", "veils", "crafting"},
    "experiments": BASE | {"data", "networks", "ops", "veils", "crafting", "evaluate", "methods"},
    "samples": BASE | {"data", "networks", "backends", "ops", "veils", "crafting", "evaluate", "auditing"},
    "testing": BASE | {"backends", "ops", "reference"},
    "tuning": BASE | {"data", "backends", "ops", "testing"},
    "cli": BASE
    | {
        "data",
        "networks",
        "engine",
        "backends",
        "ops",
        "veils",
        "crafting",
        "datasets",
        "training",
        "evaluate",
        "auditing",
        "aligning",
        "serving",
        "methods",
        "experiments",
        "samples",
        "tuning",
    },
    "__main__": BASE | {"cli"},
}
# Rooms that use the library as its users do, `import veilkern as vk`; others take from `veilkern` itself only the
# module of the C++ kernels, and the version for what they write.
ABOVE = {"samples", "experiments", "evaluate", "auditing", "aligning", "cli", "__main__"}
FROM_THE_PACKAGE = {
    "backends": {"_cpu"},
    "crafting": {"__version__"},
    "veils": {"__version__"},
    "serving": {"__version__"},
}


def room_of(module: str) -> str:
    """veilkern.backends.reference.blend -> backends.reference; veilkern.ops.blend -> ops."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2]) if parts[:2] == ["backends", "reference"] else parts[0] if parts else ""


def imports_of(path: Path) -> list[tuple[int, str, str]]:
    """(line, module, name) of everything that a file imports of veilkern, at its top and inside of functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [(node.lineno, node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.lineno, "veilkern.<relative>", ""))  # absolute ones only: they are easier to find
    return [one for one in found if one[1].partition(".")[0] == "veilkern"]


def files():
    """(path, room) of every file of the package, the kernels where they are kept."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts != ("__init__",) and parts[0] != "kernels":
            yield pytest.param(path, room_of(".".join(("veilkern", *parts))), id="/".join(parts))
    for path in sorted((ROOT / "kernels").glob("*.py")):
        yield pytest.param(path, "kernels", id=f"kernels/{path.stem}")


def target_of(module: str, name: str) -> str:
    """The room that `from module import name` (or `import module`) reaches; "" for the package itself."""
    inside = name and (PACKAGE / "/".join(module.split(".")[1:]) / name).with_suffix(".py").exists()
    inside = inside or (name and (PACKAGE / "/".join(module.split(".")[1:]) / name).is_dir())
    return room_of(f"{module}.{name}" if inside else module)


@pytest.mark.parametrize("path,room", list(files()))
def test_imports_go_one_way(path: Path, room: str):
    allowed = {room, *MAY[room]}
    for line, module, name in imports_of(path):
        target = target_of(module, name)
        if target == "":
            assert room in ABOVE or name in FROM_THE_PACKAGE.get(room, set()), f"{path}:{line}: {name} of veilkern"
            continue
        assert target in allowed, f"{path}:{line}: {room} may not import {target}"


def test_there_is_no_circle():
    """What a room may import stands below it, so an order of all rooms exists."""
    below = {room: {other for other in others if other != room} for room, others in MAY.items() if room not in BASE}
    done = set(BASE)
    while below:
        free = {room for room, others in below.items() if others <= done}
        assert free, f"a circle among {sorted(below)}"
        done |= free
        below = {room: others for room, others in below.items() if room not in free}


def test_only_tuning_reads_the_table_and_only_backends_and_the_table_the_reference():
    """Nothing that protects photos needs samples, or constants of the reference."""
    assert {room for room, others in MAY.items() if "testing" in others} == {"tuning"}
    assert {room for room, others in MAY.items() if "reference" in others} == {"backends.reference", "testing"}


def test_importing_the_package_leaves_the_table_alone():
    code = "import sys, veilkern; assert not [m for m in sys.modules if m.startswith('veilkern.testing')]"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
