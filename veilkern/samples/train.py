"""Train the embedded network on synthetic people: `python -m veilkern.samples.train` (20 to 30 minutes on 2 cores).

CosFace (large-margin cosine loss) over people drawn from one seed; judged on 200 people of another seed that training
never sees: rank-1 of every photo against one template (the first photo) of each person. Writes the weights in half
precision with the result in the file's metadata.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save

from veilkern.data.files import atomic_write
from veilkern.samples.faces import synthetic_people
from veilkern.samples.network import SampleNet

TRAIN_SEED, UNSEEN_SEED = 11, 12


def rank1(net: SampleNet, images: torch.Tensor, people: int) -> float:
    """Share of photos (all but each person's first) whose nearest template is the right person's."""
    with torch.inference_mode():
        features = torch.cat([F.normalize(net(batch / 127.5 - 1)) for batch in images.split(256)])
    features = features.view(people, -1, features.shape[1])
    scores = features[:, 1:] @ features[:, 0].T
    return (scores.argmax(2) == torch.arange(people)[:, None]).double().mean().item()


def train(
    people: int,
    photos: int,
    epochs: int,
    out: Path,
    batch: int = 128,
    margin: float = 0.3,
    scale: float = 24.0,
    judged: int = 200,
) -> float:
    """Train, print a line an epoch, write `out`; returns the rank-1 on unseen people."""
    torch.manual_seed(0)
    started = time.monotonic()
    train_set = synthetic_people(people, photos, TRAIN_SEED)
    images, labels = train_set.images, train_set.rows
    unseen = synthetic_people(judged, 10, UNSEEN_SEED).images
    print(f"rendered {len(images)} photos of {people} people in {time.monotonic() - started:.0f} s", flush=True)
    net = SampleNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    centres = torch.nn.Parameter(torch.randn(people, 128) * 0.1)
    optimiser = torch.optim.AdamW([{"params": net.parameters()}, {"params": [centres]}], lr=1, weight_decay=0.01)
    steps = len(images) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, epochs * steps, pct_start=0.15)
    for epoch in range(epochs):
        net.train()
        total = 0.0
        for index in torch.randperm(len(images))[: steps * batch].view(steps, batch):
            x = images[index].to(memory_format=torch.channels_last) / 127.5 - 1
            x = torch.where(torch.rand(batch, 1, 1, 1) < 0.5, x, x.flip(3))
            cosine = F.normalize(net(x)) @ F.normalize(centres).T
            loss = F.cross_entropy(scale * (cosine - margin * F.one_hot(labels[index], people)), labels[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        net.eval()
        result = rank1(net, unseen, judged)
        print(
            f"epoch {epoch + 1:2d}: loss {total / steps:.3f}, rank-1 on {judged} unseen people {result:.4f}, "
            f"{time.monotonic() - started:.0f} s",
            flush=True,
        )
        state = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
        about = {
            f"rank1_unseen_{judged}": f"{result:.4f}",
            "people": str(people),
            "photos": str(photos),
            "epochs": str(epoch + 1),
        }
        atomic_write(out, save({k: v.contiguous() for k, v in state.items()}, about))
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=1500)
    parser.add_argument("--photos", type=int, default=14)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "sample_net.safetensors")
    arguments = parser.parse_args()
    train(arguments.people, arguments.photos, arguments.epochs, arguments.out)
