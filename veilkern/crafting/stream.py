"""craft_stream: veils for more people than memory holds, in the memory of one batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch

from veilkern.crafting.batching import Filling
from veilkern.crafting.config import CraftConfig
from veilkern.crafting.run import CraftInterrupted, CraftResult, Run, at_work, check, check_kinds, generations_of
from veilkern.crafting.templates import between
from veilkern.data.files import atomic_write, locked
from veilkern.data.people import People
from veilkern.errors import OutputError
from veilkern.networks.face_model import FaceModel
from veilkern.progress import progress_bar
from veilkern.veils import bank_file
from veilkern.veils.bank import VeilBank


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
) -> CraftResult:
    """Craft one veil per person of a stream and write them to the bank `out`: `craft`, for any number of people.

    people: any iterable of People, each of one person or some, such as `iter_people(folder)`; a person comes whole and
    once (who comes again is passed over, with a notice). Persons of several items are crafted together. No more of the
    stream is taken than fills a batch (CraftConfig.photos_in_flight): memory holds the photos of one batch, one item
    that did not fit any more, and of each person the record, about 1 kB. Veils go to the journal beside `out`
    (`out`.journal) as they are finished, and from there into the bank, byte by byte what `craft` on all of them would
    save, in the order of the stream.
    resume: go on with that journal: give the same stream, whose finished persons are passed over. progress: as for
    `craft`; steps are counted for the people who have come so far. All else is as for `craft`.
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
        with at_work(model, config, key, journal, resume, threads) as run:
            stream = _Stream(run)
            try:
                stream.craft(people, generation, progress)
                return stream.save(path)
            except KeyboardInterrupt as stop:
                raise CraftInterrupted(stream.result(None)) from stop


class _Stream:
    """A Run over one part of a stream after the other. order: who came, by name."""

    def __init__(self, run: Run):
        self.run, self.order = run, dict[str, None]()

    def craft(self, people: Iterable[People], generation, progress) -> None:
        run = self.run
        with progress_bar(progress, 0, "crafting") as run.bar:
            for part in packed(self._once(people), run.config):
                self.order |= dict.fromkeys(part.names)
                run.bar.total += len(part) * run.config.steps
                run.take(part, generations_of(part, generation))
                run.craft()
                run.veils.clear()  # they are in the journal
        if not self.order:
            raise ValueError("craft_stream: people must hold at least one person, got none")

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

    def save(self, path: Path) -> CraftResult:
        """The bank, from the journal to the file, veil by veil; then the journal goes."""
        run, journal = self.run, self.run.journal
        assert journal is not None
        names = [name for name in self.order if not run.records[name]["status"].startswith("failed")]
        if not names:
            journal.remove()
            return self.result(None)
        size = tuple(run.header["size"])

        def pieces() -> Iterator[bank_file.Buffer]:
            return (journal.veil(name).numpy().reshape(-1).data for name in names)

        veils = bank_file.VeilsInTurn((len(names), 3, *size), pieces)
        about = {"keys": {}, **run.about_bank()}
        atomic_write(
            path, bank_file.encode(veils, names, [run.records[n] for n in names], about), mode=0o600, replace=False
        )
        bank = VeilBank.load(path, mmap=True, check=False)
        journal.remove()
        return self.result(bank)

    def result(self, bank: VeilBank | None) -> CraftResult:
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
