"""The eight networks of the paper in small versions, trained on synthetic people: python bench/paper_networks.py DIR

White-box: a ResNet fitted with softmax and fine-tuned with softmax, LMCL and ArcFace (S-, L- and A-ResNet), as the
paper does. Black-box: these, and Inception-ResNet, MobileNet, CosFace, SENet and ArcFace, each of its own architecture,
head and seed. Each is judged on 200 people of another seed than it was trained on: rank-1 of all photos but the first
of each person, which is the template. What is in DIR already is not trained again, what was interrupted goes on; the
exit status is 1 when a network stays below 95 %. --only trains some, so that several runs share the cores out.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import veilkern as vk
from veilkern.samples import synthetic_people
from veilkern.training.verification import Verification, verify

TRAIN_SEED, UNSEEN_SEED = 51, 52
PEOPLE, PHOTOS = 1000, 10  # to train on
UNSEEN, UNSEEN_PHOTOS = 200, 10
LEAST = 0.95
BASE = "resnet"


@dataclass(frozen=True)
class Recipe:
    """One network. start: the network that it is fine-tuned from; target: whether it is one of the eight."""

    arch: str
    head: str
    steps: int
    seed: int = 0
    start: str | None = None
    target: bool = True
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> vk.TrainConfig:
        """Batches of 128 and AdamW, as the embedded network of veilkern.samples is trained."""
        return vk.TrainConfig(
            self.arch, self.head, small=True, steps=self.steps, seed=self.seed, optimizer="adamw", **self.options
        )


TUNED = {"start": BASE, "options": {"lr": 1e-3}}
RECIPES = {
    BASE: Recipe("iresnet50", "softmax", 600, target=False),
    "s_resnet": Recipe("iresnet50", "softmax", 150, seed=1, **TUNED),
    "l_resnet": Recipe("iresnet50", "lmcl", 150, seed=2, **TUNED),
    "a_resnet": Recipe("iresnet50", "arcface", 150, seed=3, **TUNED),
    "inception_resnet": Recipe("inception_resnet_v1", "softmax", 450, seed=4),
    "mobilenet": Recipe("mobilenet", "arcface", 450, seed=5),
    "cosface": Recipe("iresnet34", "lmcl", 300, seed=6),
    "senet": Recipe("se_resnet50", "softmax", 450, seed=7),
    "arcface": Recipe("iresnet100", "arcface", 300, seed=8),
}


def judged(path: Path, people: vk.People) -> Verification:
    """Figures of a network on people it never saw, from its file alone."""
    return verify(vk.FaceModel.load(path).features(people.images, batch=256), people.rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--threads", type=int, default=None, help="on the CPU; the last bits hang on it")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    unseen, people, rows = synthetic_people(UNSEEN, UNSEEN_PHOTOS, UNSEEN_SEED), None, []
    for name in arguments.only:
        recipe, path, started = RECIPES[name], arguments.folder / f"{name}.safetensors", time.monotonic()
        if not path.exists():
            people = people or synthetic_people(PEOPLE, PHOTOS, TRAIN_SEED)
            vk.train(
                people,
                recipe.config,
                out=path,
                start=recipe.start and arguments.folder / f"{recipe.start}.safetensors",
                verify=unseen,
                resume=True,
                save_every=100,
                log=path.with_suffix(".jsonl"),
                threads=arguments.threads,
                tell=lambda line, name=name: print(name, line["step"], line["loss"], line["verification"], flush=True),
            )
        seconds, found = time.monotonic() - started, judged(path, unseen)
        rows.append((name, recipe, found))
        print(f"{name}: {found}, {seconds:.0f} s", flush=True)
    print(
        f"\n| network | architecture, small | head | from | steps | rank-1 of {UNSEEN} | accuracy | TAR at FAR 1e-3 |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, recipe, found in rows:
        figures = " | ".join(f"{value:.4f}" for value in (found.rank1, found.accuracy, found.tar))
        print(f"| {name} | {recipe.arch} | {recipe.head} | {recipe.start or ''} | {recipe.steps} | {figures} |")
    return int(any(found.rank1 < LEAST for _, _, found in rows))


if __name__ == "__main__":
    sys.exit(main())
