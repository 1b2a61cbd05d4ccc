"""The laboratory: people, networks and gallery of a run, the veils that were crafted, and what networks see of them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from veilkern.crafting.config import CraftConfig
from veilkern.crafting.run import craft
from veilkern.data.people import People
from veilkern.data.photos import photo_id
from veilkern.errors import BankError, ModelError, OutputError, PhotoError
from veilkern.evaluate.gallery import Gallery, build_gallery
from veilkern.evaluate.identification import identify
from veilkern.evaluate.lpips import Lpips
from veilkern.experiments.changes import change
from veilkern.experiments.gallery import GalleryPhotos
from veilkern.experiments.store import Store
from veilkern.experiments.veils import options_of
from veilkern.methods.veiled import image_steps, sealed_alike
from veilkern.networks.face_model import FaceModel
from veilkern.networks.matching import Features
from veilkern.threads import processor
from veilkern.veils.bank import VeilBank
from veilkern.veils.protect import protect, recover

SETS = ("crafting", "unseen")


@dataclass(frozen=True)
class VeilSet:
    """Veils of one kind for one surrogate. inputs: what they follow from. spent: image-steps (photos through the
    network) and seconds of the craft, of all people together, and mean feature distance of the finished veils."""

    surrogate: str
    name: str
    bank: VeilBank
    inputs: dict[str, Any]
    spent: dict[str, Any]


@dataclass
class Lab:
    """surrogates, targets: networks by their labels; surrogates read photos of one size. crafting, unseen: the photos
    that veils are crafted on, and others of the same persons. gallery: photos of other people, or none. steps: bounds
    those of every craft. image_specific: photos that methods which craft each photo for itself are tried on. tell:
    called with what is being done."""

    surrogates: dict[str, FaceModel]
    targets: dict[str, FaceModel]
    crafting: People
    unseen: People
    gallery: GalleryPhotos | None
    store: Store
    seed: int = 0
    steps: int | None = None
    image_specific: int = 4
    lpips: Lpips | None = None
    tell: Callable[[str], None] = lambda what: None
    threads: int | None = None
    failures: list[str] = field(default_factory=list)  # what could not be crafted or measured, and why
    _memory: dict[Any, Any] = field(default_factory=dict, repr=False)

    @functools.cached_property
    def sets(self) -> dict[str, People]:
        """The photos by set, without sets that have none."""
        return {label: part for label, part in zip(SETS, (self.crafting, self.unseen), strict=True) if len(part.images)}

    @functools.cached_property
    def networks(self) -> dict[str, FaceModel]:
        """All networks by label."""
        return {**self.surrogates, **self.targets}

    @functools.cached_property
    def marks(self) -> dict[str, list[str]]:
        """The photo ids of each set."""
        return {label: [photo_id(image) for image in part.images] for label, part in self.sets.items()}

    @functools.cached_property
    def about(self) -> dict[str, Any]:
        """What every cell follows from, beside its own inputs: photos and gallery by their marks, and the seed."""
        return {
            "people": {
                label: _digest([*part.names, *map(str, part.offsets.tolist()), *self.marks[label]])
                for label, part in self.sets.items()
            },
            "gallery": self.gallery.mark if self.gallery is not None else "",
            "seed": self.seed,
        }

    @functools.cached_property
    def machine(self) -> str:
        """Where this runs: seconds of another machine, or of other threads, are not told as this one's."""
        return f"{platform.machine()} {processor()}, {self.threads} threads, torch {torch.__version__}"

    @functools.cached_property
    def lpips_mark(self) -> str | bool:
        """What LPIPS is measured with; False where it is not."""
        if self.lpips is None:
            return False
        digest = hashlib.sha256()
        for part in [*(tensor for pair in self.lpips.weights for tensor in pair), *self.lpips.heads]:
            digest.update(part.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def failed(self, what: str) -> None:
        """Note what could not be crafted or measured, once."""
        if what not in self.failures:
            self.failures.append(what)
            self.tell(f"left out: {what}")

    def network_of(self, label: str) -> str:
        """The fingerprint of a network, computed once."""
        return self._once(("fingerprint", label), lambda: self.networks[label].fingerprint)

    # Veils

    def each(self, kinds: Iterable[tuple[dict[str, Any], str, dict]]) -> Iterator[tuple[dict, VeilSet]]:
        """Of each kind (the head of its rows, a name in VEILS, more fields of CraftConfig) and surrogate: the head with
        the surrogate, and the veils. What cannot be crafted is left out, and told in `failures`."""
        for head, name, more in kinds:
            for surrogate in self.surrogates:
                veiled = self.veiled(surrogate, name, **more)
                if veiled is not None:
                    yield {**head, "surrogate": surrogate}, veiled

    def veiled(self, surrogate: str, name: str, **more: Any) -> VeilSet | None:
        """The veils VEILS[name] (and more fields of CraftConfig) of all people for this surrogate; None where nobody's
        could be crafted."""
        given = options_of(name, **more)
        config = CraftConfig(**given)
        if self.steps is not None:
            config = CraftConfig(**{**given, "steps": min(self.steps, config.steps)})
        inputs = {**self.about, "surrogate": self.network_of(surrogate), "config": config.as_dict()}
        label = ", ".join([name, *(f"{field} {value}" for field, value in more.items())])
        return self._once(("veiled", str(inputs)), lambda: self._veiled(surrogate, label, config, inputs))

    def _veiled(self, surrogate: str, name: str, config: CraftConfig, inputs: dict[str, Any]) -> VeilSet | None:
        path = self.store.path("veils", inputs, ".safetensors")
        if not path.exists():  # deleted, or never there: the cell alone says nothing
            self.store.path("craft", inputs).unlink(missing_ok=True)
        try:
            spent = self.store.cell("craft", inputs, lambda: self._crafted(surrogate, name, config, path))
        except ModelError as error:
            self.failed(f"{name} veils for {surrogate}: {error}")
            return None
        for person, why in spent["failed"].items():
            self.failed(f"{name} veils for {surrogate}: {person}: {why.removeprefix('failed: ')}")
        if spent.get("machine", self.machine) != self.machine:
            spent = {**spent, "seconds": math.nan}
        with remade(path):
            return VeilSet(surrogate, name, VeilBank.load(path), inputs, spent)

    def _crafted(self, surrogate: str, name: str, config: CraftConfig, path: Path) -> dict[str, Any]:
        self.tell(f"crafting veils: {name}; for {surrogate}")
        journal = path.with_suffix(".journal")
        with contextlib.suppress(OSError):
            if not journal.stat().st_size:  # killed before its first byte: there is nothing to go on from
                journal.unlink()
        started = time.monotonic()
        resume = journal.exists()
        found = craft(
            self.surrogates[surrogate],
            self.crafting,
            config,
            key=self.key,
            progress=False,
            journal=journal,
            resume=resume,
            threads=self.threads,
        )
        seconds = time.monotonic() - started
        if not len(found.bank):
            raise ModelError(f"no veil could be crafted: {found.report[0]['status'].removeprefix('failed: ')}")
        found.bank.save(path)
        for file in (journal, journal.with_name(f".{journal.name}.lock")):
            file.unlink(missing_ok=True)
        kept = [record for record in found.report if not record["status"].startswith("failed")]
        return {
            "people": len(kept),
            "failed": {r["name"]: r["status"] for r in found.report if r not in kept},
            "image_steps": sum(image_steps(record, config) for record in found.report),
            "clean_passes": len(self.crafting.images),
            # Of a craft that was taken up again the time of the rest alone would be told.
            "seconds": math.nan if resume else seconds,
            "machine": self.machine,
            "converged": sum(r["status"] == "converged" for r in kept),
            "feature_distance": sum(r["feature_distance"] for r in kept) / len(kept),
        }

    @property
    def key(self) -> bytes:
        """The master key: from the seed, so that a run can be repeated. It keeps nothing secret."""
        return hashlib.sha256(f"veilkern paper {self.seed}".encode()).digest()

    # Photos

    def part(self, veiled: VeilSet, label: str) -> People:
        """The photos of a set of whoever has a veil."""
        people, known = self.sets[label], set(veiled.bank.names)
        if known.issuperset(people.names):
            return people
        return people.take([i for i, p in enumerate(people.rows.tolist()) if people.names[p] in known])

    def of_all(self, veils: Sequence[VeilSet | None], label: str) -> People | None:
        """The photos of a set of whoever has all of these veils (those that are None do not count); None for nobody."""
        banks = [set(veiled.bank.names) for veiled in veils if veiled is not None]
        people = self.sets[label]
        common = set(people.names).intersection(*banks) if banks else set()
        index = [i for i, p in enumerate(people.rows.tolist()) if people.names[p] in common]
        return people.take(index) if index else None

    def protected(self, veiled: VeilSet, people: People, rows: torch.Tensor | None = None, *, lossless: bool = False):
        """Protected photos of `people` under their own veils, or those of bank rows int64 [N]. Sealed ones with nonces
        from the seed, so that a run can be repeated, which nobody else may do."""
        bank = veiled.bank
        rows = bank.rows(people.names)[people.rows] if rows is None else rows
        if bank.scheme == "blend":
            return protect(people.images, bank, rows, lossless=lossless)
        return sealed_alike(self.seed, people.images, bank, rows, self.key, lossless=lossless)

    def recovered(self, veiled: VeilSet, people: People, hidden: torch.Tensor, sigma: float | None = None):
        """Photos of `people` recovered from what `protected` gave, or what became of it; sigma: of the filter."""
        rows = veiled.bank.rows(people.names)[people.rows]
        key = None if veiled.bank.scheme == "blend" else self.key
        return recover(hidden, veiled.bank, rows, key=key, gaussian_sigma=sigma)

    # What networks see

    def features(self, label: str, images: torch.Tensor, *, check: bool = True) -> torch.Tensor:
        """Features of uint8 photos in this network; where it reads another size, they are resized (bilinear, smoothed)
        and rounded, as a service that stores one size does."""
        network = self.networks[label]
        if not len(images):
            return torch.zeros(0, self.width_of(label))
        images = resized(images, network.input.size)
        return network.features(images, check=check)

    def width_of(self, label: str) -> int:
        """The number of a network's features."""
        return self.clean(label, SETS[0]).shape[1]

    def clean(self, label: str, set_: str) -> torch.Tensor:
        """Features of the clean photos of a set in this network."""
        return self._once(("clean", label, set_), lambda: self._clean(label, set_))

    def _clean(self, label: str, set_: str) -> torch.Tensor:
        people = self.sets[set_]
        found = self.features(label, people.images, check=False)
        if bad := (~found.isfinite().all(1)).nonzero().flatten().tolist():
            files = ", ".join(people.files[i] for i in bad[:5])
            raise ModelError(f"{label}: the network has no feature (NaN, infinity, zero) of {len(bad)} photos: {files}")
        return found

    def distractors(self, label: str) -> Features:
        """Features of the gallery in this network, [G, d], without pictures of the people themselves: embedded once,
        kept in the store, and read block by block."""
        return self._once(("gallery", label), lambda: self._distractors(label))

    def _distractors(self, label: str) -> Features:
        if self.gallery is None:
            return torch.zeros(0, self.width_of(label))
        path = self.store.path("gallery", {"photos": self.gallery.mark, "network": self.network_of(label)}, ".gallery")
        size = self.networks[label].input.size
        if not path.exists():
            self.tell(f"embedding the gallery in {label}")
            photos = (resized(images, size) for images in self.gallery.photos())
            build_gallery(self.networks[label], photos, path)
        # Told again by a run that does not read the photos again.
        self.gallery.tell(self.store.cell("gallery problems", {"photos": self.gallery.mark}, self.gallery.told))
        with remade(path):
            found = Gallery.load(path)
        own = (resized(people.images, size) for people in self.sets.values())
        return found.without([photo_id(image) for images in own for image in images])

    def recognition(self, target: str, people: People, hidden: torch.Tensor, set_: str) -> dict[str, list[float]]:
        """By person of `people` (of this set), of protected photos in the target network: rank1, rank5, rank10,
        own_rank1, TAR at a FAR of 1e-3 and 1e-4 and cosine, by identify; and clean_rank1, what the network reaches
        on the clean photos."""
        clean = self._clean_of(target, people, set_)
        seen = self.features(target, hidden, check=False)
        found = identify(seen, clean, people, self.distractors(target))
        names = ("rank1", "rank5", "rank10", "own_rank1", "tar_1e3", "tar_1e4", "cosine")
        values = {name: [getattr(one, name) for one in found] for name in names}
        return values | {"clean_rank1": self.clean_rank1(target, people, set_)}

    def _clean_of(self, target: str, people: People, set_: str) -> torch.Tensor:
        whole = self.sets[set_]
        clean = self.clean(target, set_)
        if people is whole:
            return clean
        known = set(people.names)
        return clean[torch.tensor([name in known for name in whole.names])[whole.rows]]

    def clean_rank1(self, target: str, people: People, set_: str) -> list[float]:
        """By person: the rank-1 rate of the clean photos themselves."""

        def made() -> list[float]:
            clean = self._clean_of(target, people, set_)
            return [one.rank1 for one in identify(clean, clean, people, self.distractors(target))]

        return self._once(("clean rank1", target, set_, tuple(people.names)), made)

    def changed(self, hidden: torch.Tensor, people: People, kind: str, level: float) -> torch.Tensor:
        """Protected photos of `people` after a change of changes.LEVELS."""
        return change(hidden, kind, level, [photo_id(image) for image in people.images], self.seed)

    def cell(self, kind: str, inputs: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> dict:
        """A cell of the store that follows from the photos too."""
        return self.store.cell(kind, {**self.about, **inputs}, make)

    def _once(self, what, make):
        if what not in self._memory:
            self._memory[what] = make()
        return self._memory[what]


@contextlib.contextmanager
def remade(path: Path) -> Iterator[None]:
    """Says of a damaged file of the store what to do about it."""
    try:
        yield
    except (BankError, PhotoError) as error:
        raise OutputError(f"{error}; delete it and it is made again") from error


def resized(images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """uint8 photos [N, 3, H, W] or [3, H, W] in this size."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    batch = images if images.ndim == 4 else images[None]
    parts = [F.interpolate(p.float(), size=tuple(size), mode="bilinear", antialias=True) for p in batch.split(64)]
    return torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in parts])


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
