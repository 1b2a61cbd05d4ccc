"""POST /v1/protect and /v1/recover: photos in, photos out, by the batcher."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from starlette.requests import Request
from starlette.responses import Response

from veilkern.data.marks import Mark
from veilkern.data.photos import decode_marked, decode_photo, encode_png
from veilkern.errors import PhotoError
from veilkern.serving import answers, intake
from veilkern.serving.batcher import Work
from veilkern.serving.intake import Uploads, only, query, truth
from veilkern.serving.metrics import METRICS
from veilkern.serving.problems import Problem
from veilkern.serving.served import Served
from veilkern.serving.settings import Settings
from veilkern.serving.state import State, state_of

Groups = dict[tuple[Served, str], tuple[list[int], Any, Any]]


async def protect(request: Request) -> Response:
    """Photos to protected photos: PNG with mark and tag, or raw as they came."""
    state = state_of(request)
    if state.protect_wants_token:
        state.admit(request)
    lossless = query(request, "lossless", truth, False)
    if intake.media_type(request) == intake.RAW:
        only(request, "person", "lossless")
        return await _raw(state, request, "protect", lossless, "uint8")
    only(request, "lossless", "resize", "convert")
    resize, convert = query(request, "resize", truth, False), query(request, "convert", truth, False)
    sent = await intake.uploads(request, state.settings)
    served = await state.with_everybody(sent.people)
    rows = intake.rows_of(served, sent.people)
    decode = functools.partial(
        decode_photo, size=served.bank.size, resize=resize, convert=convert, pixels=state.settings.pixels
    )
    photos = await state.aside(_stacked, decode, sent, state.settings)
    hidden = await _batched(state, Work("protect", served, lossless, "uint8"), photos, rows)
    return await state.aside(_protected, served, sent, hidden)


async def recover(request: Request) -> Response:
    """Protected photos to photos; of PNG, mark and tag are checked first."""
    state = state_of(request)
    state.admit(request)
    sigma = query(request, "gaussian_sigma", intake.sigma, None)
    if intake.media_type(request) == intake.RAW:
        only(request, "person", "gaussian_sigma", "dtype")
        dtype = query(request, "dtype", intake.one_of("uint8", "uint16"), "uint8")
        return await _raw(state, request, "recover", sigma, dtype)
    only(request, "gaussian_sigma", "force")
    force = query(request, "force", truth, False)
    sent = await intake.uploads(request, state.settings)
    served = await state.with_everybody(sent.people)
    intake.rows_of(served, sent.people)
    groups = await state.aside(_opened, served, sent, force, state.settings)
    found: list[Any] = [None] * len(sent.files)
    for (owner, dtype), (places, photos, rows) in groups.items():
        work = Work("recover", owner, sigma, dtype)
        for place, photo in zip(places, await _batched(state, work, photos, rows), strict=True):
            found[place] = photo
    return await state.aside(_recovered, sent, found)


async def _raw(state: State, request: Request, task: str, option: Any, dtype: str) -> Response:
    served = await state.with_everybody(request.query_params.getlist("person"))
    photos, people = await intake.raw(request, state.settings, served, dtype)
    found = await _batched(state, Work(task, served, option, dtype), photos, intake.rows_of(served, people))
    return answers.raw(found)


async def _batched(state: State, work: Work, photos: np.ndarray, rows: np.ndarray) -> np.ndarray:
    try:
        found: np.ndarray = await state.batcher.submit(work, photos, rows)
    except (TypeError, ValueError) as error:
        raise Problem("malformed", str(error)) from error
    METRICS.photos.labels(work.task).inc(len(photos))
    return found


def _stacked(decode: Any, sent: Uploads, settings: Settings) -> np.ndarray:
    """Photos uint8 [n, H, W, 3]."""
    return np.stack([image.permute(1, 2, 0).numpy() for image, _ in intake.each(decode, sent, settings)])


def _protected(served: Served, sent: Uploads, hidden: np.ndarray) -> Response:
    parts = []
    for name, person, photo in zip(sent.names, sent.people, hidden, strict=True):
        pixels = _channels_first(photo)
        parts.append(("photo", answers.png_name(name), encode_png(pixels, served.marked(person, pixels))))
    return answers.photos(parts)


def _recovered(sent: Uploads, found: list[np.ndarray]) -> Response:
    parts = zip(sent.names, found, strict=True)
    return answers.photos([("photo", answers.png_name(name), encode_png(_channels_first(p))) for name, p in parts])


def _opened(
    served: Served, sent: Uploads, force: bool, settings: Settings
) -> dict[tuple[Served, str], tuple[list[int], Any, Any]]:
    """By bank and dtype: places in the request, photos [n, H, W, 3], rows. Every mark and tag is checked."""
    wanted = iter(sent.people)

    def opened(data: bytes, name: str) -> tuple[Served, str, torch.Tensor]:
        person = next(wanted)
        hidden, mark = decode_marked(data, name, size=served.bank.size, force=force)
        return (*_whose(served, person, mark, hidden, name, force), hidden)

    groups: dict[tuple[Served, str], tuple[list[int], list[Any], list]] = {}
    for place, (owner, person, hidden) in enumerate(intake.each(opened, sent, settings)):
        pixels = hidden.permute(1, 2, 0).numpy()
        places, photos, rows = groups.setdefault((owner, str(pixels.dtype)), ([], [], []))
        places.append(place)
        photos.append(pixels)
        rows.append(owner.row_of(person))
    return {key: (p, np.stack(photos), np.array(rows, np.int64)) for key, (p, photos, rows) in groups.items()}


def _whose(served: Served, person: str, mark: Mark | None, hidden: torch.Tensor, name: str, force: bool):
    if force:
        return served, person
    try:
        return served.whose(person, mark, hidden)
    except PhotoError as error:
        raise PhotoError(f"{name}: {error}") from error


def _channels_first(photo: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(photo).permute(2, 0, 1)
