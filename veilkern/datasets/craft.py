"""craft_dataset: veils for the people of a dataset, by the workers of a Ray cluster.

Each unit of the source gives one shard, a bank of its own, by `craft_stream`: its journal keeps what a worker that dies
has finished, its lock keeps two workers apart, and the shard is there whole or not at all. So a unit may be run again,
or twice, and every person has one veil, the bits of which are those that `craft` gives in one process.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from veilkern.crafting.config import CraftConfig
from veilkern.crafting.run import check_kinds, describe, master_key
from veilkern.crafting.stream import craft_stream
from veilkern.data.files import atomic_write, locked, make_folder, refuse_inside
from veilkern.data.people import People, Problem
from veilkern.datasets.cluster import Cluster, check_cluster, pairs, problems_of, require_ray, run
from veilkern.datasets.joining import join_shards
from veilkern.datasets.source import Reading, Source, Unit, files_of, folder_of, people_of, units_of
from veilkern.errors import BankError, ModelError, OutputError
from veilkern.networks.face_model import FaceModel
from veilkern.veils import keyed
from veilkern.veils.bank import VeilBank
from veilkern.veils.compatibility import begun_as, refuse_differences

FORMAT, FORMAT_VERSION = "veilkern.dataset", 1
JOB, ENDING = "job.json", ".safetensors"
PEOPLE = 256  # of a folder in a shard, at most, unless one says how many shards

Model = FaceModel | Callable[[], FaceModel]
Key = bytes | str | os.PathLike[str]


@dataclass(repr=False)
class CraftedDataset:
    """shards: the banks, in the order of units; where they were joined, none are left. bank: where they were joined,
    that bank, mapped. people: how many have a veil there, and crafted: of them now. problems: photos, persons and units
    that were left out, and why. by_autograd: as of CraftResult."""

    shards: list[Path] = field(default_factory=list)
    bank: VeilBank | None = None
    people: int = 0
    crafted: int = 0
    problems: list[Problem] = field(default_factory=list)
    notices: list[Problem] = field(default_factory=list)
    by_autograd: str = ""

    def __repr__(self) -> str:
        return (
            f"CraftedDataset({self.people} veils, {self.crafted} of them new, {len(self.shards)} shards, "
            f"{len(self.problems)} problems)"
        )


@dataclass(frozen=True, repr=False)
class _Job:
    """What each worker is told. key: where it is a file, that: then no key travels."""

    model: Model
    config: CraftConfig
    key: Key | None
    header: dict[str, Any]
    folder: Path
    reading: Reading
    threads: int
    gpus: float


def craft_dataset(
    model: Model,
    source: Source,
    config: CraftConfig | None = None,
    *,
    out: str | os.PathLike[str],
    key: Key | None = None,
    join: bool = True,
    shards: int | None = None,
    cluster: Cluster | None = None,
    threads: int | None = None,
    resize: bool = False,
    convert: bool = False,
) -> CraftedDataset:
    """Craft one veil per person of a source that one process would take too long for.

    model: the network, or a function without arguments that makes it, called once in each worker and once here; a
    FaceModel itself can be sent to workers only where they can import its module's class.
    source: a folder of persons' folders, or Parquet files or WebDataset tars (datasets/encoded.py has their layout) as
    a folder, a pattern, a list, or URLs that fsspec knows. A person's photos are in one file.
    out: the bank, byte by byte that of `craft` in one process of as many threads; until all is done shards are in the
    folder `out`.shards beside it, which every worker must see under this path (a shared file system). The same call
    again goes on: what is finished stays, and where a unit failed as a whole nothing is joined before.
    join: False: `out` is that folder, and its shards are what is wanted: run again, it takes up who came since, and
    whose craft failed.
    key: the master key, or a file that each worker reads it from: bytes go through Ray's store, from which others on
    the cluster could read them. It must be given, unless config has a seed. shards: how many a folder of persons is
    cut into (default: as many as give every worker several, of at most 256 persons); kept with the shards.
    threads: of each worker; default: its cores. resize, convert: as for `read_photo`. cluster: where (see `Cluster`).
    Raises BackendError without Ray or room, TypeError, ValueError (also when `out` was begun otherwise), PhotoError
    when the source has nothing, ModelError when the network is unusable, OutputError. What is wrong with a photo, a
    person or a unit is listed.
    """
    config, cluster = CraftConfig() if config is None else config, Cluster() if cluster is None else cluster
    check_cluster("craft_dataset", cluster)
    for name, value in (("shards", shards), ("threads", threads)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"craft_dataset: {name} must be a positive integer, got {value!r}")
    require_ray()
    network = _made(model)
    check_kinds(network, config)
    out, found = Path(out).absolute(), CraftedDataset()
    folder = shards_of(out) if join else out
    if (root := folder_of(source)) is not None:
        refuse_inside(root, out, folder)
    master = master_key(_given(key, config), config)
    with locked(out):
        if join and os.path.lexists(out):
            raise OutputError(f"{out}: there already; give another name, and join the banks when both are there")
        header = describe(network, network.input.size, config, master) | {"threads": threads or cluster.cores}
        cut = _begun(folder, header) or shards or _shards_for(source, cluster)
        # Nothing is written before it is known that there is something.
        units = units_of(source, cut, found.problems, found.notices)
        _begin(folder, header, cut)
        job = _Job(
            model,
            config,
            Path(key).absolute() if isinstance(key, (str, os.PathLike)) else key,
            header,
            folder,
            Reading(network.input.size, resize, convert),
            header["threads"],
            cluster.gpus,
        )
        try:
            whole = _run(job, units, cluster, found)
            if join and not whole:
                cause = "not joined: some of its shards are missing; the same call again goes on with them"
                found.problems.append(Problem(str(folder), cause))
            elif join and found.shards:
                _join(folder, out, units, found)
        finally:
            _tidy(folder)
    return found


def shards_of(out: Path) -> Path:
    """Where the shards of a bank are until they are joined."""
    return out.with_name(f"{out.name}.shards")


def _join(folder: Path, out: Path, units: list[Unit], found: CraftedDataset) -> None:
    """One bank of all shards, which go. Whoever has a veil in one keeps it, also who is no longer in the source."""
    shards = _shards_in(folder)
    known = {f"{unit.name}{ENDING}" for unit in units}
    of_folder = units[0].people is not None
    found.bank = join_shards(shards, out, of_folder, found.problems)
    there = {name for unit in units for name in unit.people or ()}
    gone = [name for name in found.bank.names if of_folder and name not in there]
    gone += [shard.name for shard in shards if not of_folder and shard.name not in known]
    found.notices += [Problem(name, "no longer in the source; what was crafted before is in the bank") for name in gone]
    for shard in shards:
        shard.unlink()
    found.shards, found.people = [], len(found.bank)


def _shards_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"*{ENDING}") if not path.name.endswith(f".more{ENDING}"))


def _tidy(folder: Path) -> None:
    """Where no veil is in the folder, nothing of ours stays in it, so that another job can begin there."""
    ours = [path for path in folder.iterdir() if path.name == JOB or path.suffix == ".lock"]
    if any(ENDING in path.name for path in folder.iterdir() if path not in ours):
        return
    for path in ours:
        path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _run(job: _Job, units: list[Unit], cluster: Cluster, found: CraftedDataset) -> bool:
    """Do all units; whether none failed as a whole. ModelError when the network was unusable and no veil came out."""
    unusable, whole, there = None, True, {}
    for unit, row in run(CraftWorker, job, units, cluster):
        problems, notices = problems_of(row)
        found.problems, found.notices = found.problems + problems, found.notices + notices
        found.crafted, found.people = found.crafted + row.get("crafted", 0), found.people + row.get("people", 0)
        found.by_autograd = found.by_autograd or row.get("by_autograd", "")
        unusable = unusable or row.get("unusable")
        whole &= "people" in row and not row["unusable"]
        if row.get("people"):
            there[unit.name] = job.folder / f"{unit.name}{ENDING}"
    found.problems.sort(key=lambda problem: problem.file)  # in whatever order the workers were done
    found.notices.sort(key=lambda notice: notice.file)
    if unusable and not there:
        raise ModelError(unusable)
    found.shards = [there[unit.name] for unit in units if unit.name in there]
    return whole


def _made(model: Model) -> FaceModel:
    """The network; TypeError where it cannot be sent to workers."""
    if not isinstance(model, FaceModel):
        if not callable(model):
            raise TypeError(f"craft_dataset: model must be a FaceModel or a function, got {type(model).__name__}")
        return model()
    homes = {type(part).__module__ for part in model.module.modules()}
    if strange := sorted(home for home in homes if home != "__main__" and not _importable(home)):
        raise TypeError(
            f"craft_dataset: model is of {strange[0]}, which workers cannot import: give a function that makes it, "
            'such as functools.partial(vk.FaceModel.load, "/path/net.py:load")'
        )
    return model


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def bytes_of(key: Key) -> bytes:
    """A key that is given, or read from its file."""
    return keyed.read_key(key) if isinstance(key, (str, os.PathLike)) else key


def _given(key: Key | None, config: CraftConfig) -> bytes | None:
    if key is None and config.seed is None:
        raise ValueError("craft_dataset: key must be given (or a file with it): its workers are many processes")
    return None if key is None else bytes_of(key)


def _shards_for(source: Source, cluster: Cluster) -> int:
    """Into how many shards to cut a folder of persons: several a worker, so that none waits long for the last one."""
    if files_of(source) is not None:
        return 1
    people = sum(1 for entry in os.scandir(folder_of(source)) if entry.is_dir())
    return max(1, -(-people // PEOPLE), min(4 * (cluster.workers or 1), people // 4))


def _begin(folder: Path, header: dict[str, Any], shards: int) -> None:
    """Write down how the shards in a folder are begun, unless that is there."""
    make_folder(folder)
    if not (folder / JOB).exists():
        text = json.dumps({"format": FORMAT, "version": FORMAT_VERSION, "shards": shards, **header}, indent=1)
        atomic_write(folder / JOB, text.encode(), mode=0o600, replace=False)


def _begun(folder: Path, header: dict[str, Any]) -> int:
    """Into how many shards a folder was cut, which must have been begun as `header` says (ValueError); 0 where none is
    there."""
    if not (folder / JOB).exists():
        if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
            raise OutputError(f"{folder}: there already, and no folder of shards; give another name")
        return 0
    before = read_job(folder)
    refuse_differences(str(folder), before, header)
    if before["threads"] != header["threads"]:
        raise ValueError(
            f"{folder}: crafted with {before['threads']} threads a worker (now {header['threads']}): the same veils "
            "need the same number"
        )
    return before["shards"]


def read_job(folder: Path) -> dict[str, Any]:
    """What the shards in a folder were begun with. BankError when it cannot be read."""
    path = folder / JOB
    try:
        job = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BankError(f"{path}: cannot be read, or is damaged: {error}") from error
    wanted = {"config": dict, "fingerprint": str, "network": str, "key_id": str}
    if not isinstance(job, dict) or job.get("format") != FORMAT or job.get("version") != FORMAT_VERSION:
        raise BankError(f"{path}: not of this veilkern's datasets")
    bad = [name for name, kind in wanted.items() if not isinstance(job.get(name), kind)]
    bad += [name for name in ("shards", "threads") if type(job.get(name)) is not int or job[name] < 1]
    if bad:
        raise BankError(f"{path}: damaged: {', '.join(bad)}")
    return job


@dataclass
class _Found:
    """What a worker found out of a unit: how many veils are in its shard, and of them new; why the network was of no
    use, if so; and as of CraftResult."""

    people: int = 0
    crafted: int = 0
    unusable: str = ""
    by_autograd: str = ""
    problems: list[Problem] = field(default_factory=list)
    notices: list[Problem] = field(default_factory=list)


class CraftWorker:
    """Crafts one unit after the other."""

    def __init__(self, job: _Job):
        self.job = job
        self.model = job.model if isinstance(job.model, FaceModel) else job.model()
        if job.gpus:
            self.model.module.to("cuda")
        self.key = _given(job.key, job.config)

    def __call__(self, unit: Unit) -> dict[str, Any]:
        path = self.job.folder / f"{unit.name}{ENDING}"
        more = path.with_name(f"{unit.name}.more{ENDING}")
        found = _Found()
        if path.exists():
            with locked(path):
                self._join(path, more)  # of a worker that died before it could
                self._craft(unit, more, self._there(path), found)
                self._join(path, more)
        else:
            self._craft(unit, path, None, found)
        if path.exists():
            found.people = len(VeilBank.load(path, mmap=True, check=False))
        return vars(found) | {"problems": pairs(found.problems), "notices": pairs(found.notices)}

    def _there(self, path: Path) -> VeilBank:
        """The shard that is there, which must be this job's."""
        bank = VeilBank.load(path, mmap=True)
        refuse_differences(str(path), begun_as(bank), self.job.header)
        return bank

    def _craft(self, unit: Unit, path: Path, base: VeilBank | None, found: _Found) -> None:
        """Craft who is not in base, to `path`; no file where there is nobody."""
        done: Container[str] = () if base is None else base
        stream = people_of(unit, self.job.reading, found.problems, found.notices, done)
        if (first := next(stream, None)) is None:
            if base is None and not found.problems:
                found.problems.append(Problem(unit.where, "nobody is in it"))
            return
        names: list[str] = []
        try:
            result = craft_stream(
                self.model,
                _noted(itertools.chain([first], stream), names),
                self.job.config,
                out=path,
                key=self.key,
                progress=False,
                resume=True,
                generation={} if base is None else base.next_generations(),
                threads=self.job.threads,
            )
        except ModelError as error:
            # A person alone may be what is odd; of several it is the network, or the device that it is on.
            found.unusable = str(error) if len(names) > 1 else ""
            found.problems += [Problem(f"{unit.where}: {name}", f"failed: {error}") for name in names]
            return
        found.crafted, found.by_autograd = len(result.bank), result.by_autograd
        found.notices += [Problem(unit.where, notice) for notice in result.notices]
        found.problems += [
            Problem(f"{unit.where}: {record['name']}", record["status"])
            for record in result.report
            if record["status"].startswith("failed")
        ]

    @staticmethod
    def _join(path: Path, more: Path) -> None:
        """Put the veils of `more`, where it is there, into the shard, which is replaced whole."""
        if more.exists():
            before, after = VeilBank.load(path, mmap=True), VeilBank.load(more)
            if after.names[0] not in before:  # else a worker died when it had put them there
                before.join(after).save(path)
            more.unlink()


def _noted(people: Iterable[People], names: list[str]) -> Iterator[People]:
    """The same, each name added to `names`."""
    for part in people:
        names += part.names
        yield part
