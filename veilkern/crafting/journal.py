"""Journal: finished veils on disk as they finish, so that no way of dying loses them.

The file: a header, then one entry a person, each a part: the mark, the length of its content (8 bytes), the SHA-256 of
the content, the content. Parts are only ever appended, each in one go and synced to the disk. A part cut short at the
end is what a death while writing leaves: it is dropped. Any other damage is listed, and the search goes on at the next
mark. A header is JSON; an entry is the length of its JSON (4 bytes), the JSON record, and the veil's bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap as mapping
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from veilkern.data.files import atomic_write
from veilkern.errors import BankError, OutputError

FORMAT, FORMAT_VERSION = "veilkern.crafting.journal", 1
_PIECE = 1 << 20  # bytes of a journal in memory, where it is copied
_MARK = b"\x93vkpart\n"
_START = len(_MARK) + 8 + 32


class Journal:
    """The journal at `path`: header (a dict), entries (name -> record), problems (what of it was damaged). A name that
    comes twice counts as written last. The veils stay on the disk, see `veil`: they may be more than memory holds. The
    file is held open, so that they are there even when somebody tidies it away."""

    def __init__(self, path: Path, header: dict[str, Any], end: int):
        self.path, self.header = path, header
        self._file = path.open("rb", buffering=0)  # what a buffer has may be old
        self.entries: dict[str, dict[str, Any]] = {}
        self._places: dict[str, tuple[int, int]] = {}  # where each one's part begins, and its length
        self.problems: list[str] = []
        self._end = end

    @classmethod
    def create(cls, path: str | os.PathLike[str], header: dict[str, Any]) -> Journal:
        """A new journal, readable by its owner alone (0600). OutputError when it cannot be written or is there."""
        part = _part(json.dumps({"format": FORMAT, "version": FORMAT_VERSION, **header}, sort_keys=True).encode())
        atomic_write(path, part, mode=0o600, replace=False)
        try:
            return cls(Path(path), header, len(part))
        except OSError as error:
            raise OutputError(f"{path}: cannot be read again: {error.strerror or error}") from error

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Journal:
        """Read a journal, to go on with it. BankError when it cannot be read, is none or of another version."""
        path = Path(path)
        try:
            with _mapped(path) as data:
                return cls._of(path, data)
        except OSError as error:
            raise BankError(f"{path}: the journal cannot be read: {error.strerror or error}") from error

    @classmethod
    def _of(cls, path: Path, data: Bytes) -> Journal:
        parts = _parts(data)
        first, content = next(parts, (0, None))
        header = None if content is None or first else _json(content)
        if header is None or header.pop("format", None) != FORMAT:
            raise BankError(f"{path}: not a journal of veilkern, or its beginning is damaged")
        if (version := header.pop("version", None)) != FORMAT_VERSION:
            raise BankError(f"{path}: journal format {version!r}; this veilkern reads {FORMAT_VERSION}")
        journal = cls(path, header, _START + len(content or b""))
        for start, content in parts:
            journal._read(start, content)
        return journal

    @classmethod
    def take_up(cls, path: str | os.PathLike[str], resume: bool) -> Journal | None:
        """The journal at `path` to go on with; None where a new one can begin: nothing is there, or nothing is in it.

        OutputError when finished veils are in it and they were not asked for; BankError as `open`.
        """
        if not os.path.lexists(path):
            return None
        journal = cls.open(path)
        if resume:
            return journal
        if journal.entries or journal.problems:
            raise OutputError(
                f"{path}: there already, with {len(journal.entries)} finished veils of a craft that was interrupted; "
                "resume (--resume) goes on with them; delete it to begin anew"
            )
        journal.remove()
        return None

    def _read(self, start: int, content: bytes | None) -> None:
        """Take up the part at byte `start`; content is None where it is damaged."""
        entry = None if content is None else _entry(content, tuple(self.header.get("size", ())))
        if content is not None:
            self._end = start + _START + len(content)
        if entry is None:
            self.problems.append(f"{self.path}: the entry at byte {start} is damaged; its person is crafted again")
        else:
            self._take(entry[0], start, _START + len(content or b""))

    def _take(self, record: dict[str, Any], start: int, length: int) -> None:
        self.entries[record["name"]] = record
        self._places[record["name"]] = start, length

    def veil(self, name: str) -> torch.Tensor:
        """The veil of an entry, uint8 [3, H, W], read from the disk. BankError when it is no longer what was there."""
        start, length = self._places[name]
        try:
            self._file.seek(start)
            data = self._file.read(length)
        except OSError as error:
            raise BankError(f"{self.path}: the journal cannot be read: {error.strerror or error}") from error
        content = _content(data, 0)
        entry = None if content is None else _entry(content, tuple(self.header.get("size", ())))
        if entry is None or entry[0]["name"] != name:
            raise BankError(f"{self.path}: changed while it was in use: the veil of {name} is not where it was")
        return entry[1]

    def append(self, record: dict[str, Any], veil: torch.Tensor) -> None:
        """Put a person's record and veil, uint8 [3, H, W], on the disk. OutputError when that fails; what was there
        stays."""
        about = json.dumps(record, sort_keys=True).encode()
        part = _part(len(about).to_bytes(4, "little") + about + veil.contiguous().numpy().tobytes())
        try:
            if not self.path.exists():
                self._restore()
            with self.path.open("r+b", buffering=0) as file:
                there, ours = os.fstat(file.fileno()), os.fstat(self._file.fileno())
                if not os.path.samestat(there, ours):
                    raise OutputError(f"{self.path}: another program put another file there; move that away")
                if there.st_size < self._end:
                    raise OutputError(
                        f"{self.path}: another program cut it short while it was in use, and veils in it are lost; "
                        "move it away and begin anew"
                    )
                file.truncate(self._end)  # what an earlier death, or a full disk, left of a part
                file.seek(self._end)
                _write(file, part)
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be written: {error.strerror or error}; the {len(self.entries)} finished veils in "
                "it are safe: mend that, then go on with --resume"
            ) from error
        self._take(record, self._end, len(part))
        self._end += len(part)

    def _restore(self) -> None:
        """Write the file again from the one that is still open: somebody tidied it away."""
        self._file.seek(0)
        pieces = (self._file.read(min(_PIECE, self._end - done)) for done in range(0, self._end, _PIECE))
        atomic_write(self.path, pieces, mode=0o600, replace=False)
        self._file.close()
        self._file = self.path.open("rb", buffering=0)

    def remove(self) -> None:
        """Delete the file: its veils are in a bank now."""
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()


Bytes = bytes | mapping.mmap


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[Bytes]:
    """The bytes of a file, read as they are asked for."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            yield b""
            return
        with mapping.mmap(file.fileno(), 0, access=mapping.ACCESS_READ) as data:
            yield data


def _write(file: BinaryIO, part: bytes) -> None:
    view = memoryview(part)
    while len(view):  # a raw write may take less than all
        view = view[file.write(view) :]


def _part(content: bytes) -> bytes:
    return _MARK + len(content).to_bytes(8, "little") + hashlib.sha256(content).digest() + content


def _parts(data: Bytes) -> Iterator[tuple[int, bytes | None]]:
    """(start, content) of each part; content None for bytes that are no part but have parts behind them, or that end
    as a whole part does. What is cut short at the end is left out."""
    start = 0
    while start < len(data):
        content = _content(data, start)
        if content is not None:
            yield start, content
            start += _START + len(content)
            continue
        after = _next_part(data, start + 1)
        if after is not None or _whole(data, start):
            yield start, None
        start = len(data) if after is None else after


def _content(data: Bytes, start: int) -> bytes | None:
    """The content of the part at `start`, None unless it is whole and its checksum right."""
    if not _whole(data, start):
        return None
    length = int.from_bytes(data[start + len(_MARK) : start + len(_MARK) + 8], "little")
    content = data[start + _START : start + _START + length]
    return content if hashlib.sha256(content).digest() == data[start + _START - 32 : start + _START] else None


def _whole(data: Bytes, start: int) -> bool:
    """Whether a part begins at `start` and does not end before its length says."""
    length = int.from_bytes(data[start + len(_MARK) : start + len(_MARK) + 8], "little")
    return data[start : start + len(_MARK)] == _MARK and start + _START + length <= len(data)


def _next_part(data: Bytes, start: int) -> int | None:
    """Where the next good part begins."""
    while (start := data.find(_MARK, start)) >= 0:
        if _content(data, start) is not None:
            return start
        start += 1
    return None


def _json(content: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _entry(content: bytes, size: tuple[int, ...]) -> tuple[dict[str, Any], torch.Tensor] | None:
    length = 4 + int.from_bytes(content[:4], "little")
    record, veil = _json(content[4:length]), content[length:]
    if (
        record is None
        or not isinstance(record.get("name"), str)
        or len(size) != 2
        or len(veil) != 3 * size[0] * size[1]
    ):
        return None
    return record, torch.frombuffer(bytearray(veil), dtype=torch.uint8).view(3, *size)
