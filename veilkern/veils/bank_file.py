"""The file of a veil bank: safetensors, with the veils, names, records and description as one tensor each.

The header stays small whatever the number of persons: it holds the places of the tensors and, as metadata, the format's
version, a checksum of everything, and one of all but the veils, for who opens a large bank without reading it. Version
3 is of sealed banks, 2 of the others. Files of version 1 kept names and records in the header; they are read as well.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import mmap as mapping
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from veilkern.data.files import Buffer
from veilkern.errors import BankError

FORMAT, VERSION, SEALED_VERSION = "veilkern.bank", 2, 3
MAX_HEADER = 100_000_000  # bytes, as every reader of safetensors has it
ALIGNMENT = 64  # the veils begin at a multiple of it, also where the file is mapped
ABOUT_2 = frozenset({"blend", "model", "config", "key_id", "key", "keys", "version"})
ABOUT_1 = (ABOUT_2 - {"keys"}) | {"names", "records"}
ABOUT = ABOUT_2 | {"levels", "rounds"}  # of version 3


class _Part(NamedTuple):
    """A tensor in the file: its dtype as safetensors names it, its shape, and its bytes begin:end after the header."""

    dtype: str
    shape: list[int]
    begin: int
    end: int


@dataclass(frozen=True)
class VeilsInTurn:
    """Veils that are not in memory together: shape [P, 3, H, W], and `pieces`, which begins anew at each call, to give
    their bytes one after the other."""

    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[Buffer]]

    def __len__(self) -> int:
        return math.prod(self.shape)


def encode(
    veils: torch.Tensor | VeilsInTurn, names: list[str], records: list[dict[str, Any]], about: dict[str, Any]
) -> Iterator[Buffer]:
    """The file's bytes as buffers, one after the other; that of the veils, uint8 [P, 3, H, W], is no copy of them.

    Raises ValueError when records or about hold what JSON cannot, or what would not be read again.
    """
    version = SEALED_VERSION if about["levels"] else VERSION
    about = {name: about[name] for name in (ABOUT if about["levels"] else ABOUT_2)}
    parts: dict[str, Buffer | VeilsInTurn] = {
        "veils": veils if isinstance(veils, VeilsInTurn) else veils.detach().cpu().numpy().reshape(-1).data,
        "names": "\n".join(names).encode(),
        "records": _json("records", records),
        "about": _json("description", about),
    }
    tensors, place = {}, 0
    for name, part in parts.items():
        shape = list(veils.shape) if name == "veils" else [len(part)]
        tensors[name] = {"dtype": "U8", "shape": shape, "data_offsets": [place, place + len(part)]}
        place += len(part)
    sums = {"sha256": digest(veils.shape, parts, version), "head": digest(veils.shape, _head(parts), version)}
    metadata = {FORMAT: json.dumps({"version": version, **sums})}
    header = json.dumps({"__metadata__": metadata, **tensors}, separators=(",", ":")).encode()
    header += b" " * (-(8 + len(header)) % ALIGNMENT)
    start = [len(header).to_bytes(8, "little"), header]
    return itertools.chain(start, itertools.chain.from_iterable(map(_pieces, parts.values())))


def _pieces(part: Buffer | VeilsInTurn) -> Iterable[Buffer]:
    return part.pieces() if isinstance(part, VeilsInTurn) else [part]


def digest(shape: Iterable[int], parts: Mapping[str, Buffer | VeilsInTurn], version: int = VERSION) -> str:
    """Against damage, not against a forger, who can compute it too."""
    found = hashlib.sha256(f"{FORMAT} {version} {list(shape)}\n".encode())
    for name, part in parts.items():
        found.update(f"{name} {len(part)}\n".encode())
        for piece in _pieces(part):
            found.update(piece)
    return found.hexdigest()


def _head(parts: dict[str, Buffer | VeilsInTurn]) -> dict[str, Buffer | VeilsInTurn]:
    """All but the veils."""
    return {name: part for name, part in parts.items() if name != "veils"}


def digest_1(veils: torch.Tensor, about: str) -> str:
    """The checksum of version 1."""
    found = hashlib.sha256(f"{FORMAT} 1 {list(veils.shape)}\n{about}\n".encode())
    found.update(veils.numpy().reshape(-1).data)
    return found.hexdigest()


def read(path: str | os.PathLike[str], *, mmap: bool, check: bool = True) -> dict[str, Any]:
    """What VeilBank takes, by name: veils, names, records and the rest; the checksum is right, no value is checked yet.
    check: False takes the checksum of all but the veils, where the file has one.

    All is read from one descriptor: the file that was there when it was opened, whatever replaces it meanwhile. Lengths
    are checked against the file's before memory is taken. mmap: the veils stay a private mapping of the file. Raises
    BankError naming the file and the cause.
    """
    path = Path(path)
    if not path.is_file():
        raise BankError(f"{path}: no such veil file")
    try:
        with path.open("rb") as file:
            return _read(file, mmap, check)
    except OSError as error:
        raise BankError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise BankError(f"{path}: {error}") from error


def _read(file: BinaryIO, mmap: bool, check: bool) -> dict[str, Any]:
    parts, metadata, start = _header(file)
    if FORMAT not in metadata:
        raise ValueError("a safetensors file, but not a veil bank")
    meta = _object(metadata[FORMAT])
    readers = {1: _read_1, VERSION: _read_2, SEALED_VERSION: _read_2}
    version = meta.get("version")
    if type(version) is not int or version not in readers:
        raise ValueError(f"veil bank format {version!r}; this veilkern reads {', '.join(map(str, readers))}")
    values = readers[version](file, start, parts, meta, mmap, check)
    if values is None:
        raise ValueError("the content does not match its checksum: damaged, or changed after it was saved")
    return values


def _header(file: BinaryIO) -> tuple[dict[str, _Part], dict[str, Any], int]:
    """The file's tensors, its metadata, and where the tensors begin; the tensors fill the file without gaps."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(MAX_HEADER, size - 8):
        raise ValueError(f"not a veil file, or truncated: a header of {length} bytes in a file of {size}")
    header = _object(_exactly(file, length).decode())
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("damaged description: its metadata are not text")
    parts = {name: _part(name, entry) for name, entry in header.items()}
    place = 0
    for part in sorted(parts.values(), key=lambda part: (part.begin, part.end)):
        if part.begin != place or part.end < place:
            raise ValueError("damaged description: its tensors overlap or leave gaps")
        place = part.end
    if 8 + length + place != size:
        raise ValueError(f"not a veil file, or truncated: wanted {8 + length + place} bytes, it has {size}")
    return parts, metadata, 8 + length


def _part(name: str, entry: object) -> _Part:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"damaged description: {name!r} is no tensor")
    shape, offsets = entry["shape"], entry["data_offsets"]
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
            raise ValueError(f"damaged description: {name!r} is no tensor")
    if not isinstance(entry["dtype"], str) or len(offsets) != 2:
        raise ValueError(f"damaged description: {name!r} is no tensor")
    return _Part(entry["dtype"], shape, *offsets)


def _read_2(
    file: BinaryIO, start: int, parts: dict[str, _Part], meta: dict[str, Any], mmap: bool, check: bool
) -> dict[str, Any] | None:
    _check_parts(parts, {"veils", "names", "records", "about"})
    veils = _veils(file, start, parts["veils"], mmap)
    blobs = {name: _blob(file, start, parts[name]) for name in ("names", "records", "about")}
    version = meta["version"]
    if check or "head" not in meta:
        fits = digest(veils.shape, {"veils": veils.numpy().reshape(-1).data, **blobs}, version) == meta.get("sha256")
    else:
        fits = digest(veils.shape, blobs, version) == meta["head"]
    if not fits:
        return None
    records = _parse(blobs["records"].decode())
    about = _about(_object(blobs["about"].decode()), ABOUT if version == SEALED_VERSION else ABOUT_2)
    names = blobs["names"].decode()
    return {"veils": veils, "names": names.split("\n") if names else [], "records": records, **about}


def _read_1(
    file: BinaryIO, start: int, parts: dict[str, _Part], meta: dict[str, Any], mmap: bool, check: bool
) -> dict[str, Any] | None:
    about = meta.get("about")
    if not isinstance(about, str):
        raise ValueError("not the parts of a veil bank")
    _check_parts(parts, {"veils"})
    veils = _veils(file, start, parts["veils"], mmap)
    values = _about(_object(about), ABOUT_1)
    return {"veils": veils, **values} if digest_1(veils, about) == meta.get("sha256") else None


def _check_parts(parts: dict[str, _Part], wanted: set[str]) -> None:
    """Every tensor is there, of bytes, and as long as its shape says."""
    if set(parts) != wanted:
        raise ValueError("not the parts of a veil bank")
    for name, part in parts.items():
        count, rank = 1, 4 if name == "veils" else 1
        for n in part.shape:
            count *= n
        if part.dtype != "U8" or len(part.shape) != rank or count != part.end - part.begin:
            shape = "[P, 3, H, W]" if name == "veils" else "[bytes]"
            raise ValueError(f"{name} must be uint8 {shape}, got {part.dtype} {part.shape} in {part.end - part.begin}")


def _veils(file: BinaryIO, start: int, part: _Part, mmap: bool) -> torch.Tensor:
    """The veils, uint8, in memory of their own, or mapped: what is written there never reaches the file."""
    try:
        if mmap and part.end > part.begin:
            # mmap wants offsets in whole pages, so it is the whole file; the tensor keeps the mapping alive.
            whole = mapping.mmap(file.fileno(), 0, access=mapping.ACCESS_COPY)
            flat = torch.frombuffer(whole, dtype=torch.uint8, count=part.end - part.begin, offset=start + part.begin)
            return flat.reshape(part.shape)
        veils = torch.empty(part.shape, dtype=torch.uint8)
    except RuntimeError as error:  # torch's for memory that cannot be had, and for sides whose product is too large
        raise ValueError(f"veils of {part.shape} bytes do not fit in memory") from error
    file.seek(start + part.begin)
    if file.readinto(veils.numpy().reshape(-1).data) != part.end - part.begin:  # type: ignore[attr-defined]
        raise ValueError("not a veil file, or truncated while it was read")
    return veils


def _blob(file: BinaryIO, start: int, part: _Part) -> bytes:
    file.seek(start + part.begin)
    return _exactly(file, part.end - part.begin)


def _exactly(file: BinaryIO, count: int) -> bytes:
    found = file.read(count)
    if len(found) != count:
        raise ValueError("not a veil file, or truncated while it was read")
    return found


def _about(values: dict[str, Any], wanted: frozenset[str]) -> dict[str, Any]:
    if set(values) != wanted:
        raise ValueError(f"damaged description: wanted the entries {', '.join(sorted(wanted))}")
    return values


def _object(text: str) -> dict[str, Any]:
    values = _parse(text)
    if not isinstance(values, dict):
        raise ValueError("damaged description: not a JSON object")
    return values


def _parse(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"damaged description: {error}") from error


def _json(what: str, value: object) -> bytes:
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"VeilBank: {what} must hold only what JSON can: {error}") from error
