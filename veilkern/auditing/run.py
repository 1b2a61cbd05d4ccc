"""audit: every attack we know on the user's own photos, as plain numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from veilkern.auditing.attacks import ATTACKS, Attack, NotPossibleError, Output
from veilkern.auditing.case import Case
from veilkern.auditing.encryption import FieldTest, field_tests
from veilkern.auditing.inverter import learned_inverter
from veilkern.auditing.recognition import (
    Network,
    Recognition,
    features_of,
    gallery_features,
    rank1,
    recognise,
    strangers_only,
)
from veilkern.auditing.scores import Scores, score, strangers_of
from veilkern.auditing.statistics import Bootstrap
from veilkern.auditing.verdict import Row
from veilkern.data.people import People
from veilkern.evaluate.pages import plain
from veilkern.networks.ensemble import crafted_for
from veilkern.networks.face_model import FaceModel
from veilkern.progress import progress_bar
from veilkern.veils.bank import VeilBank
from veilkern.veils.sealing import MasterKeys, keyring_of

SHOWN_PEOPLE, SHOWN_BEST = 5, 3
FEW_PEOPLE = 8  # below it an interval over persons is rough
_INVERTER = (
    "inverter",
    "learned inverter",
    "other people's photos and their protected forms, and trains a small U-Net on them",
)


@dataclass(frozen=True, repr=False)
class Picture:
    """One photo under one attack, for the page: uint8 [3, H, W] each, and how alike original and output are."""

    file: str
    original: torch.Tensor
    protected: torch.Tensor
    output: torch.Tensor
    ssim: float
    contour: float


@dataclass(repr=False)
class Audit:
    """What an audit found. attacks: a Row each. recognition: of each network, the one the veils were crafted for first.
    field_tests: of the image-encryption field, none for blended photos. pictures: by attack, for `write_audit`, not in
    `as_dict`. people, photos, gallery: how many. notices: what the reader must know."""

    scheme: str
    attacks: list[Row]
    recognition: list[Recognition]
    field_tests: list[FieldTest]
    people: int
    photos: int
    gallery: int
    bank: dict[str, Any]
    notices: list[str] = field(default_factory=list)
    pictures: dict[str, list[Picture]] = field(default_factory=dict)

    def __repr__(self) -> str:  # no photo, no name
        found = ", ".join(f"{row.name}: {row.verdict}" for row in self.attacks)
        return f"Audit({self.scheme}, {self.people} people, {self.photos} photos; {found})"

    def __getitem__(self, name: str) -> Row:
        """The row of an attack by its name; KeyError names those there are."""
        for row in self.attacks:
            if row.name == name:
                return row
        raise KeyError(f"{name!r}: no such attack; there are {', '.join(row.name for row in self.attacks)}")

    def as_dict(self) -> dict[str, Any]:
        """For JSON, as docs/audit.md says; numbers that are not finite become null. No key, seed or photo is in it."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in _APART}
        rows = [dataclasses.asdict(row) | {"verdict": row.verdict, "evidence": row.evidence} for row in self.attacks]
        tests = [dataclasses.asdict(test) | {"fine": test.fine} for test in self.field_tests]
        networks = [dataclasses.asdict(one) for one in self.recognition]
        return plain(fields | {"attacks": rows, "recognition": networks, "field_tests": tests})


_APART = ("attacks", "recognition", "field_tests", "pictures")


def audit(
    model: FaceModel,
    people: People,
    bank: VeilBank,
    *,
    key: MasterKeys | None = None,
    networks: Iterable[FaceModel] = (),
    gallery: torch.Tensor | None = None,
    train_minutes: float = 0.0,
    seed: int = 0,
    progress: bool | Callable[[int, int], None] | None = None,
) -> Audit:
    """Run every attack we know on `people` (those with a veil in `bank`) and measure what it gets against chance.

    model: the network that the veils were crafted for. key: the master key of a sealed bank (or several); a bank of
    blended photos takes none. networks: others of the user's, which look at each attack's output.
    gallery: uint8 [G, 3, H, W] of other people, who may be found instead; the learned inverter learns on them too.
    train_minutes: how long that inverter may learn; 0: it is left out. seed: of every choice and of the intervals. The
    nonces of sealed photos come from the operating system, so that figures of two runs differ within their intervals.
    progress: as of `craft`.

    Raises ValueError when fewer than two people have a veil, a size does not fit, the key is missing or wrong, and
    TypeError for what is no model, people or bank; ModelError when a network answers no photo. Rows of attacks that
    need several photos of a person say so where nobody has any.
    """
    others = _checked(model, people, bank, networks, gallery, train_minutes, seed)
    if isinstance(key, Iterable) and not isinstance(key, (bytes, bytearray, str)):
        key = list(key)  # it is read several times
    ring = keyring_of("audit", bank, key)
    if ring is not None:
        ring.check()  # a wrong key is said before the work begins
    notices = _notices(model, people, bank)
    known = set(bank.names)
    chosen = people.take(torch.tensor([name in known for name in people.names])[people.rows].nonzero().flatten())
    if len(chosen) < 2:
        raise ValueError(
            "audit: people must hold at least two persons with a veil in the bank, as chance is other people's photos, "
            f"got {len(chosen)}"
        )
    chosen, clean = features_of([model, *others], chosen, notices)
    if len(chosen) < 2:
        raise ValueError("audit: the networks have features of one person's photos only; two persons are needed")
    if gallery is not None:
        gallery = strangers_only(gallery, chosen, notices)
    case = Case.of(chosen, bank, key, seed=seed, gallery=gallery, device=model.device)
    seen = _networks([model, *others], clean, gallery)
    if len(chosen) < FEW_PEOPLE:
        notices.append(f"intervals over {len(chosen)} people are rough: {FEW_PEOPLE} or more tell more")
    attacks = list(ATTACKS)
    if train_minutes:
        attacks.append(Attack(*_INVERTER, lambda case: learned_inverter(case, train_minutes)))
    # Of each attack the AUC of SSIM, contour and |contour|, and rank-1 of each other network, are held against chance.
    bootstrap = Bootstrap(len(chosen), seed, looks=len(attacks) * (3 + len(others)))
    strangers, rows, pictures = strangers_of(case), [], {}
    with progress_bar(progress, len(attacks) + len(seen) + 1, "attacks") as bar:
        for attack in attacks:
            row, shown = _row(attack, case, seen[1:], strangers, bootstrap)
            rows.append(row)
            pictures[attack.name] = shown
            bar.advance()
        recognition = []
        for network in seen:
            recognition.append(recognise(case, network, strangers, bootstrap))
            bar.advance()
        tests = field_tests(case)
        bar.advance()
    count = 0 if gallery is None else len(gallery)
    return Audit(
        bank.scheme, rows, recognition, tests, len(chosen), len(case.rows), count, _about(bank), notices, pictures
    )


def _row(
    attack: Attack, case: Case, networks: list[Network], strangers: torch.Tensor, bootstrap: Bootstrap
) -> tuple[Row, list[Picture]]:
    """One attack, measured; and its pictures."""
    row = Row(attack.name, attack.title, attack.knows, attack.keeps_veil)
    try:
        output = attack.run(case)
    except NotPossibleError as why:
        return dataclasses.replace(row, not_possible=str(why)), []
    found = score(case, output, strangers)
    persons, targets = case.people.rows[output.photos], case.people.rows[strangers[output.photos]]
    own, pairs = (persons,), (persons[:, None].expand_as(targets).flatten(), targets.flatten())
    for name, mine, theirs in (
        ("ssim", found.ssim, found.ssim_others),
        ("contour", found.contour, found.contour_others),
        ("contour_size", found.contour.abs(), found.contour_others.abs()),
    ):
        setattr(row, name, bootstrap.mean(mine, *own))
        setattr(row, f"{name}_others", bootstrap.mean(theirs.flatten(), *pairs))
        setattr(row, f"auc_{name}", bootstrap.auc(mine, persons, theirs, targets))
    row.photos, row.people, row.variant = len(output.photos), len(persons.unique()), found.best
    for network in networks:
        row.rank1[network.name] = rank1(case, network, output, found.best, bootstrap)
        row.chance[network.name] = 1 / (len(case.people) + len(network.gallery))
    return row, _pictures(case, output, found)


def _pictures(case: Case, output: Output, found: Scores) -> list[Picture]:
    """The photos of most SSIM above chance, then one of each of some persons: the same ones for each attack."""
    above = found.ssim - found.ssim_others.mean(1)
    persons = case.people.rows[output.photos]
    spread = torch.linspace(0, len(case.people) - 1, min(SHOWN_PEOPLE, len(case.people))).round().long().tolist()
    last = [int(at[-1]) for p in spread if len(at := (persons == p).nonzero().flatten())]
    best = above.argsort(descending=True)[:SHOWN_BEST].tolist()
    images = output.variants[found.best]
    return [
        Picture(
            case.people.files[photo := int(output.photos[at])],
            case.people.images[photo],
            case.protected[photo],
            images[at],
            found.ssim[at].item(),
            found.contour[at].item(),
        )
        for at in dict.fromkeys(best + last)
    ]


def _networks(models: list[FaceModel], clean: list[torch.Tensor], gallery: torch.Tensor | None) -> list[Network]:
    """The networks under names that differ; the first is the one that the veils were crafted for."""
    found: list[Network] = []
    taken: set[str] = set()
    for number, (model, features) in enumerate(zip(models, clean, strict=True)):
        name, count = model.name, 1
        while name in taken:
            count += 1
            name = f"{model.name} ({count})"
        taken.add(name)
        found.append(Network(name, model, features, gallery_features(model, gallery, features), number == 0))
    return found


def _checked(
    model: FaceModel,
    people: People,
    bank: VeilBank,
    networks: Iterable[FaceModel],
    gallery: torch.Tensor | None,
    train_minutes: float,
    seed: int,
) -> list[FaceModel]:
    """The other networks, all arguments being what they should be."""
    for name, value, kind in (("model", model, FaceModel), ("people", people, People), ("bank", bank, VeilBank)):
        if not isinstance(value, kind):
            raise TypeError(f"audit: {name} must be a {kind.__name__}, got {type(value).__name__}")
    others = list(networks)
    for one in others:
        if not isinstance(one, FaceModel):
            raise TypeError(f"audit: networks must be FaceModels, got {type(one).__name__}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"audit: seed must be an integer 0..{2**32 - 1}, got {seed!r}")
    if not isinstance(train_minutes, (int, float)) or not 0 <= train_minutes < math.inf:
        raise ValueError(f"audit: train_minutes must be 0 or more, got {train_minutes!r}")
    size = tuple(people.images.shape[2:])
    if bank.size != size:
        raise ValueError(f"audit: the bank's veils are {_by(bank.size)}, the photos of people {_by(size)}")
    for one in (model, *others):
        if tuple(one.input.size) != size:
            raise ValueError(f"audit: {one.name} reads photos of {_by(one.input.size)}, people has {_by(size)}")
    if gallery is not None and (gallery.dtype != torch.uint8 or tuple(gallery.shape[1:]) != (3, *size)):
        raise ValueError(
            f"audit: gallery must be uint8 [G, 3, {size[0]}, {size[1]}] as the photos of people are, got "
            f"{gallery.dtype} {list(gallery.shape)}"
        )
    return others


def _by(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"


def _notices(model: FaceModel, people: People, bank: VeilBank) -> list[str]:
    notices = []
    if not crafted_for(bank.model, model):
        notices.append(
            f"the veils were crafted for another network ({bank.model.get('name') or 'not recorded'}) than this one "
            f"({model.name})"
        )
    if missing := sorted(set(people.names) - set(bank.names)):
        notices.append(f"no veil, left out: {', '.join(missing)}")
    return notices


def _about(bank: VeilBank) -> dict[str, Any]:
    """What an audit says of a bank: no key, no seed, no record."""
    found = {"people": len(bank), "scheme": bank.scheme, "version": bank.version, "model": bank.model.get("name")}
    return found | ({"levels": bank.levels, "rounds": bank.rounds} if bank.levels else {"blend": bank.blend})
