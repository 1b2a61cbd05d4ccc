"""What `paper` is given: checked, labelled, divided into crafting and unseen photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from veilkern.crafting.config import CraftConfig
from veilkern.data.people import People
from veilkern.data.photos import photo_id
from veilkern.evaluate.lpips import Lpips
from veilkern.experiments.gallery import GalleryPhotos
from veilkern.experiments.titles import EXPERIMENTS
from veilkern.networks.face_model import FaceModel

UNSEEN = 10  # photos of each person that no veil is crafted on, as in the paper; half of fewer than twice that
LONGEST = 60  # characters of a label


def labelled(what: str, networks: Any) -> dict[str, FaceModel]:
    """Networks by label; those without one by their names, which are numbered where they are the same."""
    if isinstance(networks, Mapping):
        found = dict(networks)
    elif isinstance(networks, Sequence) and not isinstance(networks, str):
        found = {}
        for network in networks:
            name = str(getattr(network, "name", network))
            found[name if name not in found else f"{name} ({len(found) + 1})"] = network
    else:
        kind = type(networks).__name__
        raise TypeError(f"paper: {what} must be a sequence of FaceModels or a mapping of labels to them, got {kind}")
    for label, network in found.items():
        if not isinstance(network, FaceModel):
            raise TypeError(f"paper: {what} must be FaceModels, got {type(network).__name__} for {label}")
        if not isinstance(label, str) or not label.strip() or not label.isprintable() or len(label) > LONGEST:
            wanted = f"labels of 1 to {LONGEST} printable characters"
            raise ValueError(f"paper: {what} must have {wanted}, got {label!r}: name the network")
    return found


def check_roles(people: Any, surrogates: Mapping[str, FaceModel], targets: Mapping[str, FaceModel]) -> None:
    """TypeError, ValueError where networks and people do not fit together."""
    if not isinstance(people, People):
        raise TypeError(f"paper: people must be a People, got {type(people).__name__}")
    if not surrogates:
        raise ValueError("paper: surrogates must hold at least one network, got none")
    if both := sorted(set(surrogates) & set(targets)):
        raise ValueError(
            f"paper: targets must have other labels than surrogates, got {', '.join(both)} twice: surrogates look at "
            "the protected photos anyhow; to name a network write LABEL=NET"
        )
    size = tuple(people.images.shape[2:])
    for label, network in surrogates.items():
        if tuple(network.input.size) != size:
            raise ValueError(
                f"paper: surrogates must read photos of the size that people has, {size}; {label} reads "
                f"{tuple(network.input.size)}: read the photos in its size (--size), or let it be a target"
            )


def gallery_of(gallery: Any, people: People) -> GalleryPhotos | None:
    """The gallery as the experiments take it; None for no photos."""
    if gallery is None or isinstance(gallery, GalleryPhotos):
        return gallery
    size = list(people.images.shape[2:])
    if not isinstance(gallery, torch.Tensor) or gallery.dtype != torch.uint8 or list(gallery.shape[1:]) != [3, *size]:
        what = f"{gallery.dtype} {list(gallery.shape)}" if isinstance(gallery, torch.Tensor) else type(gallery).__name__
        raise ValueError(f"paper: gallery must be uint8 [G, 3, {size[0]}, {size[1]}], got {what}")
    return GalleryPhotos.of_images(gallery) if len(gallery) else None


def chosen(only: Any) -> tuple[str, ...]:
    """The experiments that are asked for, in the paper's order."""
    names = [only] if isinstance(only, str) else list(only)
    if unknown := [name for name in names if name not in EXPERIMENTS]:
        raise ValueError(f"paper: only must name some of {', '.join(EXPERIMENTS)}, got {', '.join(map(str, unknown))}")
    if not names:
        raise ValueError(f"paper: only must name at least one of {', '.join(EXPERIMENTS)}, got none")
    return tuple(name for name in EXPERIMENTS if name in names)


def check_numbers(count: Any, held_out: Any, steps: Any, image_specific: Any, seed: Any, lpips: Any) -> None:
    """TypeError, ValueError for numbers that mean nothing."""
    for name, value, least in (
        ("count", count, 1),
        ("held_out", held_out, 0),
        ("steps", steps, 1),
        ("image_specific", image_specific, 1),
    ):
        if value is None and name != "image_specific":
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"paper: {name} must be an integer, got {value!r}")
        if value < least:
            raise ValueError(f"paper: {name} must be {least} or more, got {value}")
    if seed is None:
        raise TypeError("paper: seed must be an integer, got None")
    CraftConfig(seed=seed)  # checks it
    if lpips is not None and not isinstance(lpips, Lpips):
        raise TypeError(f"paper: lpips must be an Lpips, got {type(lpips).__name__}")


def divided(people: People, held_out: int | None) -> tuple[People, People, int]:
    """Crafting and unseen photos, held_out as of `paper`, and how many unseen ones were left out, since their very
    pictures are among the person's crafting photos."""
    if held_out is not None:
        crafting, unseen = people.split(held_out)
    else:
        place = torch.arange(len(people.images)) - people.offsets[people.rows]
        kept = people.counts - (people.counts // 2).clamp_max(UNSEEN)
        first = place < kept[people.rows]
        crafting, unseen = people.take(first.nonzero().flatten()), people.take((~first).nonzero().flatten())
    crafted = {(crafting.names[p], photo_id(i)) for p, i in zip(crafting.rows.tolist(), crafting.images, strict=True)}
    pairs = zip(unseen.rows.tolist(), unseen.images, strict=True)
    new = [number for number, (p, image) in enumerate(pairs) if (unseen.names[p], photo_id(image)) not in crafted]
    twins = len(unseen.images) - len(new)
    return crafting, unseen.take(new) if twins else unseen, twins
