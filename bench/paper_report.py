"""docs/paper.md: the paper's experiments on synthetic people and the eight small networks of paper_networks.py.

    python bench/paper_networks.py DIR        trains the networks (white-box: S-, L- and A-ResNet; five more black-box)
    python bench/paper_report.py DIR          runs `vk.paper` with them and writes docs/paper.md and docs/paper/*.svg

What was found is kept in DIR/paper: interrupted, it goes on. --lpips ALEXNET adds LPIPS.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from common import described, machine
from paper_networks import RECIPES
from safetensors import safe_open

import veilkern as vk
from veilkern.data.files import atomic_write, make_folder
from veilkern.evaluate.lpips import Lpips
from veilkern.experiments.plots import plots
from veilkern.experiments.report import file_name, markdown
from veilkern.experiments.titles import EXPERIMENTS
from veilkern.samples import synthetic_people

SURROGATES = ("s_resnet", "l_resnet", "a_resnet")
PEOPLE, PHOTOS, GALLERY = 20, 20, 500
PEOPLE_SEED, GALLERY_SEED = 53, 54  # nobody of them was trained on
DOCS = Path(__file__).parents[1] / "docs"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where paper_networks.py wrote the networks")
    parser.add_argument("--people", type=int, default=PEOPLE)
    parser.add_argument("--lpips", type=Path, help="torchvision's AlexNet checkpoint")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where paper.md and paper/ go")
    arguments = parser.parse_args()
    names = [name for name, recipe in RECIPES.items() if recipe.target]
    networks = {name: vk.FaceModel.load(arguments.folder / f"{name}.safetensors") for name in names}
    started = time.monotonic()
    made = vk.paper(
        synthetic_people(arguments.people, PHOTOS, PEOPLE_SEED),
        {name: networks[name] for name in SURROGATES},
        {name: network for name, network in networks.items() if name not in SURROGATES},
        gallery=synthetic_people(GALLERY, 1, GALLERY_SEED).images,
        out=arguments.folder / "paper",
        lpips=None if arguments.lpips is None else Lpips.load(arguments.lpips),
        overwrite=True,
        tell=lambda what: print(f"{time.monotonic() - started:7.0f} s  {what}", flush=True),
    )
    write(arguments.docs, arguments.folder / "paper", made, trained(arguments.folder, names))
    print("\n".join(f"{claim['verdict']:14} {claim['claim']}: {claim['figures']}" for claim in made["claims"]))
    return 0


def trained(folder: Path, names: list[str]) -> str:
    """What each network is and how well it tells people apart that it never saw, from the metadata of its file."""
    lines = [
        "| network | architecture, small | head | steps | rank-1 | verification accuracy |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        with safe_open(folder / f"{name}.safetensors", "pt") as file:
            about = file.metadata()
        found, recipe = json.loads(about["training.verification"]), RECIPES[name]
        steps = f"{about['training.steps']}{f' after {RECIPES[recipe.start].steps}' if recipe.start else ''}"
        figures = f"{found['rank1']:.4f} | {found['accuracy']:.4f}"
        lines.append(f"| {name} | {about['architecture']} | {about['training.head']} | {steps} | {figures} |")
    people = f"{found['identities']} synthetic people of another seed, {found['photos']} photos"
    return "\n".join([f"Judged on {people}; one template a person:", "", *lines])


def write(docs: Path, folder: Path, made: dict, networks: str) -> None:
    """paper.md and its plots, from what the run wrote. networks: what is said of them."""
    drawn = plots({name: made[name]["rows"] for name in EXPERIMENTS})
    for name in drawn:
        file = f"{file_name(name)}.svg"
        atomic_write(make_folder(docs / "paper") / file, (folder / "plots" / file).read_bytes())
    text = markdown(made, {name: f"paper/{file_name(name)}.svg" for name in drawn})
    about = (
        "`python bench/paper_networks.py DIR` trained the networks, small versions on synthetic people, and `python "
        f"bench/paper_report.py DIR` wrote this page. {described(machine())} What the names mean: "
        "[experiments.md](experiments.md). Synthetic people are alike as real ones are not, and small networks easily "
        "led: read it for how the methods compare, not for what real faces give."
    )
    head, _, rest = text.partition("\n\n")
    atomic_write(docs / "paper.md", f"{head}\n\n{about}\n\n{networks}\n\n{rest}".encode())


if __name__ == "__main__":
    sys.exit(main())
