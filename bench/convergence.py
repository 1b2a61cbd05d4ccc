"""Quality against image-steps, for the choices that the optimiser's defaults were made of, on real faces.

An image-step is one photo once through the network and back, which is nearly all that a craft costs. Each point of a
curve is a craft of its own with so many image-steps a person, since the step size falls over the whole of them.

    python bench/convergence.py --faces ../shared/faces --out bench/results/convergence.jsonl
    python bench/convergence.py --results bench/results/convergence.jsonl    # docs/convergence.md and its picture

`--network`, `--scheme` and `--choice` run a part; rows are appended, and what is there is not run again. Quality does
not hang on the machine: no time is taken.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import machine
from reach import BARS, DAMAGES, SETS, protected

import veilkern as vk
from veilkern import ops
from veilkern.data.photos import read_photo
from veilkern.evaluate import metrics
from veilkern.evaluate.identification import identify
from veilkern.veils import keyed

KEY = b"veilkern convergence: a fixed key"
SEALED = {"scheme": "sealed"}
# Where the study began: the defaults of before it.
BASE = {
    "blend": {"step_size": 8 / 255, "decay": 1.0},
    "sealed": SEALED | {"robust": "none", "step_size": 16 / 255, "decay": 1.0},
    "blend, mild": {"robust": "mild"},
    "sealed, mild": SEALED | {"robust": "mild"},
    "blend, strong": {"robust": "strong"},
    "sealed, strong": SEALED | {"robust": "strong"},
}
MILD, STRONG = (20, 40, 80), (50, 100, 200)
POINTS = dict(zip(BASE, ((5, 10, 20, 40, 80), (5, 10, 15, 25, 50), MILD, MILD, STRONG, STRONG), strict=True))
BATCH = "veilkern.crafting.batch"


@contextlib.contextmanager
def as_it_is(crafted: Crafted) -> Iterator[None]:
    yield


@dataclass(frozen=True)
class Choice:
    """options: of CraftConfig. changed: makes the craft do what no option does, for this study alone."""

    options: dict = field(default_factory=dict)
    changed: Callable = as_it_is


@dataclass
class Crafted:
    """What a change may need: the network, everybody's crafting photos, the configuration."""

    model: vk.FaceModel
    people: vk.People
    config: vk.CraftConfig


@contextlib.contextmanager
def normalised(crafted: Crafted) -> Iterator[None]:
    """v - step m / mean|m|, in place of v - step sign(m): as long a step, most of it where the slope is steep."""
    step_ = ops.veil_step_

    def moved(veils, momentum, *tensors, step, active, **more):
        found = step_(veils, momentum, *tensors, step=0.0, active=active, **more)
        scale = momentum.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-30)
        veils.copy_(torch.where(active.view(-1, 1, 1, 1), (veils - step * momentum / scale).clamp(0, 1), veils))
        return found

    with patch(f"{BATCH}.ops.veil_step_", moved):
        yield


@contextlib.contextmanager
def warm(crafted: Crafted) -> Iterator[None]:
    """Starts half noise of the person's key, half the mean veil of others: of the people of the other half."""
    names, halves = crafted.people.names, [crafted.people.take(_rows_of_half(crafted.people, h)) for h in (0, 1)]
    scale = 255 if crafted.config.scheme == "blend" else 256 - crafted.config.levels
    means = [
        vk.craft(crafted.model, half, crafted.config, key=KEY, progress=False).bank.veils.float().mean(0) / scale
        for half in halves
    ]
    start, of_stream = keyed.uniform, keyed.stream
    person = []

    def stream(key, name, purpose, generation):
        if purpose == "start":
            person.append(name)
        return of_stream(key, name, purpose, generation)

    def uniform(generator, shape):
        mean = means[1 - names.index(person[-1]) % 2]
        return (start(generator, shape) + mean) / 2

    with patch(f"{BATCH}.keyed.stream", stream), patch(f"{BATCH}.keyed.uniform", uniform):
        yield


def _rows_of_half(people: vk.People, half: int) -> list[int]:
    return [i for i, p in enumerate(people.rows.tolist()) if p % 2 == half]


@contextlib.contextmanager
def grey(crafted: Crafted) -> Iterator[None]:
    """Starts at grey, in place of the noise of the person's key."""
    with patch(f"{BATCH}.keyed.uniform", lambda generator, shape: torch.full(shape, 0.5)):
        yield


def rounded(dither: bool) -> Callable:
    """The network sees protected photos of 8 bits, as they will be kept; slopes pass on as if nothing were rounded.
    dither: rounded up or down by chance, so that the mean over steps is over all roundings."""

    @contextlib.contextmanager
    def changed(crafted: Crafted) -> Iterator[None]:
        mix, generator = ops.blend_normalize, torch.Generator().manual_seed(0)

        def seen(*tensors, mean, std, **more):
            mixed = mix(*tensors, mean=mean, std=std, **more)
            mean, std = (mixed.new_tensor(v).view(3, 1, 1) for v in (mean, std))
            noise = torch.rand(mixed.shape, generator=generator) - 0.5 if dither else 0.0
            return (((mixed * std + mean) * 255 + noise).round().clamp(0, 255) / 255 - mean) / std

        with patch("veilkern.crafting.schemes.ops.blend_normalize", seen):
            yield

    return changed


def choices(scheme: str) -> dict[str, Choice]:
    size = vk.CraftConfig(**BASE[scheme]).step_size
    made = {"start": Choice()}
    both = {
        f"decay {decay:g}, steps x {k:g}": Choice({"decay": decay, "step_size": size * k})
        for decay, k in ((0.5, 2), (0.5, 4), (0.8, 2), (0.9, 2), (0.9, 4))
    }
    if "," in scheme:
        made |= {f"decay {d:g}": Choice({"decay": d}) for d in (0.5, 0.8)}
        return made | {"decay 0.8, steps x 2": both["decay 0.8, steps x 2"]}
    made |= {f"decay {d:g}": Choice({"decay": d}) for d in (0.0, 0.5, 0.9)}
    made |= {s: Choice({"schedule": s}) for s in ("cosine", "constant")}
    made |= {f"steps x {k:g}": Choice({"step_size": size * k}) for k in (0.5, 2, 4)}
    made |= {f"{n} photos a step": Choice({"photos_per_step": n}) for n in (2, 5)}
    made["normalised steps"] = Choice(changed=normalised)
    made["from grey"] = Choice(changed=grey)
    made["from a mean veil"] = Choice(changed=warm)
    if scheme == "blend":  # sealed photos are of whole levels as they are
        made["8 bits in the loop"] = Choice(changed=rounded(dither=False))
        made["8 bits, by chance"] = Choice(changed=rounded(dither=True))
    made |= both
    for kind in ("convex", "affine"):
        made[f"{kind} hull"] = Choice({"subspace": kind})
    return made


@dataclass
class Bench:
    """A network with the people, and what is the same for all crafts."""

    name: str
    model: vk.FaceModel
    parts: tuple[vk.People, vk.People]
    clean: tuple[torch.Tensor, torch.Tensor]
    gallery: torch.Tensor

    def point(self, scheme: str, name: str, image_steps: int) -> dict | None:
        """The row of one craft; None where so few image-steps are not a step."""
        choice = choices(scheme)[name]
        steps, rest = divmod(image_steps, choice.options.get("photos_per_step", 1))
        if rest or not steps:
            return None
        options = {**BASE[scheme], "early_stop": False, "steps": steps, **choice.options}
        config, crafting = vk.CraftConfig(**options), self.parts[0]
        with choice.changed(Crafted(self.model, crafting, config)):
            bank = vk.craft(self.model, crafting, config, key=KEY, progress=False).bank
        row = {"network": self.name, "scheme": scheme, "choice": name, "image_steps": image_steps}
        for seed, set_ in enumerate(SETS):
            row[set_] = self.measured(self.parts[seed], self.clean[seed], bank, seed)
        return row

    def measured(self, people: vk.People, clean: torch.Tensor, bank: vk.VeilBank, seed: int) -> dict:
        hidden = protected(people, bank, seed)
        features = self.model.features(hidden)
        counts = self.parts[0].counts.tolist()
        centres = [torch.nn.functional.normalize(part.mean(0), dim=0) for part in self.clean[0].split(counts)]
        parts = features.split(people.counts.tolist())
        signed = metrics.contour(people.images, hidden, 2)
        ranks = identify(features, clean, people, self.gallery)
        others = people.images.roll(int(people.counts[0]), 0)
        damaged = {}
        if bank.config["robust"] != "none":
            for name, damage in DAMAGES.items():
                found = self.model.features(damage(hidden))
                ranks_after = identify(found, clean, people, self.gallery)
                near = [
                    float((part @ c).mean())
                    for part, c in zip(found.split(people.counts.tolist()), centres, strict=True)
                ]
                msr = statistics.mean(i.rank1 for i in ranks_after)
                damaged[name] = {"msr": round(msr, 5), "cosine": round(statistics.mean(near), 5)}
        return {
            "damaged": damaged,
            "cosine": [round(float((part @ c).mean()), 5) for part, c in zip(parts, centres, strict=True)],
            "msr": round(statistics.mean(i.rank1 for i in ranks), 5),
            "contour": round(float(signed.mean()), 5),
            "contour_size": round(float(signed.abs().mean()), 5),
            "contour_worst": round(max(float(part.abs().mean()) for part in signed.split(people.counts.tolist())), 5),
            "ssim": round(float(metrics.ssim(people.images, hidden).mean()), 5),
            "ssim_others": round(float(metrics.ssim(others, hidden).mean()), 5),
        }


def reached(row: dict) -> bool:
    """Whether every bar of protection and recognition that real_faces.py sets is reached."""
    if "," in row["scheme"]:
        name = {"sealed, mild": "sealed (mild)"}.get(row["scheme"], row["scheme"])
        bars = BARS[name][1].items()
        good = all(row[set_]["damaged"][damage]["msr"] >= least for set_ in SETS for damage, least in bars)
        return good and ("blend" in row["scheme"] or all(_hidden(row[set_]) for set_ in SETS))
    bars = zip(SETS, (0.99, 0.97) if row["scheme"] == "blend" else (0.995, 0.995), (0.015, 0.020), strict=True)
    for set_, msr, ssim in bars:
        found = row[set_]
        good = found["msr"] >= msr
        if row["scheme"] == "blend":
            good &= found["ssim"] <= ssim and found["contour_size"] <= 0.25 and found["contour_worst"] <= 0.35
        else:
            good &= _hidden(found)
        if not good:
            return False
    return True


def _hidden(found: dict) -> bool:
    """Whether a sealed photo shows no more of itself than of others."""
    return abs(found["contour"]) <= 0.06 and abs(found["ssim"] - found["ssim_others"]) <= 0.002


def benches(faces: Path, only: list[str] | None) -> Iterator[Bench]:
    people = vk.read_people(faces / "people")
    gallery = torch.stack([read_photo(f)[0] for f in sorted((faces / "gallery").glob("*.png"))])
    parts = people.split(10)
    for file in sorted((faces / "networks").glob("*.safetensors")):
        if only and file.stem not in only:
            continue
        model = vk.FaceModel.load(f"{file.with_suffix('.py')}:load")
        clean = tuple(model.features(part.images) for part in parts)
        yield Bench(file.stem, model, parts, clean, model.features(gallery))


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, default=os.environ.get("VEILKERN_REAL_FACES"))
    parser.add_argument("--out", type=Path, help="append JSON lines here")
    parser.add_argument("--network", action="append")
    parser.add_argument("--scheme", choices=tuple(BASE), action="append")
    parser.add_argument("--choice", action="append")
    parser.add_argument("--results", type=Path, help="run nothing: write docs/convergence.md from these rows")
    options = parser.parse_args()
    if options.results is not None:
        from convergence_report import write

        return write(read(options.results))
    if options.faces is None or options.out is None:
        parser.error("say where the real faces are (VEILKERN_REAL_FACES or --faces), and --out")
    key = ("network", "scheme", "choice", "image_steps")
    done = {tuple(row[k] for k in key) for row in read(options.out)}
    for bench in benches(options.faces, options.network):
        for scheme in options.scheme or BASE:
            for name in options.choice or choices(scheme):
                for image_steps in POINTS[scheme]:
                    if (bench.name, scheme, name, image_steps) in done:
                        continue
                    row = bench.point(scheme, name, image_steps)
                    if row is None:
                        continue
                    unseen = row["unseen"]
                    print(
                        f"{bench.name} {scheme} {name} {image_steps}: cosine {statistics.mean(unseen['cosine']):.4f}, "
                        f"MSR {unseen['msr']:.3f}, contour {unseen['contour_size']:.3f}"
                        f"{', every bar' if reached(row) else ''}",
                        flush=True,
                    )
                    with options.out.open("a") as file:
                        file.write(json.dumps(row | machine()) + "\n")
    return None


if __name__ == "__main__":
    main()
