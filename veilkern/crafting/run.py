"""craft: veils for many persons, batch by batch; what is finished stays finished."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from veilkern import __version__
from veilkern.crafting.batch import CLEAN_FAILED, IdentityBatch
from veilkern.crafting.batching import batches
from veilkern.crafting.config import CraftConfig
from veilkern.crafting.features import fixed_features
from veilkern.crafting.held_out import HeldOut
from veilkern.crafting.journal import Journal
from veilkern.crafting.templates import Subjects, Templates, between, counted, identified, without
from veilkern.data.files import is_plain_name, locked
from veilkern.data.people import People
from veilkern.engine import frozen
from veilkern.errors import ModelError, OutputError
from veilkern.networks.face_model import FaceModel
from veilkern.ops._checks import CARRIERS
from veilkern.progress import Progress, progress_bar
from veilkern.threads import available_cores, using_threads
from veilkern.veils import keyed
from veilkern.veils.bank import VeilBank
from veilkern.veils.compatibility import refuse_differences

_WIDTH = {"cpu": 4}  # photos in the network at a time: on a CPU more gain little, and fewer leave fewer places empty
_WIDTH_ELSEWHERE = 16
# Steps between two looks at who has ended. On a CPU a look costs nothing; elsewhere the host waits for the device at
# each, and without one the photos of whoever has ended go through the network for nothing. The veils are the same.
_LOOK = {"cpu": 1}
_LOOK_ELSEWHERE = 8
OUT_OF_MEMORY = "failed: out of memory"


@dataclass
class CraftResult:
    """bank: the veils (of everybody whose status is not `failed`). report: one dict a person, in the order of people.

    A record: name, photos, status (`converged`, `step limit`, `failed: why`), steps, feature_distance (mean D of all
    crafting photos under the finished 8-bit veil), cosine (mean, to the person's mean clean feature), visual (L_vis),
    variance (L_var), contour and contour_worst (mean and largest |rho| of the crafting photos: what a blurred eye
    still sees), total (the loss), photo_ids, generation where that is not 0, and held_out (photos, cosine, rank1)
    where such photos were given. Sealed: feature_distance and cosine are those of four drawings of the noise that
    hides a photo, whichever photo it is; there is no visual, contour or contour_worst. Where templates were given:
    templates and template_ids in place of photos and photo_ids. Where the model is an Ensemble: networks, of each of
    them the cosine, and in held_out of each the cosine and rank1.
    key: the master key when craft made it (a fresh one; where photos are sealed also that of config.seed), else None.
    notices: what went otherwise than asked for. by_autograd: "" where the engine ran the network, else why torch's
    autograd did.
    """

    bank: VeilBank
    report: list[dict[str, Any]]
    key: bytes | None = field(default=None, repr=False)
    notices: list[str] = field(default_factory=list)
    by_autograd: str = ""


class CraftInterrupted(KeyboardInterrupt):
    """Ctrl-C during craft: `.result` is the CraftResult of everybody who was finished."""

    def __init__(self, result: CraftResult):
        finished = sum(not record["status"].startswith("failed") for record in result.report)
        super().__init__(f"interrupted with {finished} of {len(result.report)} veils finished")
        self.result = result


def craft(
    model: FaceModel,
    people: People | None = None,
    config: CraftConfig | None = None,
    *,
    features: torch.Tensor | None = None,
    names: Sequence[str] | None = None,
    key: bytes | None = None,
    held_out: People | None = None,
    progress: bool | Callable[[int, int], None] | None = None,
    journal: str | os.PathLike[str] | None = None,
    resume: bool = False,
    generation: int | Mapping[str, int] = 0,
    threads: int | None = None,
) -> CraftResult:
    """Craft one veil per person of `people` for `model` (eq. 13 and L_con by MI-FGSM), many persons at a time.

    model: one network, or an `Ensemble` of several that each veil is to serve.

    features, names: in place of people, where config.scheme is `sealed`: the clean features that this network gave
    (templates), float [N, d], L2-normalised here where they are not, and the name of each one's person (a person has
    any number of them). No photo is needed, and the veils are those that the photos would give, bit for bit.
    key: master key of at least 16 bytes; each veil starts from noise keyed by it, the person's name and generation.
    None: a fresh random one (or made from config.seed), recorded in the result and, where photos are blended, in the
    bank; photos are sealed with keys made from it, so keep it apart. The same key, photos, network, version, machine
    and number of threads give the same bits, whoever else is crafted.
    held_out: other photos of the same persons, only reported on. progress: True, False, None (a bar when stderr is a
    terminal), or a function called with (persons x steps done, all).
    journal: a file that each veil is added to as soon as it is finished, so that nothing is lost however the process
    ends; as secret as the bank (0600), yours to delete once the bank is saved. A fresh key is in it too, since without
    it nobody could go on after a kill: that of sealed veils is worth more than they are, so give one of your own there
    (the command line does), which no journal holds. resume: take up the veils in that
    journal, and craft who is missing; the result is the same bit for bit. ValueError, before any work, when the
    journal was begun with another network, configuration, photo size or key.
    generation: of each person's veil (one number, or by name, 0 for whoever is not named); another generation is
    another veil under the same key. threads: on the CPU; default: what torch uses, or what the journal was begun with.
    A person who fails for whatever reason fails alone; where memory runs out, fewer persons are crafted at a time.
    Raises TypeError and ValueError for wrong arguments, ModelError when the network is unusable, OutputError when the
    journal cannot be written or another craft is at work on it, CraftInterrupted on Ctrl-C.
    """
    config = CraftConfig() if config is None else config
    subjects = _subjects(model, people, config, features, names)
    check(model, subjects, config, held_out)
    if resume and journal is None:
        raise ValueError("craft: resume needs the journal that it should take up")
    generations = generations_of(subjects, generation)
    with at_work(model, config, key, journal, resume, threads) as run:
        run.take(subjects, generations)
        return run.finish(held_out, progress)


@contextlib.contextmanager
def at_work(
    model: FaceModel,
    config: CraftConfig,
    key: bytes | None,
    journal: str | os.PathLike[str] | None,
    resume: bool,
    threads: int | None,
) -> Iterator[Run]:
    """A Run on so many threads, with its journal locked and begun, or taken up."""
    with contextlib.nullcontext() if journal is None else locked(journal):
        book = None if journal is None else Journal.take_up(journal, resume)
        if threads is None and book is not None:
            threads = min(book.header.get("threads", available_cores()), available_cores())
        with using_threads(threads) as threads:
            run = Run(model, config, key, book)
            if journal is not None and book is None:
                run.journal = Journal.create(journal, run.header | {"threads": threads})
            yield run


class Run:
    """One craft: who is finished, and what happens to who is not."""

    people: Subjects
    generations: dict[str, int]

    def __init__(self, model: FaceModel, config: CraftConfig, key: bytes | None, journal: Journal | None) -> None:
        self.model, self.journal = model, journal
        if journal is not None:
            key, config = key_of_before(str(journal.path), journal.header, key, config)
        fresh = key is None and config.seed is None
        self.key = master_key(key, config)
        fresh = fresh or (journal is not None and journal.header["key"] == self.key.hex())
        self.sealed = config.scheme == "sealed"
        made = fresh or (self.sealed and config.seed is not None)  # nothing can be sealed without it
        self.fresh_key = self.key if made else None
        self.config = config
        self.header = describe(model, model.input.size, config, self.key)
        self.header |= {"key": self.key.hex() if fresh else "", "crafted_with": __version__}
        self.width = min(_WIDTH.get(model.device.type, _WIDTH_ELSEWHERE), config.photos_in_flight)
        self.network, self.by_autograd = frozen(model, width=self.width, fingerprint=self.header["fingerprint"])
        self.stepping = self._stepping()
        self.look = _LOOK.get(model.device.type, _LOOK_ELSEWHERE)
        self.bar = Progress(0, None)
        self.records: dict[str, dict[str, Any]] = {}
        self.veils: dict[str, torch.Tensor] = {}
        self.notices: list[str] = []
        if journal is not None:
            refuse_differences(str(journal.path), journal.header, self.header)
            self.notices += journal.problems

    def _stepping(self) -> FaceModel:
        """The network that steps go through, in the precision that the configuration names."""
        if self.config.precision == "float32":
            return self.network
        kind = getattr(torch, self.config.precision)
        network, why = frozen(self.model, width=self.width, dtype=kind, fingerprint=self.header["fingerprint"])
        if why:
            wanted = f"config.precision {self.config.precision} wants a network that the engine runs"
            raise ModelError(f"{self.model.name}: {wanted}: {why}")
        return network

    def take(self, people: Subjects, generations: dict[str, int]) -> None:
        """Whom to craft next. Whoever is in the journal already is finished, as long as photos and generation are the
        same."""
        self.people, self.generations = people, generations
        journal = self.journal
        for p, name in enumerate(people.names):
            record = None if journal is None else journal.entries.get(name)
            if journal is None or record is None or record.get("generation", 0) != generations[name]:
                continue
            made_from = identified(people, p)
            if made_from.items() <= record.items():
                self.records[name], self.veils[name] = record, journal.veil(name)
            else:
                what = "templates" if "template_ids" in made_from else "photos"
                self.notices.append(f"{name}: other {what} than those the journal's veil was crafted on; crafted again")

    def finish(self, held_out: People | None, progress: bool | Callable[[int, int], None] | None) -> CraftResult:
        """Craft whoever is missing; the result of all."""
        try:
            with progress_bar(progress, len(self.people) * self.config.steps, "crafting") as self.bar:
                self.craft()
                self.refuse_nonsense()
            result = self.result()
            if held_out is not None:
                with self.judging():
                    judge = self.judge()
                    judge.see(self.people, held_out, self.veils)
                    judge.report(self.records)
        except KeyboardInterrupt as stop:
            raise CraftInterrupted(self.result()) from stop
        return result

    def craft(self) -> None:
        """Craft whoever of these persons is missing."""
        todo = without(self.people, self.records)
        self.bar.advance((len(self.people) - len(todo)) * self.config.steps)
        for first, last in batches(todo, self.config):
            self._craft(between(todo, first, last))

    def _craft(self, people: Subjects) -> None:
        """Craft these persons together; where that fails, those who were not finished in two halves, down to one."""
        before, done = self.bar.done, set[str]()
        failure = self._run_batch(people, done)
        if failure is None:
            return
        self.bar.advance(before + len(done) * self.config.steps - self.bar.done)
        left = without(people, done)
        if len(left) > 1:
            self._craft(between(left, 0, len(left) // 2))
            self._craft(between(left, len(left) // 2, len(left)))
        elif failure == OUT_OF_MEMORY and self.width > 1:
            self.width //= 2
            self.notices.append(f"out of memory: from here on {self.width} photos are in the network at a time")
            self._craft(left)
        else:
            self.bar.advance(self.config.steps)
            self._keep({"name": left.names[0], **counted(left, 0), "status": failure, "steps": 0}, None)

    def _run_batch(self, people: Subjects, done: set[str]) -> str | None:
        """Craft these persons, adding to `done` who is finished; why it failed, if it did. On return nothing holds the
        batch's tensors any more, not even an exception's frames: whoever tries again has the memory."""
        generations = [self.generations[name] for name in people.names]
        try:
            batch = IdentityBatch(
                self.network, people, self.config, self.key, generations, self.width, self.look, self.stepping
            )
            for record, veil in batch.run(self.bar):
                self._keep(record, veil)
                done.add(record["name"])
        except OutputError:  # the journal's, not the batch's
            raise
        except Exception as error:  # a network may raise anything; never Ctrl-C
            return OUT_OF_MEMORY if _is_out_of_memory(error) else f"failed: {str(error) or type(error).__name__}"
        return None

    def _keep(self, record: dict[str, Any], veil: torch.Tensor | None) -> None:
        """A person is finished: to the journal at once."""
        self.records[record["name"]] = record
        if veil is not None:
            self.veils[record["name"]] = veil
            if self.journal is not None:
                self.journal.append(record, veil)

    def refuse_nonsense(self) -> None:
        """ModelError where the network had usable features of nobody: that is no failure of each person."""
        if isinstance(self.people, Templates) or any(r["status"] != CLEAN_FAILED for r in self.records.values()):
            return
        if not bool(fixed_features(self.network, self.people.images, self.width).isfinite().any()):
            self.model.features(self.people.images[:1])  # raises with the cause

    def result(self) -> CraftResult:
        """Everybody so far, in the order of people."""
        interrupted = {"status": "failed: interrupted", "steps": 0}
        report = [self.records.get(name, {"name": name, **interrupted}) for name in self.people.names]
        names = [name for name in self.people.names if name in self.veils]
        empty = torch.zeros((0, 3, *self.header["size"]), dtype=torch.uint8)
        veils = torch.stack([self.veils[name] for name in names]) if names else empty
        bank = VeilBank(veils, names, records=[self.records[name] for name in names], **self.about_bank())
        return CraftResult(bank, report, self.fresh_key, self.notices, self.by_autograd)

    def about_bank(self) -> dict[str, Any]:
        """What VeilBank takes of a bank as a whole."""
        return {
            "blend": self.config.blend,
            "model": {"name": self.model.name}
            | {k: self.header[k] for k in ("fingerprint", "members") if k in self.header},
            "config": self.config.as_dict(),
            "key_id": self.header["key_id"],
            "key": "" if self.sealed else self.header["key"],
            "version": __version__,
            "levels": self.config.levels if self.sealed else 0,
            "rounds": self.config.rounds,
        }

    def judge(self) -> HeldOut:
        """What looks at photos that were held out."""
        return HeldOut(self.network, self.config, self.key, self.width)

    @contextlib.contextmanager
    def judging(self) -> Iterator[None]:
        """A network or memory that gives out inside costs no veil."""
        try:
            yield
        except (ModelError, RuntimeError, MemoryError) as error:
            self.notices.append(f"the held-out photos could not be judged: {str(error) or type(error).__name__}")


def describe(model: FaceModel, size: Sequence[int], config: CraftConfig, key: bytes | None) -> dict[str, Any]:
    """What decides whether veils may lie in one bank, as a journal's header has it. key None: that of config.seed, and
    without a seed a key that is still to be made, which has no id."""
    if key is None and config.seed is not None:
        key = master_key(None, config)
    about = model.about()
    return {
        "network": about.pop("name"),
        **about,
        "size": list(size),
        "config": config.as_dict(),
        "key_id": "" if key is None else keyed.key_id(key),
    }


def key_of_before(
    where: str, before: dict[str, Any], key: bytes | None, config: CraftConfig
) -> tuple[bytes | None, CraftConfig]:
    """Key and configuration to go on with `before` (key, key_id and config as in a journal's header): those given, or
    where neither a key nor a seed is given those of before. ValueError when only its owner has that key."""
    if key is not None or config.seed is not None:
        return key, config
    if before["key"]:
        return bytes.fromhex(before["key"]), config
    if before["config"].get("seed") is not None:
        return None, dataclasses.replace(config, seed=before["config"]["seed"])
    raise ValueError(
        f"{where}: crafted with a key of your own (key id {before['key_id']}), which is needed to go on: give it (key, "
        "--key-file)"
    )


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: Python's, the device's, or torch's on the CPU, which is a RuntimeError like others."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)


def _subjects(
    model: FaceModel,
    people: People | None,
    config: CraftConfig,
    features: torch.Tensor | None,
    names: Sequence[str] | None,
) -> Subjects:
    """Whom to craft for: people, or templates in their place."""
    if features is None and names is None:
        return people  # type: ignore[return-value]  # check() refuses None
    if people is not None:
        raise ValueError("craft: give people or features with names, not both")
    if features is None or names is None:
        raise ValueError(f"craft: {'features' if features is None else 'names'} must be given too, got none")
    if isinstance(config, CraftConfig) and config.scheme != "sealed":
        raise ValueError("craft: features without photos make sealed veils only: config.scheme must be sealed")
    return Templates.of(features, names)


def _check_templates(model: FaceModel, templates: Templates) -> None:
    black = torch.zeros((1, 3, *model.input.size), dtype=torch.uint8)
    wanted = model.features(black, check=False).shape[1]
    if templates.features.shape[1] != wanted:
        raise ValueError(
            f"craft: features must be [N, {wanted}], as {model.name} gives them, got {list(templates.features.shape)}"
        )


def check_kinds(model: object, config: object) -> None:
    for name, value, kind in (("model", model, FaceModel), ("config", config, CraftConfig)):
        if not isinstance(value, kind):
            raise TypeError(f"craft: {name} must be a {kind.__name__}, got {type(value).__name__}")


def check(model: FaceModel, people: Subjects, config: CraftConfig, held_out: People | None) -> None:
    check_kinds(model, config)
    if not isinstance(people, (People, Templates)):
        raise TypeError(f"craft: people must be a People, got {type(people).__name__}")
    if not len(people):
        raise ValueError("craft: people must hold at least one person, got none")
    if bad := [name for name in people.names if not is_plain_name(name)]:
        raise ValueError(f"craft: people.names must be plain folder names (no path separators), got {bad[:5]}")
    if isinstance(people, Templates):
        _check_templates(model, people)
    elif tuple(people.images.shape[2:]) != model.input.size:
        raise ValueError(
            f"craft: the network wants photos of {model.input.size}, people has {tuple(people.images.shape[2:])}"
        )
    if min(model.input.size) < max(config.block):
        raise ValueError(f"craft: config.block must fit the photos, got {config.block}")
    if config.scheme == "sealed" and (values := 3 * math.prod(model.input.size)) < CARRIERS:
        raise ValueError(f"craft: photos of {CARRIERS} values at least can be sealed, the network's have {values}")
    if held_out is not None and (unknown := sorted(set(held_out.names) - set(people.names))):
        raise ValueError(f"craft: held_out must hold photos of the same persons, got {', '.join(unknown[:5])} besides")


def generations_of(people: Subjects, given: int | Mapping[str, int]) -> dict[str, int]:
    """The generation of each of these persons."""
    known = given if isinstance(given, Mapping) else dict.fromkeys(people.names, given)
    return {name: _check_generation(known.get(name, 0)) for name in people.names}


def _check_generation(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"craft: generation must be an integer, 0 or more, got {value!r}")
    return value


def master_key(key: bytes | None, config: CraftConfig) -> bytes:
    """The key given, that of config.seed, or a fresh one."""
    if key is not None:
        if config.seed is not None:
            raise ValueError("craft: give a key or config.seed, not both")
        return keyed.check_key(key)
    if config.seed is not None:
        return keyed.hkdf_sha256(config.seed.to_bytes(8, "little"), b"seed", 32)
    return keyed.fresh_key()
