"""How many threads, and how they wait."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from veilkern.threads import available_cores, default_threads, using_threads, wait_asleep

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")


@pytest.fixture
def unset(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_cores_of_affinity_and_quota(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert available_cores(tmp_path) == 6  # no such file
    for text, cores in (("max 100000", 6), ("250000 100000", 3), ("50000 100000", 1), ("900000 100000", 6), ("x", 6)):
        (tmp_path / "cpu.max").write_text(text)
        assert available_cores(tmp_path) == cores, text


def test_what_the_user_has_set_stays(unset):
    assert default_threads() == available_cores()
    unset.setenv("OMP_NUM_THREADS", "3")
    assert default_threads() is None
    unset.setattr(os, "environ", {"GOMP_SPINCOUNT": "5"})
    wait_asleep()
    assert os.environ == {"GOMP_SPINCOUNT": "5"}
    unset.setattr(os, "environ", {})
    wait_asleep()
    assert os.environ == {"OMP_WAIT_POLICY": "passive"}


def test_the_command_line_sets_it_before_torch_loads(unset):
    script = (
        "import sys, os; sys.argv = ['veilkern', 'info']\n"
        "import builtins; real = builtins.__import__\n"
        "def watch(name, *rest, **more):\n"
        "    if name == 'torch':\n"
        "        assert os.environ.get('OMP_WAIT_POLICY') == 'passive', 'too late'\n"
        "    return real(name, *rest, **more)\n"
        "builtins.__import__ = watch\n"
        "from veilkern.__main__ import main; main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert "too late" not in done.stderr and "torch" in done.stdout, done.stderr


def test_threads_come_back_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), using_threads(before + 2) as count:
        assert torch.get_num_threads() == count == before + 2
        raise KeyError
    assert torch.get_num_threads() == before
    with using_threads(None) as count:
        assert count == before
    for wrong in (0, -1, True, 1.5):
        with pytest.raises(ValueError, match="threads must be a positive integer"), using_threads(wrong):
            pass
