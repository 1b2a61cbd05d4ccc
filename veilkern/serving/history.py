"""What was: the veils that were rotated away, and which generations of a person's veil there have been.

Photos that an earlier veil took need it, so it stays, in a bank beside the bank. A person who was removed is forgotten
but for one number beside a hash of the name: whoever comes later under that name must not start from the same noise,
nor get the same sealing key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import torch

from veilkern.data.files import atomic_write, is_plain_name
from veilkern.errors import BankError
from veilkern.veils.bank import VeilBank, update_bank

WAIT = 60.0  # seconds for whoever else changes a file


def old_path(bank: Path) -> Path:
    """The bank of veils that were rotated away."""
    return bank.with_name(f"{bank.stem}.old{bank.suffix}")


def generations_path(bank: Path) -> Path:
    """The file of generations that were used."""
    return bank.with_name(f"{bank.stem}.generations.json")


def keyed_as(bank: VeilBank, name: str) -> str:
    """The name that keyed a person's veil: a person who was renamed keeps it."""
    return bank.record(name).get("keyed_as", name)


def load_old(path: Path, bank: VeilBank) -> VeilBank | None:
    """The earlier veils of a bank; None where there are none. BankError, which names the file, for another bank's."""
    if not old_path(path).exists():
        return None
    old = VeilBank.load(old_path(path))
    try:
        bank.check_alike(old)
    except ValueError as error:
        raise BankError(f"{old_path(path)}: not of this bank: {error}; move it away") from error
    return old


def by_person(old: VeilBank) -> dict[str, list[str]]:
    """The names in the old bank of each person's earlier veils, by the name that keys the person."""
    found: dict[str, list[str]] = {}
    for name in old.names:
        found.setdefault(keyed_as(old, name), []).append(name)
    return found


def keep(path: Path, bank: VeilBank, names: list[str]) -> None:
    """Put these persons' veils into the old bank, before others take their place. Nothing that is there is replaced."""

    def with_them(old: VeilBank | None) -> VeilBank:
        for name in names:
            one = bank.take([name])
            there = [] if old is None else by_person(old).get(keyed_as(bank, name), [])
            if old is None:
                old = one.rename({name: _free_name(one, name, None)})
            elif not any(torch.equal(old.take([found]).veils, one.veils) for found in there):
                old = old.join(one.rename({name: _free_name(one, name, old)}))
        assert old is not None
        return old

    update_bank(old_path(path), with_them, wait=WAIT)


def forget(path: Path, wanted: str) -> None:
    """Take the earlier veils of whoever is keyed as `wanted` out of the old bank."""

    def without(old: VeilBank | None) -> VeilBank:
        assert old is not None
        return old.remove([name for name in old.names if keyed_as(old, name) == wanted])

    if old_path(path).exists():
        update_bank(old_path(path), without, wait=WAIT)


def next_generations(path: Path, bank: VeilBank, keyed: Iterable[str]) -> dict[str, int]:
    """Of these names that key veils: the first generation that there has not been, in the bank, in the old one, or of
    persons who were removed."""
    banks = [bank] if not old_path(path).exists() else [bank, VeilBank.load(old_path(path))]
    used, there = _used(path), [one.next_generations() for one in banks]
    return {name: max(used.get(_hash(name), 0), *(one.get(name, 0) for one in there)) for name in keyed}


def note(path: Path, bank: VeilBank, name: str) -> None:
    """Write down the generations of a person, who may be gone in a moment; under the bank's lock."""
    wanted = keyed_as(bank, name)
    used = _used(path) | {_hash(wanted): next_generations(path, bank, [wanted])[wanted]}
    atomic_write(generations_path(path), json.dumps(used).encode(), mode=0o600)


def _free_name(one: VeilBank, name: str, old: VeilBank | None) -> str:
    """A name in the old bank that nobody has: KEYED_AS@GENERATION, shortened where that is too long for a name."""
    end = f"@{one.record(name)['generation']}"
    wanted = keyed_as(one, name)
    stem = wanted if is_plain_name(wanted + end) else wanted[:40].rstrip(". ") + "~" + _hash(wanted)[:16]
    names = [stem + end, *(f"{stem}{end}.{number}" for number in range(2, 1000))]
    return next(name for name in names if old is None or name not in old)


def _used(path: Path) -> dict[str, int]:
    try:
        found = json.loads(generations_path(path).read_bytes())
        return {str(name): int(number) for name, number in found.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, TypeError, OSError) as error:
        raise BankError(f"{generations_path(path)}: cannot be read: {error}") from error


def _hash(name: str) -> str:
    return hashlib.sha256(f"veilkern person\n{name}".encode()).hexdigest()[:32]
