"""The search for faults itself: a crash, a hang, greed and a wrong answer are caught, kept, and can be repeated."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from veilkern.testing.table import TABLE

FUZZ = Path(__file__).parents[1] / "fuzz"
PLANTED = """
import os, time
class Target:
    name = "planted"
    def __init__(self, folder):
        pass
    def input(self, number, rng):
        return b"%d" % number
    def check(self, data):
        bad = data == b"5"
        if bad and "{fault}" == "crash":
            os.abort()
        if bad and "{fault}" == "hang":
            time.sleep(100)
        if bad and "{fault}" == "greed":
            bytearray(3 << 30)
        if bad and "{fault}" == "wrong":
            raise KeyError("five")
"""


def test_every_op_is_drawn(monkeypatch):
    monkeypatch.syspath_prepend(FUZZ)
    from op_target import DRAWS

    assert set(DRAWS) == set(TABLE)


def run(folder, *arguments, limit="30"):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(FUZZ)]), "VEILKERN_FUZZ_LIMIT": limit}
    command = [sys.executable, FUZZ / "run.py", "--out", folder / "found", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    "fault,words", [("crash", "SIGABRT"), ("hang", "Timeout"), ("greed", "MemoryError"), ("wrong", "KeyError: 'five'")]
)
def test_faults_are_caught_kept_and_repeated(tmp_path, fault, words):
    (tmp_path / "planted.py").write_text(PLANTED.replace("{fault}", fault))
    options = ("--target", "planted:Target", "--inputs", "8", "--seconds", "100", "--seed", "1")
    done = run(tmp_path, *options, limit="3" if fault == "hang" else "30")
    assert done.returncode == 1 and "8 inputs, 1 faults" in done.stdout, done.stdout + done.stderr
    (found,) = [path for path in (tmp_path / "found").iterdir() if path.suffix != ".txt"]
    assert found.read_bytes() == b"5" and words in found.with_suffix(".txt").read_text()
    if fault != "hang":
        assert run(tmp_path, "--replay", found).returncode not in (0, 2)


def test_the_same_seed_makes_the_same_damage(monkeypatch):
    monkeypatch.syspath_prepend(FUZZ)
    import mutator

    first, second = ([mutator.mutate(random.Random(i), b"some bytes 12", [b"x"]) for i in range(200)] for _ in "ab")
    assert first == second and len(set(first)) > 150


def test_png_damage_keeps_the_check_sums(monkeypatch):
    monkeypatch.syspath_prepend(FUZZ)
    import mutator

    header = b"\0\0\0\x02\0\0\0\x01\x08\x02\0\0\0"
    png = mutator.png_of([(b"IHDR", header), (b"IDAT", zlib.compress(b"\0abcdef")), (b"IEND", b"")])
    assert mutator.png_chunks(png)[0] == (b"IHDR", header)
    changed = {mutator.mutate_png(random.Random(i), png, [b"x"]) for i in range(100)}
    assert len(changed) > 50
    for data in changed:
        assert mutator.png_of(mutator.png_chunks(data)) == data
