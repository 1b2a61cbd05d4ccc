"""make mutate: what it changes, what it passes over, and that a mutant is what the child imports."""

from __future__ import annotations

from pathlib import Path

import pytest

MUTANTS = Path(__file__).parents[1] / "mutants"
CODE = """
import functools

@functools.lru_cache(maxsize=16)
def rise(x: int | None = 3, *, y: int = 2) -> int | str:
    check(x)
    if x < 4:
        raise ValueError(f"{x + 1}")
    return x + 1 * y
"""


@pytest.fixture
def mutations(monkeypatch):
    pytest.importorskip("cosmic_ray", reason="cosmic-ray is not installed: the dev extra has it")
    monkeypatch.syspath_prepend(MUTANTS)
    import mutations

    return mutations


def test_places_and_what_is_passed_over(mutations, tmp_path):
    path = tmp_path / "code.py"
    path.write_text(CODE)
    places = mutations.places_of(path, "code.py")
    changes = {(m.before, m.after) for place in places if (m := mutations.mutant_at(path, place))}
    assert ("check(x)", "pass") in changes and ("if x < 4:", "if x <= 4:") in changes
    assert ("return x + 1 * y", "return x - 1 * y") in changes
    assert not any("/, y" in after for _, after in changes)  # the bare * is no product
    assert not any("raise" in before or "lru_cache" in before for before, _ in changes)
    assert not any("None" in before and "int |" not in after for before, after in changes)  # annotations stay


@pytest.mark.parametrize("file", ["mutated_code.py", "mutated_room/__init__.py"])
def test_the_mutant_is_what_is_imported(mutations, tmp_path, monkeypatch, file):
    import importlib
    import sys

    import run

    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("def f():\n    return 1\n")
    (path.parent / "beside.py").write_text("x = 3\n")
    place = mutations.places_of(path, file)[0]
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "meta_path", [run.Finder(mutations.mutant_at(path, place)), *sys.meta_path])
    name = file.partition("/")[0].removesuffix(".py")
    assert importlib.import_module(name).f() == 2 and "return 1" in path.read_text()
    if path.name == "__init__.py":
        assert importlib.import_module(f"{name}.beside").x == 3  # what is beside it stays importable
        sys.modules.pop(f"{name}.beside")
    sys.modules.pop(name)


def test_survivors_are_read_as_they_are_written(mutations, tmp_path, monkeypatch):
    import run

    mutant = mutations.Mutant("veilkern/a.py", 3, "NumberReplacer", "x = 1  # `a`", "x = 2  # `a`", "")
    monkeypatch.setattr(run, "SURVIVORS", tmp_path / "survivors.md")
    (tmp_path / "survivors.md").write_text(
        f"# Title\n\n- {mutant.words}: nobody reads x\n- {mutant.module}: no reason\n"
    )
    assert run.explained() == {mutant.words}
