"""Damage to the bytes of a bank file, for tests and fuzzing: bits, cuts, lengths, forgeries with a right checksum."""

from __future__ import annotations

import json
import random

import torch

import veilkern as vk
from veilkern.errors import BankError
from veilkern.veils import bank_file

NUMBERS = (0, 1, 2, 7, 255, 65535, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -1, 1e300, True, None, "3", [], {})


def damaged(rng: random.Random, whole: bytes) -> bytes:
    """The file with one damage, drawn from all kinds."""
    return rng.choice((flipped, cut, other_length, other_header, forged))(rng, whole)


def flipped(rng: random.Random, whole: bytes) -> bytes:
    found = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 8))):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def cut(rng: random.Random, whole: bytes) -> bytes:
    place = rng.randrange(len(whole))
    return whole[:place] if rng.random() < 0.7 else whole[:place] + whole[place + rng.randrange(1, 99) :]


def other_length(rng: random.Random, whole: bytes) -> bytes:
    length = rng.choice((0, 1, 2, len(whole), len(whole) - 8, 10**8, 2**31, 2**63, 2**64 - 1, rng.randrange(2**64)))
    return length.to_bytes(8, "little") + whole[8:]


def other_header(rng: random.Random, whole: bytes) -> bytes:
    """One value somewhere in the header is another."""
    header, rest = parts(whole)
    spoil(rng, header)
    return put(header, rest)


def forged(rng: random.Random, whole: bytes) -> bytes:
    """One value in what the checksum covers is another, and the checksum is right."""
    header, rest = parts(whole)
    entry = json.loads(header["__metadata__"][bank_file.FORMAT])
    if entry["version"] == 1:
        values = json.loads(entry["about"])
        spoil(rng, values)
        entry["about"] = json.dumps(values)
        shape = header["veils"]["shape"]
        entry["sha256"] = bank_file.digest_1(
            torch.frombuffer(bytearray(rest), dtype=torch.uint8).reshape(shape), entry["about"]
        )
    else:
        blobs = {name: rest[slice(*header[name]["data_offsets"])] for name in ("veils", "names", "records", "about")}
        name = rng.choice(("names", "records", "about"))
        if name == "names":
            blobs[name] = flipped(rng, blobs[name])
        else:
            values = json.loads(blobs[name])
            spoil(rng, values)
            blobs[name] = json.dumps(values).encode()
        place = 0
        for name, blob in blobs.items():
            header[name] |= {"data_offsets": [place, place + len(blob)]} | (
                {} if name == "veils" else {"shape": [len(blob)]}
            )
            place += len(blob)
        entry["sha256"], rest = bank_file.digest(header["veils"]["shape"], blobs), b"".join(blobs.values())
    header["__metadata__"][bank_file.FORMAT] = json.dumps(entry)
    return put(header, rest)


def spoil(rng: random.Random, values) -> None:
    """Another value, one less or one more, at a random depth of a JSON object or list; in place."""
    while True:
        key = rng.choice(list(values) if isinstance(values, dict) else range(len(values)))
        if not (values[key] and isinstance(values[key], (dict, list)) and rng.random() < 0.8):
            break
        values = values[key]
    if rng.random() < 0.2:
        del values[key]
    elif rng.random() < 0.2 and isinstance(values, dict):
        values["more"] = rng.choice(NUMBERS)
    else:
        values[key] = rng.choice(NUMBERS)


def parts(whole: bytes) -> tuple[dict, bytes]:
    """Header and tensors of a safetensors file."""
    length = int.from_bytes(whole[:8], "little")
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


def put(header: dict, rest: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest


def same(one: vk.VeilBank, other: vk.VeilBank) -> bool:
    """Whether two banks agree in everything."""
    return torch.equal(one.veils, other.veils) and described(one) == described(other)


def described(bank: vk.VeilBank) -> str:
    fields = {name: getattr(bank, name) for name in vk.VeilBank.__dataclass_fields__ if name != "veils"}
    return json.dumps(fields, sort_keys=True)


def load_or_refuse(path, data: bytes) -> vk.VeilBank | None:
    """The bank in `data`, None where it is refused by BankError; whatever is loaded can be saved and loaded again."""
    path.write_bytes(data)
    try:
        bank = vk.VeilBank.load(path)
    except BankError as error:
        assert str(error).startswith(f"{path}: "), error
        return None
    assert bank.rows(bank.names).tolist() == list(range(len(bank)))
    assert [set(bank.record(name)) >= {"key_id", "generation"} for name in bank.names] == [True] * len(bank)
    bank.save(path)
    assert same(vk.VeilBank.load(path), bank)
    return bank
