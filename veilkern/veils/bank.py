"""VeilBank: the veils of many persons, and their file.

A veil that photos are blended with is a key: whoever has it sees them. Those of a sealed bank are none; its key is
apart.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from veilkern.data.files import atomic_write, is_plain_name, locked
from veilkern.errors import BankError
from veilkern.ops._checks import CARRIERS, LEVELS, ROUNDS
from veilkern.veils import bank_file, keyed
from veilkern.veils.compatibility import differences

MAX_SIDE = 65_535
# The fields of a record that are read again; what else a record holds is only shown.
_RECORD = {
    "name": (str,),
    "status": (str,),
    "key_id": (str,),
    "photos": (int,),
    "steps": (int,),
    "generation": (int,),
    "keyed_as": (str,),
    "photo_ids": (list,),
    "held_out": (dict,),
}
_HEX = re.compile("(?:[0-9a-f]{2})*")


@dataclass(frozen=True, repr=False, eq=False)
class VeilBank:
    """Veils of P persons, all of one image size and scheme. Everything is checked here, so that what can be saved can
    be loaded: TypeError, ValueError.

    veils: uint8 [P, 3, H, W] RGB, for sealed photos of values up to 256 - levels. names: P unique names. blend: a of
    alpha = a / 255; 0 where photos are sealed, with `levels` (16, 32, 64, 128) and `rounds` (12, 20) of ChaCha.
    records: none, or one dict a person (status, steps, losses, photo_ids; key_id where it is not the bank's, generation
    where it is not 0). model: name and fingerprint of the network they were crafted for. config: the CraftConfig.
    key_id: tells which master key made the starts; empty where not all were made by one, see `key_ids`. key: that key
    in hex, only where craft made a fresh one, which serves this bank alone and is no more secret than its veils; never
    in a sealed bank. version: of the veilkern that crafted them. keys: the keys in hex by key id of a bank joined from
    several that craft made fresh ones for.

    Names that differ in upper and lower case alone, or in Unicode's form, are different persons here; whoever writes
    a folder a person must look for those that are one folder on the file system at hand.
    """

    veils: torch.Tensor
    names: list[str]
    blend: int
    records: list[dict[str, Any]] = field(default_factory=list)
    model: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    key_id: str = ""
    key: str = ""
    version: str = ""
    keys: dict[str, str] = field(default_factory=dict)
    levels: int = 0
    rounds: int = 20

    def __post_init__(self) -> None:
        _check_veils(self.veils)
        _check_names(self.names, len(self.veils))
        _check_scheme(self)
        _check_records(self.records, len(self.names))
        _check_about(self)
        # Lists of its own, so that the index stays right.
        object.__setattr__(self, "names", list(self.names))
        object.__setattr__(self, "records", list(self.records))
        if self.levels:
            _check_keyed_apart(self)
        index = {name: row for row, name in enumerate(self.names)}
        object.__setattr__(self, "_index", index)
        if len(index) != len(self.names):
            raise ValueError("VeilBank: names must be unique")

    def __repr__(self) -> str:  # never the veils or the key
        size = f"{self.size[0]} x {self.size[1]}"
        scheme = f"sealed in {self.levels} levels" if self.levels else f"blend {self.blend}/255"
        return f"VeilBank({len(self)} veils of {size}, {scheme}, for {self.model.get('name')})"

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._rows_by_name

    def row_of(self, name: str) -> int | None:
        """The veil row of a name, None where it has no veil."""
        return self._rows_by_name.get(name)

    @property
    def _rows_by_name(self) -> dict[str, int]:
        return self._index  # type: ignore[attr-defined]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the photos these veils fit."""
        return self.veils.shape[2], self.veils.shape[3]

    @property
    def scheme(self) -> str:
        """How photos are protected: `blend` or `sealed`."""
        return "sealed" if self.levels else "blend"

    @property
    def alpha(self) -> float:
        """Share of the photo in a protected photo; 0 where it is sealed."""
        return self.blend / 255

    @property
    def error_bound(self) -> int:
        """The largest error of recovery from 8 bit, in levels; of a sealed photo that of its first 96 values."""
        return 256 // self.levels if self.levels else (self.blend + 254) // (2 * self.blend)

    @property
    def key_ids(self) -> list[str]:
        """Of each person, which master key made the start: P key ids."""
        if not self.records:
            return [self.key_id] * len(self)
        return [record.get("key_id", self.key_id) for record in self.records]

    @property
    def generations(self) -> list[int]:
        """Of each person, how many veils came before this one under the same master key."""
        return [record.get("generation", 0) for record in self.records] or [0] * len(self)

    def record(self, name: str) -> dict[str, Any]:
        """What is recorded of a person, always with key_id and generation; KeyError for who has no veil."""
        row = self.rows([name]).tolist()[0]
        own = self.records[row] if self.records else {}
        return {"key_id": self.key_id, "generation": 0, **own}

    def key_of(self, name: str) -> bytes | None:
        """The fresh master key that craft made for this person's veil and recorded; None where one was given."""
        text = self._fresh_keys().get(self.record(name)["key_id"])
        return bytes.fromhex(text) if text else None

    def rows(self, names: Iterable[str] | str) -> torch.Tensor:
        """Veil rows of these names (or of this one), int64 [n]; KeyError names whoever has no veil."""
        wanted = [names] if isinstance(names, str) else list(names)
        try:
            found = [self._rows_by_name[name] for name in wanted]
        except KeyError:
            missing = sorted({str(name) for name in wanted if name not in self})
            raise KeyError(f"VeilBank: no veil for {', '.join(missing[:10])}") from None
        except TypeError as error:
            raise TypeError(f"VeilBank: names must be text, got {names!r:.80}") from error
        return torch.tensor(found, dtype=torch.int64)

    def take(self, who: Iterable[str] | Iterable[int] | torch.Tensor | str) -> VeilBank:
        """A bank of these persons alone, in this order, by name or by row (int64 [n]); keys of others are left out.

        Raises KeyError for a name without a veil, ValueError for a row that is not there, or anybody twice.
        """
        return self._select(self._rows_of(who))

    def remove(self, names: Iterable[str] | str) -> VeilBank:
        """A bank without these persons; KeyError names whoever has no veil.

        The bank forgets them: crafted again under the same name and key, a person starts from the same noise, so craft
        somebody else of that name with another generation.
        """
        gone = set(self.rows(names).tolist())
        left = self._select([row for row in range(len(self)) if row not in gone])
        # Nobody left: whoever comes next is crafted under the same key.
        return left if len(left) else dataclasses.replace(left, key_id=self.key_id, key=self.key)

    def next_generations(self) -> dict[str, int]:
        """By the names that keyed the starts of these veils (persons may have been renamed since): the first generation
        of which there is no veil here. No two veils should come from the same noise."""
        found: dict[str, int] = {}
        for own, record, generation in zip(self.names, self.records or [{}] * len(self), self.generations, strict=True):
            keyed = record.get("keyed_as", own)
            found[keyed] = max(found.get(keyed, 0), generation + 1)
        return found

    def rename(self, names: Mapping[str, str]) -> VeilBank:
        """A bank with other names, {old: new}; each record keeps the name that keyed the start as `keyed_as`."""
        renamed, records = list(self.names), list(self.records) or [{}] * len(self)
        for old, row in zip(names, self.rows(names).tolist(), strict=True):
            renamed[row] = names[old]
            records[row] = {"keyed_as": old, **records[row], "name": names[old]}
        return dataclasses.replace(self, names=renamed, records=records)

    def under_key(self, key: bytes) -> VeilBank:
        """A sealed bank with the same veils, whose persons' sealing keys are made from another master key: photos that
        were sealed before are not recovered with it (rotate brings them over). ValueError for a bank that blends."""
        if self.scheme != "sealed":
            raise ValueError("VeilBank.under_key: the veils of a bank that blends are the keys; craft others instead")
        records = [{name: value for name, value in record.items() if name != "key_id"} for record in self.records]
        return dataclasses.replace(self, records=records, key_id=keyed.key_id(keyed.check_key(key)))

    def join(self, *others: VeilBank, replace: bool = False) -> VeilBank:
        """All these banks in one. Each person keeps the id of the key that made the start, and no recorded key is lost.

        replace: a person of a later bank takes the place of that of an earlier one; otherwise sharing a name is a
        ValueError, as are banks that differ in size, blend, network, or in what of the config decides on a veil.
        """
        banks = (self, *others)
        for other in others:
            self.check_alike(other)
        names = [name for bank in banks for name in bank.names]
        last = {name: row for row, name in enumerate(names)}
        if not replace and len(last) != len(names):
            both = sorted({name for row, name in enumerate(names) if last[name] != row})
            raise ValueError(f"VeilBank.join: both banks have a veil of {', '.join(both[:10])}")
        veils, records = torch.cat([bank.veils for bank in banks]), []
        if any(bank.records for bank in banks):
            records = [record for bank in banks for record in bank.records or [{}] * len(bank)]
        ids = [key_id for bank in banks for key_id in bank.key_ids]
        keys = {key_id: key for bank in banks for key_id, key in bank._fresh_keys().items()}
        if len(last) != len(names):
            rows = list(last.values())
            veils, names, ids = veils[rows], list(last), [ids[row] for row in rows]
            records = [records[row] for row in rows] if records else []
        return self._with(veils, names, records, ids, keys)

    def save(self, path: str | os.PathLike[str], *, replace: bool = True) -> None:
        """Write a safetensors file, readable by its owner alone (0600), whole or not at all (OutputError).

        replace: False leaves a file that is there already alone (OutputError). To add to a bank that others may be
        writing too, use `update_bank`.
        """
        about = {name: getattr(self, name) for name in bank_file.ABOUT}
        parts = bank_file.encode(self.veils, self.names, self.records, about)
        atomic_write(path, parts, mode=0o600, replace=replace)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, mmap: bool = False, check: bool = True) -> VeilBank:
        """Read a bank into memory of its own; nothing that happens to the file later changes it.

        mmap: map the file instead, which shares memory between processes. Only for files that are replaced by renaming
        a new one over them, as `save` does: one written over in place changes the veils in use, one truncated ends the
        process. check: False does not read the veils, so that a mapped bank of 100,000 people is open at once and only
        the rows in use are ever read; damage in them then goes unseen (`veilkern bank check` finds it). Raises
        BankError naming the file and the cause.
        """
        values = bank_file.read(path, mmap=mmap, check=check)
        try:
            with _taking(values_checked=check):
                return cls(**values)
        except (TypeError, ValueError) as error:
            raise BankError(f"{path}: {str(error).removeprefix('VeilBank: ')}") from error

    def _fresh_keys(self) -> dict[str, str]:
        """Recorded keys in hex, by key id."""
        return {**self.keys, self.key_id: self.key} if self.key else self.keys

    def _rows_of(self, who: Iterable[str] | Iterable[int] | torch.Tensor | str) -> list[int]:
        wanted: list[Any] = (
            who.tolist() if isinstance(who, torch.Tensor) else [who] if isinstance(who, str) else list(who)
        )
        rows = self.rows(wanted).tolist() if all(isinstance(one, str) for one in wanted) else wanted
        if not all(type(row) is int and 0 <= row < len(self) for row in rows):
            raise ValueError(f"VeilBank: wanted names, or rows 0..{len(self) - 1}, got {who!r:.80}")
        if len(set(rows)) != len(rows):
            raise ValueError("VeilBank: nobody can be taken twice")
        return rows

    def _select(self, rows: list[int]) -> VeilBank:
        ids = self.key_ids
        return self._with(
            self.veils[torch.tensor(rows, dtype=torch.int64)],
            [self.names[row] for row in rows],
            [self.records[row] for row in rows] if self.records else [],
            [ids[row] for row in rows],
            self._fresh_keys(),
        )

    def _with(
        self, veils: torch.Tensor, names: list[str], records: list[dict[str, Any]], ids: list[str], keys: dict[str, str]
    ) -> VeilBank:
        """This bank with other persons, whose key ids are `ids`; of the recorded keys those that made their starts."""
        different = set(ids)
        one = ids[0] if len(different) == 1 else "" if ids else self.key_id
        if len(different) > 1:
            records = [{**r, "key_id": i} for r, i in zip(records or [{}] * len(ids), ids, strict=True)]
        kept = {key_id: key for key_id, key in keys.items() if key_id in different}
        return dataclasses.replace(
            self, veils=veils, names=names, records=records, key_id=one, key=kept.pop(one, ""), keys=kept
        )

    def check_alike(self, other: VeilBank) -> None:
        """ValueError, naming the first difference, unless veils of the other may join these (see `join`)."""
        for name, a, b in (
            ("size", self.size, other.size),
            ("scheme", self.scheme, other.scheme),
            ("blend", self.blend, other.blend),
            ("levels", self.levels, other.levels),
            ("rounds", self.rounds, other.rounds),
            ("network", self.model.get("fingerprint"), other.model.get("fingerprint")),
        ):
            if a != b:
                raise ValueError(f"VeilBank.join: the banks differ in {name}: {a} and {b}")
        if found := differences(self.config, other.config):
            raise ValueError(f"VeilBank.join: the banks differ in config: {', '.join(found)}")


def update_bank(
    path: str | os.PathLike[str], change: Callable[[VeilBank | None], VeilBank], *, wait: float = 60.0
) -> VeilBank:
    """Save change(bank) in place of the bank at `path` (None where there is none), and return it; nothing that another
    process or thread does to the file by this function in the meantime is lost.

    `change` gets the bank as it is on disk, read under the file's lock, and may raise to leave it as it is. wait:
    seconds to wait for the lock. Raises OutputError (the lock is held, or the file cannot be written) and BankError.
    """
    with locked(path, wait=wait):
        before = VeilBank.load(path) if Path(path).exists() else None
        after = change(before)
        if after is not before:
            after.save(path)
        return after


_check_values: ContextVar[bool] = ContextVar("veilkern_check_values", default=True)


@contextlib.contextmanager
def _taking(*, values_checked: bool) -> Iterator[None]:
    """Whether banks made inside look at every value of their veils."""
    token = _check_values.set(values_checked)
    try:
        yield
    finally:
        _check_values.reset(token)


def _check_veils(veils: object) -> None:
    if not isinstance(veils, torch.Tensor):
        raise ValueError(f"VeilBank: veils must be uint8 [P, 3, H, W], got {type(veils)}")
    shape = list(veils.shape)
    if veils.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3:
        raise ValueError(f"VeilBank: veils must be uint8 [P, 3, H, W], got {veils.dtype} {shape}")
    if veils.layout is not torch.strided:
        raise ValueError(f"VeilBank: veils must be a dense tensor, got {veils.layout}: use .to_dense()")
    if not all(1 <= side <= MAX_SIDE for side in shape[2:]):
        raise ValueError(f"VeilBank: veils must have sides of 1..{MAX_SIDE}, got {shape}")


def _check_scheme(bank: VeilBank) -> None:
    blend = bank.blend
    if type(bank.levels) is int and bank.levels == 0:
        if isinstance(blend, bool) or not isinstance(blend, int) or not 1 <= blend <= 254:
            raise ValueError(f"VeilBank: blend must be an integer 1..254 (alpha = blend / 255), got {blend!r}")
        return
    if type(blend) is not int or blend:
        raise ValueError(f"VeilBank: blend must be 0 where photos are sealed, got {blend!r}")
    for name, value, choices in (("levels", bank.levels, LEVELS), ("rounds", bank.rounds, ROUNDS)):
        if type(value) is not int or value not in choices:
            raise ValueError(f"VeilBank: {name} must be one of {', '.join(map(str, choices))}, got {value!r}")
    if bank.veils.shape[1:].numel() < CARRIERS:
        raise ValueError(f"VeilBank: photos of {CARRIERS} values at least can be sealed, got {list(bank.veils.shape)}")
    if _check_values.get() and bank.veils.numel() and int(bank.veils.max()) > 256 - bank.levels:
        raise ValueError(f"VeilBank: sealed veils must have values 0..{256 - bank.levels}, got {int(bank.veils.max())}")
    if bank.key or bank.keys:
        raise ValueError("VeilBank: a sealed bank must hold no key")


def _check_keyed_apart(bank: VeilBank) -> None:
    """No two persons of a sealed bank have one sealing key: that follows from master key, name and generation."""
    seen: dict[tuple[Any, ...], str] = {}
    for name, record in zip(bank.names, bank.records, strict=False):
        source = record.get("key_id", bank.key_id), record.get("keyed_as", name), record.get("generation", 0)
        if (other := seen.setdefault(source, name)) != name:
            raise ValueError(f"VeilBank: {other} and {name} must not have one sealing key: craft one of them anew")


def _check_names(names: Sequence[object], count: int) -> None:
    if not isinstance(names, (list, tuple)):
        raise ValueError(f"VeilBank: names must be a list, got {type(names).__name__}")
    if len(names) != count:
        raise ValueError(f"VeilBank: names must have {count} entries, one a veil, got {len(names)}")
    for name in names:
        if not isinstance(name, str) or not is_plain_name(name):
            raise ValueError(f"VeilBank: names must be plain folder names (no path separators, not '..'), got {name!r}")


def _check_records(records: object, count: int) -> None:
    if not isinstance(records, (list, tuple)):
        raise ValueError(f"VeilBank: records must be a list, got {type(records).__name__}")
    if records and len(records) != count:
        raise ValueError(f"VeilBank: records must have {count} entries, one a person, got {len(records)}")
    for place, record in enumerate(records):
        if not isinstance(record, dict):
            raise ValueError(f"VeilBank: records must be dictionaries, got {type(record).__name__} at {place}")
        for name, value in record.items():
            if name in _RECORD and type(value) not in _RECORD[name]:
                kind = _RECORD[name][0].__name__
                raise ValueError(f"VeilBank: {name} of records must be {kind}, got {type(value).__name__} at {place}")
        if not all(isinstance(photo, str) for photo in record.get("photo_ids", ())):
            raise ValueError(f"VeilBank: photo_ids of records must be text, got something else at {place}")
        if "\0" in record.get("keyed_as", ""):
            raise ValueError(f"VeilBank: keyed_as of records must hold no NUL, got one at {place}")
        if record.get("generation", 0) < 0:
            raise ValueError(f"VeilBank: generation of records must be 0 or more, got a negative one at {place}")


def _check_about(bank: VeilBank) -> None:
    kinds = {"model": dict, "config": dict, "keys": dict, "key_id": str, "key": str, "version": str}
    for name, kind in kinds.items():
        value = getattr(bank, name)
        if not isinstance(value, kind):
            raise ValueError(f"VeilBank: {name} must be a {kind.__name__}, got {type(value).__name__}")
    for key_id, key in [(bank.key_id, bank.key), *bank.keys.items()]:
        if not isinstance(key_id, str) or not isinstance(key, str) or not _HEX.fullmatch(key):
            raise ValueError("VeilBank: key and keys must be text in hex")  # never the key
