"""paper: the paper's experiments, each after the other, from cells that are kept as they are found."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from veilkern import __version__
from veilkern.data.files import atomic_write, locked, make_folder
from veilkern.data.people import People
from veilkern.errors import OutputError
from veilkern.evaluate.lpips import Lpips
from veilkern.experiments import another_person, cost, fig3, fig4, fig6, fig7, subspace, table1, table2, table3
from veilkern.experiments.compare import claims, comparisons
from veilkern.experiments.gallery import GalleryPhotos
from veilkern.experiments.lab import Lab
from veilkern.experiments.paper_says import PAPER
from veilkern.experiments.report import JSON, read, render
from veilkern.experiments.store import Store, plain
from veilkern.experiments.titles import EXPERIMENTS
from veilkern.networks.face_model import FaceModel
from veilkern.threads import using_threads

MODULES: dict[str, ModuleType] = dict(
    zip(EXPERIMENTS, (table1, table2, table3, fig3, fig4, fig6, fig7, cost, subspace, another_person), strict=True)
)
UNSEEN = 10  # photos of each person that no veil is crafted on, as in the paper; half of fewer than twice that
OTHERS = (
    "The photos and networks are not the paper's (400 celebrities, ResNet-50 fine-tuned on them), so no figure here "
    "repeats one of its own. `paper` is eq. 13 as printed; `ours` is this library's default of the same scheme; "
    "`sealed` hides the photo's share by encryption. Crafting and unseen photos are never mixed."
)
NO_LPIPS = "LPIPS was not measured: it wants AlexNet's weights, which no package holds (--lpips FILE)."


def paper(
    people: People,
    surrogates: Mapping[str, FaceModel] | Sequence[FaceModel],
    targets: Mapping[str, FaceModel] | Sequence[FaceModel] = (),
    *,
    out: str | Path,
    gallery: torch.Tensor | GalleryPhotos | None = None,
    only: Sequence[str] = EXPERIMENTS,
    count: int | None = None,
    held_out: int | None = None,
    steps: int | None = None,
    image_specific: int = 4,
    seed: int = 0,
    lpips: Lpips | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    tell: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Run the paper's experiments on these photos and networks; write paper.json, tables.md, report.html, plots and
    pictures into `out`, and return what is in paper.json.

    surrogates: the networks that veils are crafted for, by label (or by their own names); targets: more networks that
    look at the protected photos, beside the surrogates, which all do. Photos have the surrogates' size; for a target of
    another they are resized. gallery: uint8 photos [G, 3, H, W] of other people, or GalleryPhotos of any number. only:
    which of EXPERIMENTS. count: the first so many people. held_out: how many of each person's last photos no veil is
    crafted on; None: 10, or half where there are fewer than 20. steps: bounds the steps of every craft. image_specific:
    photos that methods which craft each photo for itself are tried on. seed: everything drawn follows from it. lpips:
    None: not measured. tell: called with what begins.

    What was found is kept in out/cells, by what it follows from: a run that was interrupted goes on where it was, and
    one with more experiments makes those alone. paper.json of other photos, networks or settings is an OutputError,
    unless `overwrite`. Raises TypeError, ValueError, ModelError for wrong arguments and networks that fail.
    """
    surrogates, targets = _labelled("surrogates", surrogates), _labelled("targets", targets)
    _check(people, surrogates, targets, gallery, only, count, held_out, image_specific)
    if count is not None:
        people = people.take((people.rows < count).nonzero().flatten())
    folder = make_folder(out)
    with locked(folder / JSON), using_threads(threads) as threads:
        crafting, unseen = divided(people, held_out)
        photos = GalleryPhotos.of_images(gallery) if isinstance(gallery, torch.Tensor) else gallery
        store = Store(folder / "cells")
        lab = Lab(
            surrogates, targets, crafting, unseen, photos, store, seed, steps, image_specific, lpips, tell, threads
        )
        done = _Paper(lab, folder, overwrite)
        return done.run([name for name in EXPERIMENTS if name in only])


class _Paper:
    """One run: what paper.json said before is kept where it is of the same things."""

    def __init__(self, lab: Lab, folder: Path, overwrite: bool):
        self.lab, self.folder = lab, folder
        self.paper: dict[str, Any] = self._head()
        before = read(folder) if (folder / JSON).exists() else None
        same = before is not None and all(
            before.get(k) == self.paper[k] for k in ("settings", "networks", "of", "lpips")
        )
        if before is not None and not same and not overwrite:
            raise OutputError(
                f"{folder / JSON}: is of other photos, networks or settings; choose another folder, or overwrite it "
                "(overwrite=True, --overwrite)"
            )
        for name in EXPERIMENTS:
            self.paper[name] = before[name] if same and before is not None else _empty(name)
        self.paper["pictures"] = before["pictures"] if same and before is not None else []

    def _head(self) -> dict[str, Any]:
        lab = self.lab
        notes = [OTHERS] if lab.lpips is not None else [OTHERS, NO_LPIPS]
        settings = {"seed": lab.seed, "steps": lab.steps, "image_specific": lab.image_specific}
        return plain(
            {
                "veilkern": __version__,
                "machine": f"{platform.machine()}, {lab.threads} threads, torch {torch.__version__}",
                "settings": settings,
                "of": lab.about,
                "people": len(lab.crafting),
                "photos": {label: len(part.images) for label, part in lab.sets.items()},
                "gallery": len(lab.distractors(next(iter(lab.surrogates)))),
                "surrogates": list(lab.surrogates),
                "networks": {label: network.about() for label, network in lab.networks.items()},
                "lpips": lab.lpips is not None,
                "notes": notes,
            }
        )

    def run(self, wanted: Sequence[str]) -> dict[str, Any]:
        """Each experiment, and paper.json after each; the report at the end."""
        for label in self.lab.networks:  # a network that fails does so before hours of work
            for set_ in self.lab.sets:
                self.lab.clean(label, set_)
        pictures: dict[str, bytes] = {}
        for number, name in enumerate(wanted):
            self.lab.tell(f"{number + 1}/{len(wanted)} {MODULES[name].TITLE}")
            self.paper[name], drawn = self._one(name)
            pictures |= drawn
            self.paper["pictures"] = sorted({*self.paper["pictures"], *drawn})
            self.paper["claims"] = claims({name: self.paper[name]["rows"] for name in EXPERIMENTS})
            atomic_write(self.folder / JSON, json.dumps(self.paper, indent=1).encode())
        render(self.paper, self.folder, pictures)
        return self.paper

    def _one(self, name: str) -> tuple[dict, dict[str, bytes]]:
        module = MODULES[name]
        rows = plain(module.rows(self.lab))
        drawn = module.pictures(self.lab) if hasattr(module, "pictures") else {}
        part = {"rows": rows, "comparison": plain(comparisons(name, rows)), "pictures": sorted(drawn)}
        return _empty(name) | part | {"why": "" if rows else "nothing to measure on these people"}, drawn


def _empty(name: str) -> dict[str, Any]:
    """An experiment that was not run."""
    about = {"title": MODULES[name].TITLE, "paper": PAPER[name], "why": "not run (--only)"}
    return about | {"rows": [], "comparison": [], "pictures": []}


def divided(people: People, held_out: int | None) -> tuple[People, People]:
    """Crafting and unseen photos; held_out as of `paper`."""
    if held_out is not None:
        return people.split(held_out)
    place = torch.arange(len(people.images)) - people.offsets[people.rows]
    kept = people.counts - (people.counts // 2).clamp_max(UNSEEN)
    first = place < kept[people.rows]
    return people.take(first.nonzero().flatten()), people.take((~first).nonzero().flatten())


def _labelled(what: str, networks) -> dict[str, FaceModel]:
    """Networks by label; those without one by their names, which are numbered where they are the same."""
    if isinstance(networks, Mapping):
        found = dict(networks)
    else:
        found = {}
        for network in networks:
            name = getattr(network, "name", str(network))
            found[name if name not in found else f"{name} ({len(found) + 1})"] = network
    for label, network in found.items():
        if not isinstance(network, FaceModel):
            raise TypeError(f"paper: {what} must be FaceModels, got {type(network).__name__} for {label}")
    return found


def _check(people, surrogates, targets, gallery, only, count, held_out, image_specific) -> None:
    if not isinstance(people, People):
        raise TypeError(f"paper: people must be a People, got {type(people).__name__}")
    if not surrogates:
        raise ValueError("paper: surrogates must hold at least one network, got none")
    if both := sorted(set(surrogates) & set(targets)):
        raise ValueError(f"paper: targets must have other labels than surrogates, got {', '.join(both)} twice")
    size = tuple(people.images.shape[2:])
    for label, network in surrogates.items():
        if tuple(network.input.size) != size:
            raise ValueError(
                f"paper: surrogates must read photos of {size} as people has, {label} reads {network.input.size}"
            )
    if isinstance(gallery, torch.Tensor) and (gallery.dtype != torch.uint8 or tuple(gallery.shape[1:]) != (3, *size)):
        raise ValueError(
            f"paper: gallery must be uint8 [G, 3, {size[0]}, {size[1]}], got {gallery.dtype} {list(gallery.shape)}"
        )
    if unknown := [name for name in only if name not in EXPERIMENTS]:
        raise ValueError(f"paper: only must name some of {', '.join(EXPERIMENTS)}, got {', '.join(map(str, unknown))}")
    if not only:
        raise ValueError(f"paper: only must name at least one of {', '.join(EXPERIMENTS)}, got none")
    for name, value, least in (("count", count, 1), ("held_out", held_out, 0), ("image_specific", image_specific, 1)):
        if value is not None and value < least:
            raise ValueError(f"paper: {name} must be {least} or more, got {value}")
