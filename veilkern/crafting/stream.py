"""craft_stream: veils for more people than memory holds, in the memory of one batch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from veilkern.crafting.batching import Filling
from veilkern.crafting.config import CraftConfig
from veilkern.crafting.run import CraftInterrupted, CraftResult, Run, at_work, check, check_kinds, generations_of
from veilkern.crafting.templates import between
from veilkern.data.files import Buffer, atomic_write, locked
from veilkern.data.people import People
from veilkern.errors import OutputError
from veilkern.networks.face_model import FaceModel
from veilkern.progress import progress_bar
from veilkern.veils import bank_file
from veilkern.veils.bank import VeilBank

ENOUGH = 32  # people without usable features, and nobody with some: it is the network


def craft_stream(
    model: FaceModel,
    people: Iterable[People],
    config: CraftConfig | None = None,
    *,
    out: str | os.PathLike[str],
    key: bytes | None = None,
    progress: bool | Callable[[int, int], None] | None = None,
    resume: bool = False,
    generation: int | Mapping[str, int] = 0,
    threads: int | None = None,
    held_out: int = 0,
) -> CraftResult:
    """Craft one veil per person of a stream and write them to the bank `out`: `craft`, for any number of people.

    people: any iterable of People, each of one person or some, such as `iter_people(folder)`; a person comes whole and
    once (who comes again is passed over, with a notice). Persons of several items are crafted together. No more of the
    stream is taken than fills a batch (CraftConfig.photos_in_flight): memory holds the photos of one batch, one item
    that did not fit any more, and of each person the record, about 1 kB. Veils go to the journal beside `out`
    (`out`.journal) as they are finished, and from there into the bank, byte by byte what `craft` on all of them would
    save, in the order of the stream.
    resume: go on with that journal: give the same stream, whose finished persons are passed over. progress: as for
    `craft`; steps are counted for the people who have come so far. held_out: the last photos of each person, so many
    (never an only one), which are only reported on; of all photos the features are kept for that. All else is as for
    `craft`.
    Returns a CraftResult whose bank is `out`, mapped: only the rows in use are ever read; where nobody has a veil no
    file is written. Raises what `craft` raises;
    OutputError when `out` is there already, is being written by another, or cannot be written; whatever the stream
    raises. After any of these, and after CraftInterrupted (whose result has the report and no veil), the finished veils
    are in the journal. ValueError when the stream has nobody.
    """
    config = CraftConfig() if config is None else config
    if isinstance(people, People) or not isinstance(people, Iterable):
        raise TypeError(f"craft_stream: people must be an iterable of People, got {type(people).__name__}")
    check_kinds(model, config)
    path = Path(out)
    with locked(path):
        if os.path.lexists(path):
            raise OutputError(f"{path}: there already; give another name, and join the banks when both are there")
        journal = path.with_name(f"{path.name}.journal")
        with streaming(model, config, key, journal, resume, threads, held_out) as stream:
            stream.craft(people, generation, progress)
            try:
                if not stream.finished:
                    return stream.result()
                stream.write(path, replace=False)
            except KeyboardInterrupt as stop:
                raise CraftInterrupted(stream.result()) from stop
            return stream.result(VeilBank.load(path, mmap=True, check=False))


@contextlib.contextmanager
def streaming(
    model: FaceModel,
    config: CraftConfig,
    key: bytes | None,
    journal: Path,
    resume: bool,
    threads: int | None,
    held_out: int = 0,
) -> Iterator[Stream]:
    """A Stream at work, with its journal, which goes at the end; after an error only where nothing is in it."""
    if isinstance(held_out, bool) or not isinstance(held_out, int) or held_out < 0:
        raise ValueError(f"craft_stream: held_out must be 0 or more photos, got {held_out!r}")
    with at_work(model, config, key, journal, resume, threads) as run:
        assert run.journal is not None
        try:
            yield Stream(run, held_out)
        except BaseException:
            if not run.journal.entries and not run.journal.problems:
                run.journal.remove()
            raise
        run.journal.remove()


class Stream:
    """A Run over one part of a stream after the other. order: who came, by name; finished: who of them has a veil."""

    def __init__(self, run: Run, held_out: int):
        self.run, self.held_out, self.order = run, held_out, dict[str, None]()
        self.judge = run.judge() if held_out else None

    @property
    def finished(self) -> list[str]:
        records = self.run.records
        return [n for n in self.order if n in records and not records[n]["status"].startswith("failed")]

    def craft(
        self,
        people: Iterable[People],
        generation: int | Mapping[str, int],
        progress: bool | Callable[[int, int], None] | None,
        expected: Sequence[str] = (),
    ) -> None:
        """Craft everybody; CraftInterrupted on Ctrl-C. expected: who will come, where that is known."""
        try:
            with progress_bar(progress, len(expected) * self.run.config.steps, "crafting") as self.run.bar:
                self._craft(people, generation, len(expected))
        except KeyboardInterrupt as stop:
            self.order |= dict.fromkeys(expected)
            raise CraftInterrupted(self.result()) from stop

    def _craft(self, people: Iterable[People], generation: int | Mapping[str, int], expected: int) -> None:
        run = self.run
        for part in packed(self._once(people), run.config):
            self.order |= dict.fromkeys(part.names)
            run.bar.total = max(expected, len(self.order)) * run.config.steps
            crafting, unseen = part.split(self.held_out)
            run.take(crafting, generations_of(part, generation))
            run.craft()
            if self.judge is not None:
                with run.judging():
                    self.judge.see(crafting, unseen, run.veils)
            run.veils.clear()  # they are in the journal
            if len(self.order) >= ENOUGH:  # of odd people so many do not come before all others
                run.refuse_nonsense()
        if not self.order:
            raise ValueError("craft_stream: people must hold at least one person, got none")
        run.refuse_nonsense()
        if self.judge is not None:
            with run.judging():
                self.judge.report(run.records)

    def _once(self, people: Iterable[People]) -> Iterator[People]:
        """The stream checked, without who came before."""
        seen = set[str]()
        for part in people:
            if isinstance(part, People) and not len(part):
                continue
            check(self.run.model, part, self.run.config, None)
            if again := seen & set(part.names):
                self.run.notices.append(
                    f"{', '.join(sorted(again))}: came again in the stream; the photos that came first count"
                )
                part = part.take([i for i, p in enumerate(part.rows.tolist()) if part.names[p] not in again])
            seen |= set(part.names)
            yield part

    def write(self, path: Path, *, replace: bool) -> None:
        """The bank of whoever is finished, from the journal to the file, veil by veil. OutputError; also where a file
        is there that is not to be replaced."""
        run, names = self.run, self.finished
        journal = run.journal
        assert journal is not None

        def pieces() -> Iterator[Buffer]:
            return (journal.veil(name).numpy().reshape(-1).data for name in names)

        veils = bank_file.VeilsInTurn((len(names), 3, *run.header["size"]), pieces)
        about = {"keys": {}, **run.about_bank()}
        parts = bank_file.encode(veils, names, [run.records[n] for n in names], about)
        atomic_write(path, parts, mode=0o600, replace=replace)

    def bank(self) -> VeilBank:
        """The same bank in memory."""
        run, names = self.run, self.finished
        assert run.journal is not None
        empty = torch.zeros((0, 3, *run.header["size"]), dtype=torch.uint8)
        veils = torch.stack([run.journal.veil(name) for name in names]) if names else empty
        return VeilBank(veils, names, records=[run.records[n] for n in names], **run.about_bank())

    def result(self, bank: VeilBank | None = None) -> CraftResult:
        """bank: the veils, where they are wanted; else the result has none."""
        run = self.run
        if bank is None:
            empty = torch.zeros((0, 3, *run.header["size"]), dtype=torch.uint8)
            bank = VeilBank(empty, [], **run.about_bank())
        interrupted = {"status": "failed: interrupted", "steps": 0}
        report = [run.records.get(name, {"name": name, **interrupted}) for name in self.order]
        return CraftResult(bank, report, run.fresh_key, run.notices, run.by_autograd)


def packed(stream: Iterable[People], config: CraftConfig) -> Iterator[People]:
    """The persons of a stream in whole batches; of the stream no item is asked for before it is needed."""
    filling, waiting = Filling(config), list[People]()
    for part in stream:
        first = 0
        for p, count in enumerate(part.counts.tolist()):
            if not filling.takes(count):
                yield _joined([*waiting, _between(part, first, p)])
                waiting, first = [], p
        waiting.append(_between(part, first, len(part)))
    if any(map(len, waiting)):
        yield _joined(waiting)


def _between(people: People, first: int, last: int) -> People:
    found = between(people, first, last)
    assert isinstance(found, People)
    return found


def _joined(parts: list[People]) -> People:
    counts = torch.cat([torch.zeros(1, dtype=torch.int64), *(part.counts for part in parts)])
    names, files = ([text for part in parts for text in getattr(part, field)] for field in ("names", "files"))
    return People(torch.cat([part.images for part in parts]), counts.cumsum(0), names, files)
