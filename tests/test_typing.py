"""A user's typed program under `mypy --strict`, against veilkern as it is installed: it passes, mistakes are told."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import veilkern as vk
from veilkern import ops

pytest.importorskip("mypy")
ROOT = Path(__file__).parents[1]

RIGHT = """
from pathlib import Path

import numpy as np
import torch
from torch import nn

import veilkern as vk
from veilkern import ops
from veilkern.evaluate.run import evaluate


def store(net: nn.Module, folder: Path, key: bytes) -> torch.Tensor:
    model = vk.FaceModel(net, size=112, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), bgr=True)
    people: vk.People = vk.read_people(folder, resize=True)
    print(people.problems, model.check(people))
    result: vk.CraftResult = vk.craft(model, people, vk.CraftConfig(scheme="sealed", steps=3), key=key, threads=2)
    result.bank.save(folder / "veils.safetensors")
    bank = vk.VeilBank.load(folder / "veils.safetensors", mmap=True)
    rows: torch.Tensor = bank.rows(people.names)[people.rows]
    hidden = vk.protect(people.images, bank, rows, key=key)
    again: torch.Tensor = vk.recover(hidden, bank, rows, key=key)
    names: list[str] = bank.names
    vk.update_bank("veils.safetensors", lambda now: bank if now is None else now.remove(names[:1]))
    print(evaluate(model, people, bank, key=key).persons)
    return again


def serve(bank: vk.VeilBank, key: bytes, photos: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    protector = vk.Protector(bank, key=key, max_batch=64)
    protector.protect(photos, ["Ada", "Bob"], layout="NHWC")
    protector.remove(["Ada"])
    try:
        again: bytes = vk.read_key("master.key")
    except vk.VeilkernError as error:
        print(error)
    else:
        protector.swap(bank.under_key(again))


def by_hand(photos: torch.Tensor, veils: torch.Tensor, rows: torch.Tensor) -> float:
    hidden: torch.Tensor = ops.blend(photos, veils, rows, 51, lossless=True)
    loss, gradient = ops.block_variance_gradient(photos.float(), block=(3, 3))
    with vk.use_backend("cpu", threads=2):
        return float((ops.ssim(photos.float(), photos.float()).sum() + loss.sum() + gradient.sum()) * hidden.numel())


print([backend.name for backend in vk.list_backends() if backend.available], vk.__version__)
"""
# A wrong line, and the kind of mistake that mypy calls it.
WRONG = {
    "vk.VeilBank.load(3)": "arg-type",
    "vk.CraftConfig(stepz=3)": "call-arg",
    "vk.CraftConfig(steps='many')": "arg-type",
    "vk.read_key('master.key').encode()": "attr-defined",
    "vk.read_people('faces').imagez": "attr-defined",
    "vk.use_backend(7)": "arg-type",
    "vk.no_such_name": "attr-defined",
    "ops.blend(photos, photos, photos)": "call-arg",
    "ops.ssim(photos, 'others')": "arg-type",
    "vk.craft(photos, photos)": "arg-type",
    "vk.tags(photos, photos)": "arg-type",
    "vk.update_bank('veils', 'remove')": "arg-type",
    "vk.Protector('veils.safetensors')": "arg-type",
    "n: int = vk.protect(photos, vk.VeilBank.load('veils'), 'Ada')": "assignment",
}


def check(folder: Path, **programs: str) -> str:
    """What mypy says of these programs in another folder, veilkern being found as any installed package is. Settings
    are the repository's own, strict in all, so that what `make types` has read of torch need not be read again."""
    settings = (ROOT / "pyproject.toml").read_text()
    settings = settings[settings.index("[tool.mypy]") : settings.index("[tool.pytest")].replace(
        'packages = ["veilkern"]', ""
    )
    (folder / "pyproject.toml").write_text(
        f"{settings}[[tool.mypy.overrides]]\nmodule = {[*programs]}\nwarn_return_any = true\n"
    )
    for name, text in programs.items():
        (folder / f"{name}.py").write_text(text)
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--cache-dir", str(ROOT / ".mypy_cache")]
    command += [f"{name}.py" for name in programs]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def test_a_typed_program_passes_and_wrong_calls_are_reported(tmp_path):
    """In one run: the types of torch take mypy seconds."""
    assert (Path(vk.__file__).parent / "py.typed").is_file()
    start = "import torch\nimport veilkern as vk\nfrom veilkern import ops\nphotos = torch.zeros(1)\n"
    text = check(tmp_path, right=RIGHT, wrong=start + "\n".join(WRONG) + "\n")
    told = {int(line): kind for line, kind in re.findall(r"^wrong\.py:(\d+): error: .*\[([a-z-]+)\]$", text, re.M)}
    assert told == dict(enumerate(WRONG.values(), start.count("\n") + 1)), text
    assert "right.py" not in text and "veilkern" not in re.sub(r"(?m)^wrong\.py.*$", "", text), text


def everything_public():
    """(name, function) of all that `veilkern` and `veilkern.ops` give away, and the public methods of their classes."""
    for module in (vk, ops):
        for name in module.__all__:
            found = getattr(module, name)
            if inspect.isclass(found):
                own = [(f"{name}.{n}", f) for n, f in vars(found).items() if inspect.isfunction(f) and n[0] != "_"]
                yield from own
            elif inspect.isfunction(found):
                yield name, found


def test_all_that_is_public_says_its_types():
    """mypy is told to let private functions of the ops be: none of the public ones may slip through with them."""
    seen = 0
    for name, function in everything_public():
        signature = inspect.signature(function)
        without = [
            p.name for p in signature.parameters.values() if p.annotation is p.empty and p.name not in ("self", "cls")
        ]
        assert not without and signature.return_annotation is not signature.empty, f"{name}: {without}"
        seen += 1
    assert seen > 60
