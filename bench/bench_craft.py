"""craft: image-steps a second of vk.craft, of the customary research loop, and of a loop written with care.

An image-step is one photo once through the network and back. `python bench/bench_craft.py --out
bench/results/craft.jsonl` prints one interleaved run and keeps its rows; `--only` picks networks.

naive    one person at a time, trainable parameters, the clean photos through the network in every step too, a quadratic
         programme (cvxpy, per photo) for the hull, all ten photos a step
strong   frozen, BatchNorm folded by torch.fx, channels_last, torch.compile, all persons' photos together, the
         reference's ops, clean features once
ours     vk.craft with its defaults, from the photos to the finished bank, with all that it measures besides
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.fx.experimental.optimization import fuse

sys.path.insert(0, str(Path(__file__).parent))
from common import DEVICE, ON_GPU, Case, compare, compiled, interleaved, interleaved_on_gpu, machine

import veilkern as vk
from veilkern import reference
from veilkern.networks.iresnet import DEPTHS, IResNet
from veilkern.networks.mobilefacenet import MobileFaceNet

PHOTOS, STEPS = 10, 20
PEOPLE = 64 if ON_GPU else 4
A, LAM, MU, STEP = 51, 0.04, 0.01, 8 / 255
NETWORKS = {"mobilefacenet": MobileFaceNet, "iresnet50": lambda: IResNet(DEPTHS["iresnet50"])}
NAIVE = ("eager_naive",) if importlib.util.find_spec("cvxpy") else ()  # of the `bench` extra
COARSE = ("veilkern_bfloat16",) if ON_GPU else ()  # as `strong` is there
NAMES = ("veilkern", "veilkern_sealed", *COARSE, *NAIVE, "compile_strong")


def network(name: str) -> vk.FaceModel:
    """With random weights, which are enough for its speed, and statistics that keep activations in range."""
    torch.manual_seed(0)
    module = NETWORKS[name]()
    for layer in module.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.reset_running_stats()
    module.train()
    with torch.no_grad():
        for _ in range(8):
            module(torch.rand(4, 3, 112, 112) * 2 - 1)
    model = vk.FaceModel(module.eval(), mean=(0.5,) * 3, std=(0.5,) * 3, name=name)
    model.module.to(DEVICE)
    return model


def people(count: int) -> vk.People:
    generator = torch.Generator().manual_seed(1)
    photos = torch.randint(0, 256, (count, PHOTOS, 3, 112, 112), generator=generator, dtype=torch.uint8)
    return vk.People.from_images(list(photos))


def ours(model: vk.FaceModel, persons: vk.People, scheme: str, precision: str = "float32") -> None:
    robust = {"robust": "none"} if scheme == "sealed" else {}
    config = vk.CraftConfig(scheme=scheme, steps=STEPS, early_stop=False, seed=0, precision=precision, **robust)
    assert len(vk.craft(model, persons, config, progress=False).bank) == len(persons)


def moved(veil, momentum, gradient, images, decay=1.0):
    """One step of eq. 13 by the reference, in place."""
    offsets = torch.arange(len(veil) + 1, device=veil.device) * (len(images) // len(veil))
    reference.veil_step_(veil, momentum, gradient, images, offsets, a=A, lam=LAM, mu=MU, step=STEP, decay=decay)


def nearest(hull: torch.Tensor, feature: torch.Tensor) -> torch.Tensor:
    """The point of the convex hull next to a feature, as papers write it down."""
    import cvxpy as cp

    w = cp.Variable(len(hull), nonneg=True)
    y, f = hull.detach().cpu().double().numpy(), feature.detach().cpu().double().numpy()
    cp.Problem(cp.Minimize(cp.sum_squares(y.T @ w - f)), [cp.sum(w) == 1]).solve(solver=cp.OSQP)
    return hull.detach().new_tensor(w.value) @ hull


def naive(model: vk.FaceModel, persons: vk.People, steps: int) -> None:
    """One person; the features of the clean photos stay in the graph, as they are made from trainable parameters."""
    module = model.module.requires_grad_(True)
    photos = persons.images[:PHOTOS].to(DEVICE)
    clean, alpha = photos.float() / 255, A / 255
    veil, momentum = torch.rand(1, 3, 112, 112, device=DEVICE), torch.zeros(1, 3, 112, 112, device=DEVICE)
    for _ in range(steps):
        veil.requires_grad_(True)
        hull = F.normalize(module((clean - 0.5) / 0.5))
        protected = alpha * clean + (1 - alpha) * veil
        features = F.normalize(module((protected - 0.5) / 0.5))
        points = torch.stack([nearest(hull, f) for f in features])
        loss = (features - points).square().sum(1).mean()
        loss = loss - LAM * (protected - clean).flatten(1).norm(dim=1).mean()
        loss = loss + MU * reference.block_variance(protected.mean(0, keepdim=True)).mean()
        loss.backward()
        with torch.no_grad():
            gradient = veil.grad / veil.grad.abs().mean()
            momentum += gradient
            veil = (veil - STEP * momentum.sign()).clamp(0, 1)
        module.zero_grad()
    module.requires_grad_(False)


@functools.cache
def strong_module(name: str):
    """Folded, in channels_last (and bfloat16 on a GPU), compiled with its parameters frozen."""
    module = fuse(network(name).module).requires_grad_(False).to(memory_format=torch.channels_last)
    module = module.to(DEVICE, torch.bfloat16) if ON_GPU else module
    return compiled(module)


def strong(name: str, persons: vk.People) -> None:
    module, count = strong_module(name), len(persons)
    kind = torch.bfloat16 if ON_GPU else torch.float32

    def embed(x):
        x = ((x - 0.5) / 0.5).to(kind).contiguous(memory_format=torch.channels_last)
        return F.normalize(module(x).float())

    photos, alpha = persons.images.to(DEVICE).view(count, PHOTOS, 3, 112, 112), A / 255
    with torch.no_grad():
        pieces = (photos.flatten(0, 1).float() / 255).split(count)
        centre = torch.cat([embed(piece) for piece in pieces]).view(count, PHOTOS, -1).mean(1)
    veil, momentum = torch.rand(count, 3, 112, 112, device=DEVICE), torch.zeros(count, 3, 112, 112, device=DEVICE)
    for step in range(STEPS):
        chosen = photos[:, step % PHOTOS]
        protected = (alpha * chosen.float() / 255 + (1 - alpha) * veil).requires_grad_()
        loss = (embed(protected) - centre).square().sum()
        moved(veil, momentum, torch.autograd.grad(loss, protected)[0], chosen)
    with torch.no_grad():  # what is reported of the finished veils
        hidden = alpha * photos.float() / 255 + (1 - alpha) * (255 * veil).round()[:, None] / 255
        for piece in hidden.flatten(0, 1).split(count):
            embed(piece)


def rivals(name: str) -> dict:
    model, persons = network(name), people(PEOPLE)
    calls = {
        "veilkern": functools.partial(ours, model, persons, "blend"),
        "veilkern_sealed": functools.partial(ours, model, persons, "sealed"),
        "veilkern_bfloat16": functools.partial(ours, model, persons, "blend", "bfloat16"),
        "eager_naive": functools.partial(naive, network(name), persons, 1),
        "compile_strong": functools.partial(strong, name, persons),
    }
    return {rival: call for rival, call in calls.items() if rival in NAMES}


def case(name: str) -> Case:
    steps = PEOPLE * STEPS  # image-steps
    words = f"{name}, {PEOPLE} people, {STEPS} steps of one photo"
    return Case(words, steps, functools.partial(rivals, name), NAMES, part={"eager_naive": steps / PHOTOS})


CASES = [case(name) for name in NETWORKS]
test_craft = compare("craft", CASES)


def row_of(made: Case) -> dict:
    """Image-steps a second of each, from one interleaved run, and how many times as fast ours is."""
    found = (interleaved_on_gpu if ON_GPU else interleaved)(made.rivals(), rounds=3)
    times = {name: t * made.part.get(name, 1.0) for name, t in found.items()}
    row = {"op": "craft", "size": made.size}
    row |= {f"{name}_image_steps_s": round(made.moved / t, 2) for name, t in times.items()}
    ours = times["veilkern"]
    return row | {f"x_{name}": round(t / ours, 2) for name, t in times.items() if name != "veilkern"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=NETWORKS, action="append")
    parser.add_argument("--out", type=Path, help="append JSON lines here")
    options = parser.parse_args()
    for name in options.only or NETWORKS:
        started = time.monotonic()
        row = row_of(case(name)) | {"took_s": round(time.monotonic() - started)}
        print("  ".join(f"{k} {v}" for k, v in row.items()), flush=True)
        if options.out is not None:
            with options.out.open("a") as file:
                file.write(json.dumps(row | machine()) + "\n")


if __name__ == "__main__":
    main()
