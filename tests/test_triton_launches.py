"""What a call launches, and the machine code of it."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys

import pytest
import torch
from helpers import BACKENDS, batch, serving
from triton_cases import ARCHES, ROOT, STEMS, run_python

from veilkern import ops
from veilkern.testing.making import bytes8, offsets_of

pytestmark = pytest.mark.skipif("triton" not in BACKENDS, reason="Triton is not installed")


def test_one_variant_for_batches_of_any_size():
    """Triton compiles anew where a number is 1 or a multiple of 16, unless told not to: never by the photos or people
    of a batch, nor by where in a table their rows begin."""
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, ROOT / "bench" / "resources.py", "--variants"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert len(found) > 25 and {name: number for name, number in found.items() if number != 1} == {}


def test_launches_of_a_call(monkeypatch):
    """One launch an op, two for unseal and ssim with gradients, three for veil_step_, however many people there are."""
    backend = importlib.import_module("veilkern.backends.triton._launch")
    made = []
    plain = backend.start
    monkeypatch.setattr(backend, "start", lambda kernel, *rest: (made.append(kernel), plain(kernel, *rest)))

    def count(call):
        made.clear()
        with serving("triton"):
            call()
        return len(made)

    images, veils, rows = batch(5, 3, 12)
    floats, offsets = images.float() / 255, offsets_of((2, 1, 2))
    unit = torch.nn.functional.normalize(torch.rand(5, 8))
    state = (veils.float() / 255, torch.zeros(3, 3, 12, 12), floats, images, offsets)
    assert count(lambda: ops.blend(images, veils, rows, 51)) == 1
    assert count(lambda: ops.recover(images, veils, rows, 51, gaussian_sigma=1.0)) == 1
    assert count(lambda: ops.blend_normalize(images, veils / 255.0, rows, 51, mean=[0.5] * 3, std=[0.5] * 3)) == 1
    assert count(lambda: ops.block_variance_gradient(floats)) == 1
    last, bits = floats.to(memory_format=torch.channels_last), torch.zeros(5, 54, dtype=torch.uint8)
    assert count(lambda: ops.rectify_(last, floats[0], torch.ones(3))) == 1
    assert count(lambda: ops.rectify_gradient_(last, bits, torch.ones(1))) == 1
    assert count(lambda: ops.rectify_(last[:0])) == 0
    assert count(lambda: ops.hull_distance(unit, unit, offsets, width=2)) == 1
    assert count(lambda: ops.ssim(floats, floats)) == 1 and count(lambda: ops.ssim_gradient(floats, floats)) == 2
    assert count(lambda: ops.veil_step_(*state, a=51, lam=0.1, mu=0.1, step=0.1, decay=1.0)) == 3
    keys, nonces = bytes8(3, 32), bytes8(5, 12)
    sealing, network = {"levels": 64, "rounds": 12}, {"mean": [0.5] * 3, "std": [0.5] * 3}
    assert count(lambda: ops.seal(images, veils, rows, keys, nonces, **sealing)) == 1
    assert count(lambda: ops.unseal(images, veils, rows, keys, **sealing)) == 2
    assert count(lambda: ops.seal_normalize(images, veils / 255, rows, keys, nonces, **sealing, **network)) == 1
    assert count(lambda: ops.unseal(images[:0], veils, rows[:0], keys)) == 0
    assert count(lambda: ops.blend(images[:0], veils, rows[:0], 51)) == 0
    assert count(lambda: ops.ssim(floats[:0], floats[:0])) == 0


@pytest.fixture(scope="module")
def resources() -> dict:
    """bench/resources.py in a process of its own: it needs Triton's compiler, not the interpreter."""
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, ROOT / "bench" / "resources.py", "--json", *(f"--arch={arch}" for arch in ARCHES)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.timeout(600)
def test_no_spills_and_accesses_as_wide_as_promised(resources):
    rows = resources["rows"]
    assert not resources["faults"]
    assert {row["op"] for row in rows} == set(STEMS) and {row["arch"] for row in rows} == {
        f"sm_{arch}" for arch in ARCHES
    }
    kernels = {
        name
        for stem in STEMS
        for name in vars(importlib.import_module(f"veilkern.kernels.{stem}"))
        if name.endswith("_kernel")
    }
    assert {row["kernel"] for row in rows} == kernels, "a kernel that is not compiled ahead of time"
    assert all(row["registers"] > 8 and row["instructions"] > 50 and row["loads"] and row["stores"] for row in rows)


def test_the_report_can_fail():
    code = f"""
import sys; sys.path.insert(0, {str(ROOT / "bench")!r})
from resources import faults
promised = dict(load={{16: None, 8: 1}}, store={{16: None}})
row = dict(stack=0, local=0, loads={{16: 4, 8: 1}}, stores={{16: 2}}, promised=promised)
assert not faults(row)
assert faults(row | dict(stack=8)) == ["stack 8"] and faults(row | dict(local=2)) == ["local 2"]
assert faults(row | dict(loads={{16: 2, 8: 3}})) == ["3 loads of 8 bytes, promised at most 1"]
assert faults(row | dict(stores={{4: 8}})) == ["no stores of 16 bytes", "8 stores of 4 bytes, promised at most 0"]
"""
    run_python(code)
