"""Every benchmark can be loaded: what it takes from the library is there."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"


def loaded(script, monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    spec = importlib.util.spec_from_file_location(Path(script).stem, BENCH / script)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("script", sorted(path.name for path in BENCH.glob("bench_*.py")))
def test_a_benchmark_loads(script, monkeypatch):
    assert loaded(script, monkeypatch).CASES


def test_whatever_is_in_the_table_is_beside_a_copy(monkeypatch):
    """`make bench` puts every row beside a copy: a benchmark without one has no place in its table."""
    scripts = loaded("run.py", monkeypatch).SCRIPTS
    assert len(scripts) > 10
    for script in scripts:
        assert all({"veilkern", "copy"} <= set(case.names) for case in loaded(script.name, monkeypatch).CASES), script
