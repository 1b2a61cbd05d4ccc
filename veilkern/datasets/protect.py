"""protect_dataset: the photos of a dataset protected, by the workers of a Ray cluster.

A folder of persons gives a folder of persons, photo by photo as `protect_folder` writes it; a file gives a file of its
name and kind, whole or not at all. A photo, or file, that is there is skipped: a unit may be run again, or twice.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veilkern.data.files import make_folder, refuse_inside
from veilkern.data.people import Problem
from veilkern.data.photos import decode_mark, decode_photo, encode_png
from veilkern.datasets.cluster import Cluster, check_cluster, pairs, problems_of, require_ray, run
from veilkern.datasets.craft import ENDING, Key, bytes_of, read_job
from veilkern.datasets.encoded import Encoded, persons_of, read_encoded, write_encoded
from veilkern.datasets.source import Source, Unit, files_of, folder_of, units_of
from veilkern.errors import BankError, OutputError
from veilkern.veils.bank import VeilBank
from veilkern.veils.folder_plan import Outcome, distinct, listed, open_folders, protected_name, to_write
from veilkern.veils.folders import protect_folder
from veilkern.veils.marking import Marking, difference
from veilkern.veils.protect import protect
from veilkern.veils.sealing import keyring_of

PEOPLE = 64  # of a folder in a unit, at most


@dataclass(frozen=True, repr=False)
class _Job:
    veils: Path
    keys: tuple[Key, ...] | None
    out: Path
    lossless: bool
    resize: bool
    convert: bool
    overwrite: bool
    force: bool


def protect_dataset(
    source: Source,
    veils: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    key: Key | Sequence[Key] | None = None,
    lossless: bool = False,
    resize: bool = False,
    convert: bool = False,
    overwrite: bool = False,
    force: bool = False,
    cluster: Cluster | None = None,
) -> Outcome:
    """Protect every photo of everybody in a source (as of `craft_dataset`) who has a veil; skip what is done.

    veils: a bank, or the folder of shards that `craft_dataset(.., join=False)` made of the same source. out: a folder;
    of a folder of persons one of persons, as `protect_folder` writes it, of Parquet files or tars one of files with
    their names, where a photo `a.jpg` is `a.jpg.png`; every worker must see all three under these paths. Recover a
    folder by `recover_folder`; photos of a file by `recover`. key: the master keys of a sealed bank, or files that
    each worker reads them from. lossless, resize, convert, overwrite, force: as of `protect_folder`.
    Written and skipped are counted in photos. What is wrong with a photo, a person or a file is listed. Raises
    BackendError, PhotoError, OutputError and BankError, and ValueError for a key that does not fit.
    """
    cluster, outcome = Cluster() if cluster is None else cluster, Outcome()
    check_cluster("protect_dataset", cluster)
    require_ray()
    veils, out = Path(veils).absolute(), Path(out).absolute()
    job = _Job(veils, _keys(key), out, lossless, resize, convert, overwrite, force)
    if not veils.is_dir():
        _bank(job, veils, check=True)  # a bank or key that will not do is an error here, and at once
    if (root := folder_of(source)) is not None:
        refuse_inside(root, out)
    if (files := files_of(source)) is None:
        units = _units_of_folder(source, job, cluster, outcome)
    else:
        if any(os.path.realpath(Path(file).parent) == os.path.realpath(out) for file in files):
            raise OutputError(f"{out}: the output folder is the input folder; the photos there would be lost")
        units = units_of(source, 1, outcome.problems, outcome.notices)
        make_folder(out)
    for _, found in run(ProtectWorker, job, units, cluster):
        problems, notices = problems_of(found)
        outcome.problems, outcome.notices = outcome.problems + problems, outcome.notices + notices
        outcome.written += found.get("written", 0)
        outcome.skipped += found.get("skipped", 0)
    outcome.problems.sort(key=lambda problem: problem.file)
    outcome.notices.sort(key=lambda notice: notice.file)
    return outcome


def _keys(key: Key | Sequence[Key] | None) -> tuple[Key, ...] | None:
    if key is None:
        return None
    given = (key,) if isinstance(key, (bytes, bytearray, str, os.PathLike)) else tuple(key)
    return tuple(Path(one).absolute() if isinstance(one, (str, os.PathLike)) else one for one in given)


def _master_keys(job: _Job) -> list[bytes] | None:
    return None if job.keys is None else [bytes_of(key) for key in job.keys]


def _bank(job: _Job, path: Path, *, check: bool) -> VeilBank:
    """A bank that the job's keys fit. check: read its veils, to see that they are whole."""
    bank = VeilBank.load(path, mmap=True, check=check)
    keyring = keyring_of("protect_dataset", bank, _master_keys(job))
    if keyring is not None:
        keyring.check()
    return bank


def _units_of_folder(source: Source, job: _Job, cluster: Cluster, outcome: Outcome) -> list[Unit]:
    """Of all persons whose folder is theirs alone on every system; of shards of veils, the units that gave them."""
    root = folder_of(source)
    assert root is not None  # or it were files
    open_folders(root, job.out)
    people = sum(1 for entry in os.scandir(root) if entry.is_dir())
    wanted = max(-(-people // PEOPLE), 4 * (cluster.workers or 1))
    cut = read_job(job.veils)["shards"] if job.veils.is_dir() else min(wanted, max(people, 1))
    units = units_of(source, cut, outcome.problems)
    everybody = [(Path(unit.where, name), name) for unit in units for name in unit.people or ()]
    alone = {name for _, name in distinct(everybody, outcome)}
    return [dataclasses.replace(unit, people=[n for n in unit.people or () if n in alone]) for unit in units]


class ProtectWorker:
    """Protects one unit after the other."""

    def __init__(self, job: _Job):
        self.job, self.keys = job, _master_keys(job)
        self.bank = None if job.veils.is_dir() else _bank(job, job.veils, check=False)  # checked where the job began

    def __call__(self, unit: Unit) -> dict[str, Any]:
        job, bank = self.job, self.bank
        if bank is None:
            shard = job.veils / f"{unit.name}{ENDING}"
            if not shard.exists():
                raise BankError(f"{shard}: no such shard of veils: none was crafted of this source's unit {unit.name}")
            bank = _bank(job, shard, check=True)
        outcome = Outcome()
        if unit.people is None:
            self._file(unit, bank, outcome)
        elif unit.people:
            outcome = protect_folder(
                unit.where,
                bank,
                job.out,
                key=self.keys,
                lossless=job.lossless,
                resize=job.resize,
                convert=job.convert,
                overwrite=job.overwrite,
                force=job.force,
                people=unit.people,
                progress=False,
            )
        return vars(outcome) | {"problems": pairs(outcome.problems), "notices": pairs(outcome.notices)}

    def _file(self, unit: Unit, bank: VeilBank, outcome: Outcome) -> None:
        """Protect a file's photos. Where the output is there, see that it is of these veils, and add what it lacks."""
        path, marking = self.job.out / unit.name, Marking(bank, keyring_of("protect_dataset", bank, self.keys))
        done: dict[tuple[str, str], Encoded] = {}
        original = Path(os.devnull if "://" in unit.where else unit.where)  # never replaced
        if not to_write(path, original, self.job.overwrite):
            done = {(photo.person, photo.file): photo for photo in _done(path, marking, self.job.lossless)}
            if "://" not in unit.where and Path(unit.where).stat().st_mtime > path.stat().st_mtime:
                cause = "newer than what was protected of it; --overwrite protects it again"
                outcome.notices.append(Problem(unit.where, cause))
        outcome.skipped += len(done)
        made = list(self._protected(unit, marking, outcome, done))
        if made:
            photos = sorted([*done.values(), *made], key=lambda photo: (photo.person, photo.file))
            write_encoded(path, photos, replace=self.job.overwrite or bool(done))
            outcome.written += len(made)

    def _protected(self, unit: Unit, marking: Marking, outcome: Outcome, done: Container[Any]) -> Iterator[Encoded]:
        """The photos of a file that are not done, protected."""
        job, bank = self.job, marking.bank
        for person, photos in persons_of(unit.where, outcome.problems):
            row, folder = bank.row_of(person), Path(f"{unit.where}:", person)
            why_not = "no veil of this person in the bank" if row is None else marking.why_not(row)
            if row is None or why_not is not None:
                outcome.problems.append(Problem(str(folder), str(why_not)))
                continue
            data = {folder / photo.file: photo.data for photo in photos}
            names = [(file, str(file.relative_to(folder).with_name(protected_name(file)))) for file in data]
            for file, name in distinct(names, outcome):
                if (person, name) in done:
                    continue
                with listed(file, outcome):
                    image, remarks = decode_photo(
                        data[file],
                        str(file),
                        size=bank.size,
                        resize=job.resize,
                        convert=job.convert,
                        protected=job.force,
                    )
                    outcome.notices += [Problem(str(file), remark) for remark in remarks]
                    hidden = protect(image[None], bank, [row], key=marking.key, lossless=job.lossless)[0]
                    yield Encoded(person, name, encode_png(hidden, marking.made(row, hidden)))


def _done(path: Path, marking: Marking, lossless: bool) -> list[Encoded]:
    """The photos in the output that is there; OutputError unless all are protected as they are now."""
    photos = read_encoded(str(path))
    for photo in photos:
        found, row = decode_mark(photo.data, f"{path}:{photo.person}/{photo.file}"), marking.bank.row_of(photo.person)
        how = "not by veilkern" if found is None else "" if row is not None else "with a veil that is not in the bank"
        if found is not None and row is not None and found != (wanted := marking.wanted(row, lossless)):
            how = f"with {difference(found, wanted)}"
        if how:
            raise OutputError(
                f"{path}: there already, {photo.person}/{photo.file} protected {how}; kept (overwrite=True, "
                "--overwrite to replace it)"
            )
    return photos
