"""Photos as files hold them, many in one file: Parquet and WebDataset tars, read and written.

Parquet: columns `person` (text), `image` (the bytes of a PNG, JPEG or WebP, or a struct with them in `bytes`, as
Hugging Face's datasets has it) and, if it likes, `file` (the photo's name, for reports). Tar: members
`<person>/<photo>.<png|jpg|jpeg|webp>`; a member `<the same>.json` with a "person" says whose the photo is instead. All
photos of a person belong in one file. A file is read whole, as it is encoded.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
import operator
import tarfile
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import torch

from veilkern.data import photos as photo_files
from veilkern.data.files import atomic_write, is_plain_name
from veilkern.data.people import Problem, has_photos, usable_photos, why_not_plain
from veilkern.data.photos import decode_photo, printable
from veilkern.errors import PhotoError

SUFFIXES = (".parquet", ".tar")
WHOSE = operator.attrgetter("person")


@dataclass(frozen=True, repr=False)
class Encoded:
    """A photo of a person in a file's bytes; `file` is its name."""

    person: str
    file: str
    data: bytes


def read_encoded(where: str) -> list[Encoded]:
    """All photos of a file, path or URL, by person and name. PhotoError names the file and the cause."""
    try:
        with _opened(where) as file:
            found = (_of_parquet if where.lower().endswith(".parquet") else _of_tar)(file)
    except PhotoError as error:
        raise PhotoError(f"{printable(where)}: {error}") from error
    except MemoryError as error:
        raise PhotoError(f"{printable(where)}: not enough memory to read it") from error
    except Exception as error:  # readers of either kind, and of any place, raise errors of every class
        raise PhotoError(f"{printable(where)}: cannot be read: {printable(error) or type(error).__name__}") from error
    return sorted(found, key=operator.attrgetter("person", "file"))


def _opened(where: str) -> IO[bytes]:
    if "://" not in where:
        return open(where, "rb")
    import fsspec

    return fsspec.open(where, "rb").open()


def _of_parquet(file: IO[bytes]) -> list[Encoded]:
    from pyarrow import parquet

    table = parquet.ParquetFile(file)
    names = table.schema_arrow.names
    if missing := {"person", "image"} - set(names):
        raise PhotoError(f"no column {', '.join(sorted(missing))}; it has {', '.join(names)[:200]}")
    found = list[Encoded]()
    for batch in table.iter_batches(columns=[n for n in ("person", "file", "image") if n in names]):
        for row in batch.to_pylist():
            image, name = row["image"], row.get("file")
            if isinstance(image, dict):
                name = name or image.get("path")
                image = image.get("bytes")
            if not isinstance(row["person"], str) or not isinstance(image, (bytes, type(None))):
                raise PhotoError("columns person and image must hold text and bytes (or a struct with bytes)")
            name = str(name or "").lstrip("/") or f"{len(found):08d}"
            found.append(Encoded(row["person"], name, image or b""))
    return found


@dataclass(frozen=True)
class Member:
    """Where a photo lies in a tar: its bytes are `size` from `offset` on."""

    person: str
    file: str
    offset: int
    size: int


def members_of_tar(file: IO[bytes]) -> list[Member]:
    """The photos of an open tar, in its order, none of them read: a tar may be larger than memory."""
    found: list[tuple[PurePosixPath, tarfile.TarInfo]] = []
    owners: dict[str, str | None] = {}
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            kind = path.suffix.lower()
            if not member.isfile() or kind not in (*photo_files.SUFFIXES, ".json"):
                continue
            if member.issparse():
                raise PhotoError(f"{path}: stored as a sparse file; pack it plainly")
            if kind == ".json":
                content = archive.extractfile(member)
                assert content is not None  # it is a file
                owners[str(path.with_suffix(""))] = _owner(content.read(photo_files.MAX_FILE_BYTES + 1))
            else:
                found.append((path, member))
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes whatever comes for the end
            raise PhotoError("truncated: it stops before its end")
    members = []
    for path, member in found:
        person = owners.get(str(path.with_suffix(""))) or path.parent.name
        if not person:
            raise PhotoError(f"{path}: no person: wanted <person>/<photo>, or a .json beside it with a person")
        members.append(Member(person, path.name, member.offset_data, member.size))
    return members


def _of_tar(file: IO[bytes]) -> list[Encoded]:
    photos = []
    for member in members_of_tar(file):
        file.seek(member.offset)
        data = file.read(min(member.size, photo_files.MAX_FILE_BYTES + 1))
        photos.append(Encoded(member.person, member.file, data))
    return photos


def _owner(data: bytes) -> str | None:
    try:
        person = json.loads(data)["person"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return person if isinstance(person, str) else None


def persons_of(where: str, problems: list[Problem]) -> Iterator[tuple[str, list[Encoded]]]:
    """The persons of a file with their photos as they are; what has no good name, or the name of another, is added to
    `problems`."""
    for person, group in itertools.groupby(read_encoded(where), key=WHOSE):
        if not is_plain_name(person):
            problems.append(Problem(f"{where}:{person}", why_not_plain(person)))
            continue
        kept: dict[str, Encoded] = {}
        for photo in group:
            if kept.setdefault(photo.file, photo) is not photo:
                problems.append(Problem(f"{where}:{person}/{photo.file}", "comes twice; the first one counts"))
        yield person, list(kept.values())


def usable_encoded(
    where: str,
    size: int | tuple[int, int],
    resize: bool,
    convert: bool,
    problems: list[Problem],
    notices: list[Problem],
    done: Container[str] = (),
) -> Iterator[tuple[Path, list[tuple[Path, torch.Tensor]]]]:
    """As `usable_persons`, of the persons of a file who are not `done`."""
    for person, photos in persons_of(where, problems):
        if person in done:
            continue
        folder = Path(f"{where}:", person)
        data = {folder / photo.file: photo.data for photo in photos}
        read = functools.partial(_read, data, size, resize, convert)
        pixels = usable_photos(data, read, problems, notices)
        if has_photos(folder, pixels, problems, notices):
            yield folder, pixels


def _read(
    data: dict[Path, bytes], size: Any, resize: bool, convert: bool, file: Path
) -> tuple[torch.Tensor, list[str]]:
    return decode_photo(data[file], str(file), size=size, resize=resize, convert=convert)


def write_encoded(path: Path, photos: Iterable[Encoded], *, replace: bool) -> None:
    """Write photos as the kind of file that the name says, whole or not at all; OutputError, also where one is there
    that is not to be replaced."""
    buffer = io.BytesIO()
    if path.suffix.lower() == ".parquet":
        import pyarrow
        from pyarrow import parquet

        rows = [vars(photo) for photo in photos]
        kinds = {"person": pyarrow.string(), "file": pyarrow.string(), "data": pyarrow.binary()}
        table = pyarrow.Table.from_pylist(rows, pyarrow.schema(list(kinds.items())))
        # Encrypted pixels and PNG do not compress.
        parquet.write_table(table.rename_columns(["person", "file", "image"]), buffer, compression="none")
    else:
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for photo in photos:
                member = tarfile.TarInfo(f"{photo.person}/{photo.file}")
                member.size = len(photo.data)
                archive.addfile(member, io.BytesIO(photo.data))
    atomic_write(path, buffer.getbuffer(), replace=replace)
