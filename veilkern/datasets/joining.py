"""One bank of the shards of a job, without more of their veils in memory than one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from veilkern.data.files import Buffer, atomic_write
from veilkern.data.people import Problem
from veilkern.errors import BankError
from veilkern.veils import bank_file
from veilkern.veils.bank import VeilBank


def join_shards(shards: Sequence[Path], out: Path, by_name: bool, problems: list[Problem]) -> VeilBank:
    """Write the veils of shards of one key to the bank `out` (OutputError where something is there), and return it,
    mapped. by_name: persons are sorted by name; else they stay as they come. A person of several shards keeps the veil
    of the first, and is added to `problems`. BankError where a shard is damaged, or does not fit the others."""
    banks = [VeilBank.load(path, mmap=True) for path in shards]
    for path, bank in zip(shards, banks, strict=True):
        try:
            banks[0].check_alike(bank)
        except ValueError as error:
            raise BankError(f"{path}: does not fit {shards[0]}: {error}") from error
        if bank.key_id != banks[0].key_id or not bank.key_id:
            raise BankError(f"{path}: crafted with another key than {shards[0]}")
    places: dict[str, tuple[int, int]] = {}
    for b, bank in enumerate(banks):
        for row, name in enumerate(bank.names):
            if (first := places.setdefault(name, (b, row))) != (b, row):
                problems.append(Problem(str(shards[b]), f"{name} is in {shards[first[0]].name} too, whose veil counts"))
    names = sorted(places) if by_name else list(places)

    def pieces() -> Iterator[Buffer]:
        for name in names:
            b, row = places[name]
            yield banks[b].veils[row].numpy().reshape(-1).data

    records = [banks[b].records[row] for b, row in (places[name] for name in names)]
    about = {name: getattr(banks[0], name) for name in bank_file.ABOUT}
    veils = bank_file.VeilsInTurn((len(names), *banks[0].veils.shape[1:]), pieces)
    atomic_write(out, bank_file.encode(veils, names, records, about), mode=0o600, replace=False)
    return VeilBank.load(out, mmap=True, check=False)
