"""Seconds until every bar of real_faces.py is reached: vk.craft with its defaults, and the customary research loop.

    python bench/to_the_bars.py --faces ../shared/faces --out bench/results/to_the_bars.jsonl

The loop is bench_craft.py's `naive`: one person at a time, trainable parameters, the clean photos through the network
in every step too, all ten photos a step, autograd for everything. To its advantage it gets our loss and the hull's
centre (what the paper's own give: docs/figures.md), no quadratic programme, and it is told when to stop: veils are
judged every five steps, outside of its time. Both run in turns on the same machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import machine
from real_faces import KEY, missed

import veilkern as vk
from veilkern import reference
from veilkern.data.photos import read_photo
from veilkern.evaluate import evaluate
from veilkern.reference.contour import contour_loss
from veilkern.veils import keyed

EVERY, MOST = 5, 60
CONFIG = vk.CraftConfig()


class Naive:
    """The customary loop of one person, who can be left and taken up again. seconds: of all its steps."""

    def __init__(self, model: vk.FaceModel, photos: torch.Tensor, name: str):
        self.model, self.images, self.seconds = model, photos, 0.0
        self.veil = keyed.uniform(keyed.stream(KEY, name, "start", 0), (1, 3, *photos.shape[2:]))
        self.momentum = torch.zeros_like(self.veil)

    def steps(self, count: int) -> None:
        started = time.monotonic()
        for _ in range(count):
            self._step()
        self.seconds += time.monotonic() - started

    def _step(self) -> None:
        model, c = self.model, CONFIG
        clean, alpha = self.images.float() / 255, c.alpha
        veil = self.veil.requires_grad_(True)
        centre = model.embed(clean).mean(0, keepdim=True)
        protected = alpha * clean + (1 - alpha) * veil
        loss = (model.embed(protected) - centre).square().sum(1).mean()
        loss = loss - c.lam * (protected - clean).flatten(1).norm(dim=1).mean()
        loss = loss + c.mu * reference.block_variance(protected.mean(0, keepdim=True)).mean()
        loss = loss + c.nu * contour_loss(self.images, veil, torch.tensor([0, len(clean)]), c.blend).sum()
        loss.backward()
        with torch.no_grad():
            gradient = veil.grad / veil.grad.abs().mean()
            self.momentum += gradient
            self.veil = (veil - 8 / 255 * self.momentum.sign()).clamp(0, 1)
        model.module.zero_grad()


def judged(model, people, bank: vk.VeilBank, gallery) -> list[str]:
    """The bars that these veils miss."""
    return missed(evaluate(model, people, bank, gallery=gallery), 0.0)


def naive_to_the_bars(model, people: vk.People, bank: vk.VeilBank, gallery) -> tuple[float, int, list[str]]:
    """Seconds, steps, and the bars that were missed after MOST of them. bank: ours, whose records say which photos
    veils were crafted on."""
    crafting, _ = people.split(10)
    model.module.requires_grad_(True)
    loops = [Naive(model, crafting.photos(name), name) for name in crafting.names]
    for done in range(EVERY, MOST + 1, EVERY):
        for loop in loops:
            loop.steps(EVERY)
        veils = torch.cat([(255 * loop.veil).round().to(torch.uint8) for loop in loops])
        wrong = judged(model, people, dataclasses.replace(bank, veils=veils), gallery)
        print(
            f"  naive, {done} steps: {sum(loop.seconds for loop in loops):.0f} s, {len(wrong)} bars missed", flush=True
        )
        if not wrong:
            break
    model.module.requires_grad_(False)
    return sum(loop.seconds for loop in loops), done, wrong


def ours(model: vk.FaceModel, people: vk.People, **options) -> tuple[float, vk.VeilBank]:
    crafting, _ = people.split(10)
    started = time.monotonic()
    bank = vk.craft(model, crafting, vk.CraftConfig(**options), key=KEY, progress=False).bank
    seconds = time.monotonic() - started
    return seconds, bank


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, default=os.environ.get("VEILKERN_REAL_FACES"))
    parser.add_argument("--network", action="append")
    parser.add_argument("--out", type=Path, help="append JSON lines here")
    options = parser.parse_args()
    if options.faces is None:
        parser.error("say where the real faces are: VEILKERN_REAL_FACES or --faces")
    people = vk.read_people(options.faces / "people")
    gallery = torch.stack([read_photo(f)[0] for f in sorted((options.faces / "gallery").glob("*.png"))])
    for file in sorted((options.faces / "networks").glob("*.safetensors")):
        if options.network and file.stem not in options.network:
            continue
        model = vk.FaceModel.load(f"{file.with_suffix('.py')}:load")
        kinds = {
            "blend": {},
            "sealed_none": {"scheme": "sealed", "robust": "none"},
            "sealed_mild": {"scheme": "sealed"},
        }
        times: dict[str, list[float]] = {kind: [] for kind in kinds}

        banks: dict[str, vk.VeilBank] = {}

        def turn(model=model, times=times, kinds=kinds, banks=banks) -> None:
            for kind, given in kinds.items():
                seconds, banks[kind] = ours(model, people, **given)
                times[kind].append(seconds)

        turn()
        assert not (ours_missed := judged(model, people, banks["blend"], gallery)), ours_missed
        naive, steps, wrong = naive_to_the_bars(model, people, banks["blend"], gallery)
        turn()
        turn()
        row = {"network": file.stem, "people": len(people), "naive_s": round(naive, 1), "naive_steps": steps}
        row |= {"naive_missed": wrong} | {f"{kind}_s": round(statistics.median(t), 2) for kind, t in times.items()}
        row |= {"x": round(naive / row["blend_s"], 1), "shortest_s": {k: round(min(t), 2) for k, t in times.items()}}
        print(row, flush=True)
        if options.out is not None:
            with options.out.open("a") as out:
                out.write(json.dumps(row | machine()) + "\n")


if __name__ == "__main__":
    main()
