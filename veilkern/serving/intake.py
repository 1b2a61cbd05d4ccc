"""Intake: what a request brings, taken out of its body in memory alone, with every limit checked before any work."""

from __future__ import annotations

import functools
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from veilkern.errors import PhotoError
from veilkern.serving.problems import Problem
from veilkern.serving.served import Served
from veilkern.serving.settings import Settings

MULTIPART, RAW = "multipart/form-data", "application/octet-stream"
MAX_DETAIL = 500  # characters of what is said of a photo: its file may have named anything
MAX_NAME_BYTES = 4096  # of the fields that are no files


@dataclass(frozen=True)
class Uploads:
    """The files of a request in order: names as uploaded, bytes, and of each the person."""

    names: list[str]
    files: list[bytes]
    people: list[str]


class _InMemory(MultiPartParser):
    """Starlette's parser writes files of more than a megabyte to the disk; photos have no business there."""

    spool_max_size = 1 << 62
    max_file_size = 1 << 62  # the same, as older versions call it


def media_type(request: Request) -> str:
    """What the request says its body is, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def uploads(request: Request, settings: Settings) -> Uploads:
    """The photos and persons of a multipart request. Problems malformed, media_type, too_large."""
    if media_type(request) != MULTIPART:
        raise Problem("media_type", f"wanted {MULTIPART} (or, to protect and recover, {RAW})")
    limit = settings.photos
    parser = _InMemory(
        _with_utf8(request), request.stream(), max_files=limit, max_fields=limit, max_part_size=MAX_NAME_BYTES
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        code = "too_large" if "Too many" in error.message else "malformed"
        raise Problem(code, error.message.rstrip(".")) from error
    except (ValueError, UnicodeError, KeyError) as error:
        raise Problem("malformed", f"a multipart body that cannot be read: {error}") from error
    return _of_form(form.multi_items())


def _with_utf8(request: Request) -> Headers:
    """The headers without a charset of the client's: names are UTF-8, as browsers and curl write them."""
    parts = [part for part in request.headers["content-type"].split(";") if not re.match(r"\s*charset\s*=", part, re.I)]
    return Headers({"content-type": ";".join(parts)})


def _of_form(items: list[tuple[str, Any]]) -> Uploads:
    if unknown := [name for name, _ in items if name not in ("person", "photo")]:
        raise Problem("malformed", f"fields are person and photo, got {unknown[0]!r:.80}")
    photos = [value for name, value in items if name == "photo"]
    people = [value for name, value in items if name == "person"]
    if not all(isinstance(photo, UploadFile) for photo in photos):
        raise Problem("malformed", "photo must be a file (with a filename)")
    if not all(isinstance(person, str) for person in people):
        raise Problem("malformed", "person must be text, not a file")
    files = [photo.file.read() for photo in photos]
    return Uploads([photo.filename or "photo" for photo in photos], files, _each(people, len(photos)))


def _each(people: list[str], count: int) -> list[str]:
    """Of each photo its person; one person alone is that of all."""
    if count == 0:
        raise Problem("malformed", "no photo in it")
    if len(people) == 1:
        return people * count
    if len(people) != count:
        raise Problem("malformed", f"{count} photos and {len(people)} persons: give one a photo, or one for all")
    return people


async def raw(request: Request, settings: Settings, served: Served, dtype: str) -> tuple[np.ndarray, list[str]]:
    """Photos [n, H, W, 3] of a raw request, read-only and without a copy, and of each the person."""
    people = request.query_params.getlist("person")
    if not people:
        raise Problem("malformed", "no person in the query: ?person=NAME, one a photo, or one for all")
    if len(people) > settings.photos:
        raise Problem("too_large", f"at most {settings.photos} photos a request, got {len(people)}")
    body = await request.body()
    one = math.prod(served.bank.size) * 3 * np.dtype(dtype).itemsize
    count = len(body) // one
    if not body or len(body) % one:
        height, width = served.bank.size
        raise Problem(
            "malformed", f"a body of {dtype} [N, {height}, {width}, 3] has N x {one} bytes, got {len(body)} bytes"
        )
    if count > settings.photos:
        raise Problem("too_large", f"at most {settings.photos} photos a request, got {count}")
    photos = np.frombuffer(body, np.dtype(dtype).newbyteorder("<")).astype(dtype, copy=False)
    return photos.reshape(count, *served.bank.size, 3), _each(people, count)


def rows_of(served: Served, people: list[str]) -> np.ndarray:
    """Rows int64 [n] of these persons. Problem unknown_person, with the places of whoever has no veil."""
    rows = [served.row_of(person) for person in people]
    if None in rows:
        problems = [
            {"index": i, "detail": "nobody of that name has a veil"} for i, row in enumerate(rows) if row is None
        ]
        raise Problem("unknown_person", f"no veil for {len(problems)} of {len(rows)}", problems)
    found = np.array(rows, np.int64)
    why = {row: served.marking.why_not(row) for row in set(found.tolist())}
    if any(why.values()):
        problems = [{"index": i, "detail": why[row]} for i, row in enumerate(found.tolist()) if why[row]]
        raise Problem("conflict", "the service does not have the key of everybody here", problems)
    return found


def each(function: Callable[..., Any], uploads: Uploads, settings: Settings) -> list[Any]:
    """function(bytes, name) of each file. Problem bad_photo lists every photo at fault; Problem deadline as soon as
    nobody waits for the rest any more, so that no request keeps a thread for longer than one photo takes."""
    found, problems, end = [], [], time.monotonic() + settings.deadline
    for place, (name, data) in enumerate(zip(uploads.names, uploads.files, strict=True)):
        if time.monotonic() > end:
            raise Problem("deadline", "not read in time")
        try:
            found.append(function(data, name))
        except PhotoError as error:
            problems.append({"index": place, "detail": str(error)[:MAX_DETAIL]})
    if problems:
        raise Problem("bad_photo", f"{len(problems)} of {len(uploads.files)} cannot be used", problems)
    return found


def query(request: Request, name: str, kind: Callable[[str], Any], default: Any) -> Any:
    """One value of the query. Problem malformed where it is none of its kind."""
    given = request.query_params.getlist(name)
    if not given:
        return default
    if len(given) > 1:
        raise Problem("malformed", f"{name}: given {len(given)} times")
    text = given[0]
    try:
        return kind(text)
    except ValueError as error:
        raise Problem("malformed", f"{name}: {error}") from error


def only(request: Request, *known: str) -> None:
    """Problem malformed for a query that would be passed over."""
    if unknown := [name for name in request.query_params if name not in known]:
        raise Problem("malformed", f"no such query: {unknown[0]!r:.80}; there are {', '.join(known) or 'none'}")


def truth(text: str) -> bool:
    """true or false."""
    if text not in ("true", "false"):
        raise ValueError(f"must be true or false, got {text!r:.80}")
    return text == "true"


def whole(text: str, least: int, most: int) -> int:
    """A whole number in a range."""
    if not re.fullmatch("[0-9]{1,9}", text, re.ASCII) or not least <= int(text) <= most:
        raise ValueError(f"must be a whole number in {least}..{most}, got {text!r:.80}")
    return int(text)


def number(text: str, least: float, most: float) -> float:
    """A number in a range."""
    if not re.fullmatch(r"[-+]?[0-9.]{1,30}(e[-+]?[0-9]{1,3})?", text, re.ASCII):
        raise ValueError(f"must be a number, got {text!r:.80}")
    found = float(text)
    if not least <= found <= most:  # false of NaN
        raise ValueError(f"must be in {least:g}..{most:g}, got {text!r:.80}")
    return found


def one_of(*choices: str) -> Callable[[str], str]:
    """One of these words."""

    def chosen(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, got {text!r:.80}")
        return text

    return chosen


sigma = functools.partial(number, least=0.1, most=100.0)  # as ops.recover
