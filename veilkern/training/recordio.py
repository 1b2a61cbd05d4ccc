"""insightface's .rec and .idx: photos in MXNet's RecordIO, mapped into memory and read without mxnet.

A record: the number MAGIC; a word with the length of its part in 29 bits and in the upper 3 whether the part is whole
(0), the first (1), one in the middle (2) or the last (3) of several, between which MAGIC stood in the payload; the
part, padded to 4 bytes. Payload: flag (uint32), label (float32), two ids (uint64), little-endian; where flag > 0, so
many float32 labels, which stand for the one before; then the photo, a JPEG. The .idx has a line `number<tab>offset` for
each record. Record 0 has two labels: photos are records 1 to before the first label, and from it to before the second
label there is a record for each identity, whose two labels say in the same way which photos are its own. Where records
of identities are missing, photos are told apart by their own label; where record 0 is, every record is a photo.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from veilkern.data.photos import MAX_FILE_BYTES, printable
from veilkern.errors import PhotoError

MAGIC = 0xCED7230A
_WORDS, _HEADER = struct.Struct("<II"), struct.Struct("<IfQQ")
_MOST_LABELS = 4096  # of one record; the usual are 0, 2 or a face's landmarks
_CHUNK = 1 << 16  # records whose labels are read at a time


@dataclass(frozen=True)
class Header:
    """Of one record's payload. labels: one, or as many as its flag says. size: bytes of the header with its labels."""

    flag: int
    labels: tuple[float, ...]
    size: int


class RecordFile:
    """A .rec with its .idx. Whatever is wrong is a PhotoError that names the file, and the offset where there is one.

    It can be sent to another process, which maps the file itself.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.index = self.path.with_suffix(".idx")
        self._map: mmap.mmap | None = None
        self._size = self._stat(self.path)
        self.keys, self.offsets = self._read_index()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_map": None}

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, row: int) -> bytes:
        """The payload of the record in a row of the index. Lengths are checked before anything is copied."""
        whole, at = bytearray(), int(self.offsets[row])
        kind, data, end = self._part(at)
        if kind == 0:
            return bytes(data)
        if kind != 1:
            raise self._error(at, "a record begins with a part from its middle")
        whole += data
        while kind != 3:
            at = end
            kind, data, end = self._part(at)
            if kind not in (2, 3):
                raise self._error(at, "a record of several parts breaks off")
            if len(whole) + len(data) > MAX_FILE_BYTES:
                raise self._error(at, f"a record larger than {MAX_FILE_BYTES >> 20} MiB, no face photo")
            whole += MAGIC.to_bytes(4, "little") + data
        return bytes(whole)

    def header(self, row: int, payload: bytes) -> Header:
        """The header of the payload that `read` gave for this row."""
        at = int(self.offsets[row])
        if len(payload) < _HEADER.size:
            raise self._error(at, f"a payload of {len(payload)} bytes, too short for its header")
        flag, label, _, _ = _HEADER.unpack_from(payload)
        if flag == 0:
            return Header(0, (label,), _HEADER.size)
        if flag > _MOST_LABELS or _HEADER.size + 4 * flag > len(payload):
            raise self._error(at, f"{flag} labels, more than the record of {len(payload)} bytes holds")
        labels = struct.unpack_from(f"<{flag}f", payload, _HEADER.size)
        return Header(flag, labels, _HEADER.size + 4 * flag)

    def photo(self, row: int) -> bytes:
        """The encoded photo of a row."""
        payload = self.read(row)
        return payload[self.header(row, payload).size :]

    def identities(self) -> Iterator[tuple[str, np.ndarray]]:
        """Name and rows int64 [n] of each identity's photos, in the order of the file."""
        first = self._row_of(0)
        header = None if first is None else self.header(first, self.read(first))
        if header is None or header.flag == 0:
            yield from self._by_label(np.arange(len(self)))
            return
        start, stop = self._range(first, header, float("inf"))
        if self._row_of(start) is None:  # or where there are no records of identities
            rows = np.flatnonzero((self.keys >= 1) & (self.keys < start))
            yield from self._by_label(rows)
            return
        for number in range(start, stop):
            row = self._row_of(number)
            if row is None:
                raise PhotoError(f"{self._name(self.index)}: no record {number}, which record 0 says is an identity")
            begin, end = self._range(row, self.header(row, self.read(row)), start)
            low, high = np.searchsorted(self._sorted_keys, [begin, end])
            yield f"id {number}", self._by_key[low:high]

    def _by_label(self, rows: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        parts = [self._labels(rows[i : i + _CHUNK]) for i in range(0, len(rows), _CHUNK)]
        labels = np.concatenate([*parts, np.zeros(0, dtype=np.float32)])
        order = labels.argsort(kind="stable")
        values, starts = np.unique(labels[order], return_index=True)
        for value, own in zip(values, np.split(rows[order], starts[1:]), strict=True):
            yield f"label {value:.9g}", own

    def _labels(self, rows: np.ndarray) -> np.ndarray:
        """The first label of each row, float32, from the first bytes of each record."""
        data = np.frombuffer(self._mapped(), dtype=np.uint8)
        at = self.offsets[rows]
        length = _WORDS.size + _HEADER.size
        if len(short := at[at + length > self._size]):
            raise self._error(int(short[0]), "truncated: the file ends within a record's header")
        heads = data[at[:, None] + np.arange(length)]
        magic, flag = heads[:, :4].copy().view("<u4")[:, 0], heads[:, 8:12].copy().view("<u4")[:, 0]
        labels = heads[:, 12:16].copy().view("<f4")[:, 0].copy()
        if len(wrong := at[magic != MAGIC]):
            raise self._error(int(wrong[0]), "no record begins here: the magic number is missing")
        for row in np.flatnonzero(flag > 0):
            labels[row] = self.header(int(rows[row]), self.read(int(rows[row]))).labels[0]
        if not np.isfinite(labels).all():
            raise self._error(int(at[~np.isfinite(labels)][0]), "a label that is not a number")
        return labels

    def _range(self, row: int | None, header: Header, limit: float) -> tuple[int, int]:
        """The numbers of records from the first label to before the second, which is `limit` at most."""
        at = int(self.offsets[row or 0])
        low, high = (*header.labels, 0.0, 0.0)[:2]
        if header.flag < 2 or not 1 <= low <= high <= limit or not low.is_integer() or not high.is_integer():
            raise self._error(
                at, f"labels {header.labels[:2]}, wanted the first record of a range and the one after it"
            )
        return int(low), int(high)

    def _row_of(self, key: int) -> int | None:
        place = int(np.searchsorted(self._sorted_keys, key))
        found = place < len(self) and int(self._sorted_keys[place]) == key
        return int(self._by_key[place]) if found else None

    def _part(self, at: int) -> tuple[int, memoryview, int]:
        """Kind and payload of the part at an offset, and where the next one begins."""
        if at + _WORDS.size > self._size:
            raise self._error(at, f"truncated: the file of {self._size} bytes ends here")
        magic, word = _WORDS.unpack_from(self._mapped(), at)
        if magic != MAGIC:
            raise self._error(at, "no record begins here: the magic number is missing")
        length, start = word & ((1 << 29) - 1), at + _WORDS.size
        if length > MAX_FILE_BYTES:
            raise self._error(at, f"a record larger than {MAX_FILE_BYTES >> 20} MiB, no face photo")
        if start + length > self._size:
            raise self._error(at, f"truncated: a record of {length} bytes, and {self._size - start} are left")
        return word >> 29, memoryview(self._mapped())[start : start + length], start + (length + 3) // 4 * 4

    def _mapped(self) -> mmap.mmap:
        if self._map is None:
            try:
                with open(self.path, "rb") as file:
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise PhotoError(f"{self._name(self.path)}: cannot be read: {error}") from error
            if len(self._map) != self._size:
                raise PhotoError(f"{self._name(self.path)}: its size has changed since it was first read")
        return self._map

    def _stat(self, path: Path) -> int:
        try:
            size = path.stat().st_size
        except OSError as error:
            raise PhotoError(f"{self._name(path)}: cannot be read: {error.strerror or error}") from error
        if not path.is_file() or size == 0:
            raise PhotoError(f"{self._name(path)}: {'the file is empty' if path.is_file() else 'not a file'}")
        return size

    def _read_index(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and offsets of all records, int64 [n] each, in the order of the lines."""
        size = self._stat(self.index)
        if size > self._size + (1 << 20):  # a line is never longer than its record
            raise PhotoError(f"{self._name(self.index)}: larger than the {self.path.name} that it is of")
        data = self.index.read_bytes()
        data += b"" if data.endswith(b"\n") else b"\n"
        if line := _first_bad_line(data):
            raise PhotoError(f"{self._name(self.index)}: line {line}: wanted a number, a tab and an offset")
        table = np.fromstring(data, dtype=np.int64, sep=" ").reshape(-1, 2)  # blanks of any kind stand between
        keys, offsets = np.ascontiguousarray(table[:, 0]), np.ascontiguousarray(table[:, 1])
        self._by_key = keys.argsort(kind="stable")
        self._sorted_keys = keys[self._by_key]
        if len(twice := self._sorted_keys[1:][self._sorted_keys[1:] == self._sorted_keys[:-1]]):
            raise PhotoError(f"{self._name(self.index)}: record {int(twice[0])} is there twice")
        wrong = (offsets % 4 != 0) | (offsets > self._size - _WORDS.size)
        if wrong.any():
            line = int(wrong.argmax())
            raise PhotoError(
                f"{self._name(self.index)}: line {line + 1}: offset {int(offsets[line])}, wanted a multiple of 4 "
                f"inside of the {self._size} bytes of {self.path.name}"
            )
        return keys, offsets

    def _error(self, at: int, cause: str) -> PhotoError:
        return PhotoError(f"{self._name(self.path)}: offset {at}: {cause}")

    def _name(self, path: Path) -> str:
        return printable(os.fspath(path))


def _first_bad_line(data: bytes) -> int:
    """The first line, counted from 1, that is not two whole numbers of 18 digits at most; 0 where there is none."""
    text = np.frombuffer(data, dtype=np.uint8)
    digit, end = (text >= ord("0")) & (text <= ord("9")), np.flatnonzero(text == ord("\n"))
    begins = digit & ~np.concatenate([[False], digit[:-1]])
    ends = digit & ~np.concatenate([digit[1:], [False]])
    line_of = np.searchsorted(end, np.flatnonzero(begins))  # of each number
    bad = np.bincount(line_of, minlength=len(end)) != 2
    bad[line_of[np.flatnonzero(ends) - np.flatnonzero(begins) >= 18]] = True
    other = np.flatnonzero(~digit & ~np.isin(text, np.frombuffer(b"\t \r\n", dtype=np.uint8)))
    bad[np.searchsorted(end, other)] = True
    return int(bad.argmax()) + 1 if bad.any() else 0
