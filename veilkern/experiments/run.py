"""paper: the paper's experiments, each after the other, from cells that are kept as they are found."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from veilkern import __version__
from veilkern.data.files import atomic_write, locked, make_folder
from veilkern.data.people import People
from veilkern.errors import ModelError, OutputError
from veilkern.evaluate.lpips import Lpips
from veilkern.evaluate.pages import plain
from veilkern.experiments import another_person, cost, fig3, fig4, fig6, fig7, subspace, table1, table2, table3
from veilkern.experiments.arguments import check_numbers, check_roles, chosen, divided, gallery_of, labelled
from veilkern.experiments.compare import claims, comparisons
from veilkern.experiments.gallery import GalleryPhotos
from veilkern.experiments.lab import Lab, resized
from veilkern.experiments.paper_says import PAPER
from veilkern.experiments.report import JSON, read, render
from veilkern.experiments.store import Store
from veilkern.experiments.titles import EXPERIMENTS
from veilkern.networks.diagnosis import diagnose
from veilkern.networks.face_model import FaceModel
from veilkern.threads import using_threads

MODULES: dict[str, ModuleType] = dict(
    zip(EXPERIMENTS, (table1, table2, table3, fig3, fig4, fig6, fig7, cost, subspace, another_person), strict=True)
)
CHECKED = 32  # people that the networks are checked on: the first ones
# What paper.json must be of for its experiments to be kept.
SAME = ("veilkern", "machine", "settings", "of", "surrogates", "targets", "networks", "lpips")
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
    check: bool = True,
    overwrite: bool = False,
    threads: int | None = None,
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Run the paper's experiments on these photos and networks; write paper.json, tables.md, report.html, plots and
    pictures into `out`, and return what is in paper.json.

    surrogates: the networks that veils are crafted for, by label (or by their own names); targets: more networks that
    look at the protected photos, beside the surrogates, which all do. Photos have the surrogates' size; for a target of
    another they are resized. gallery: uint8 photos [G, 3, H, W] of other people, or GalleryPhotos of any number. only:
    which of EXPERIMENTS. count: the first so many people. held_out: how many of each person's last photos no veil is
    crafted on; None: 10, or half where there are fewer than 20. steps: bounds the steps of every craft. image_specific:
    photos that methods which craft each photo for itself are tried on. seed: everything drawn follows from it. lpips:
    None: not measured. check: refuse a surrogate that does not tell these people apart, and note a target that does
    not. tell: called with what begins.

    What was found is kept in out/cells, by what it follows from: a run that was interrupted goes on where it was, and
    one with more experiments makes those alone. paper.json of other photos, networks, settings or machine is an
    OutputError, unless `overwrite`. What cannot be crafted is left out, and told in the notes. Raises TypeError,
    ValueError, ModelError for wrong arguments and networks that fail.
    """
    surrogates, targets = labelled("surrogates", surrogates), labelled("targets", targets)
    check_roles(people, surrogates, targets)
    check_numbers(count, held_out, steps, image_specific, seed, lpips)
    wanted, photos = chosen(only), gallery_of(gallery, people)
    if count is not None:
        people = people.take((people.rows < count).nonzero().flatten())
    crafting, unseen, twins = divided(people, held_out)
    notes = [OTHERS] if lpips is not None else [OTHERS, NO_LPIPS]
    if twins:
        notes.append(f"{twins} unseen photos are the same pictures as crafting ones: left out.")
    folder = make_folder(out)
    tell = tell or (lambda what: None)
    with locked(folder / JSON), using_threads(threads) as threads:
        if check:
            notes += check_networks(people, surrogates, targets)
        store = Store(folder / "cells")
        lab = Lab(
            surrogates, targets, crafting, unseen, photos, store, seed, steps, image_specific, lpips, tell, threads
        )
        return _Paper(lab, folder, overwrite, notes).run(wanted)


def check_networks(people: People, surrogates: Mapping[str, FaceModel], targets: Mapping[str, FaceModel]) -> list[str]:
    """Whether each network tells these people (the first ones) apart, as far as they have photos enough to say:
    ModelError of a surrogate that does not; a note of a target, since it may be there to show just that."""
    some = people.take((people.rows < CHECKED).nonzero().flatten())
    notes = []
    for label, network in {**surrogates, **targets}.items():
        try:
            diagnose(network, resized(some.images, network.input.size), some.rows)
        except ValueError:
            break  # one person, or one photo of each
        except ModelError as error:
            if label in surrogates:
                raise ModelError(f"{label}: {error} (--no-check, check=False: go on all the same)") from error
            notes.append(f"{label} is no judge of these people: {error}")
    return notes


class _Paper:
    """One run: what paper.json said before is kept where it is of the same things."""

    def __init__(self, lab: Lab, folder: Path, overwrite: bool, notes: Sequence[str]):
        self.lab, self.folder, self.notes = lab, folder, list(notes)
        self.paper: dict[str, Any] = self._head()
        before = self._before(overwrite)
        for name in EXPERIMENTS:
            self.paper[name] = _empty(name) if before is None else before[name]
        self.paper["pictures"] = [] if before is None else before["pictures"]
        self.paper["claims"] = claims({name: self.paper[name]["rows"] for name in EXPERIMENTS})

    def _before(self, overwrite: bool) -> dict[str, Any] | None:
        """paper.json as it is, where it is of the same; OutputError where it is not and may not be replaced."""
        if not (self.folder / JSON).exists():
            return None
        try:
            before = read(self.folder)
        except OutputError:
            if not overwrite:
                raise
            return None
        if all(before.get(name) == self.paper[name] for name in SAME):
            return before
        if not overwrite:
            other = ", ".join(name for name in SAME if before.get(name) != self.paper[name])
            raise OutputError(
                f"{self.folder / JSON}: is of other photos, networks or settings ({other}); choose another folder, or "
                "overwrite it (overwrite=True, --overwrite)"
            )
        return None

    def _head(self) -> dict[str, Any]:
        lab = self.lab
        settings = {"seed": lab.seed, "steps": lab.steps, "image_specific": lab.image_specific}
        return plain(
            {
                "veilkern": __version__,
                "machine": lab.machine,
                "settings": settings,
                "of": lab.about,
                "people": len(lab.crafting),
                "photos": {label: len(part.images) for label, part in lab.sets.items()},
                "gallery": len(lab.distractors(next(iter(lab.surrogates)))),
                "surrogates": list(lab.surrogates),
                "targets": list(lab.targets),
                "networks": {label: network.about() for label, network in lab.networks.items()},
                "lpips": lab.lpips_mark,
                "notes": self.notes,
            }
        )

    def run(self, wanted: Sequence[str]) -> dict[str, Any]:
        """Each experiment, and paper.json after each; the report at the end, also of what an error or Ctrl-C ended."""
        for label in self.lab.networks:  # a network that fails does so before hours of work
            for set_ in self.lab.sets:
                self.lab.clean(label, set_)
        pictures: dict[str, bytes] = {}
        done = 0
        try:
            for number, name in enumerate(wanted):
                self.lab.tell(f"{number + 1}/{len(wanted)} {MODULES[name].TITLE}")
                self.paper[name], drawn = self._one(name)
                pictures |= drawn
                named = {one for part in EXPERIMENTS for one in self.paper[part]["pictures"]}
                self.paper["pictures"] = sorted(named)
                self.paper["notes"] = self.notes + [f"Left out: {what}" for what in self.lab.failures]
                self.paper["claims"] = claims({name: self.paper[name]["rows"] for name in EXPERIMENTS})
                atomic_write(self.folder / JSON, json.dumps(self.paper, indent=1).encode())
                done += 1
        finally:
            if done:
                render(self.paper, self.folder, pictures)
        return self.paper

    def _one(self, name: str) -> tuple[dict[str, Any], dict[str, bytes]]:
        module = MODULES[name]
        rows = plain(module.rows(self.lab))
        drawn = module.pictures(self.lab) if hasattr(module, "pictures") else {}
        part = {"rows": rows, "comparison": plain(comparisons(name, rows)), "pictures": sorted(drawn)}
        return _empty(name) | part | {"why": "" if rows else "nothing to measure on these people"}, drawn


def _empty(name: str) -> dict[str, Any]:
    """An experiment that was not run."""
    about = {"title": MODULES[name].TITLE, "paper": PAPER[name], "why": "not run (--only)"}
    return about | {"rows": [], "comparison": [], "pictures": []}
