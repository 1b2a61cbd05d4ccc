"""/v1/veils and /v1/jobs: who has a veil, and crafting, rotating and removing them while the service runs."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging

import torch
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from veilkern.data.files import is_plain_name
from veilkern.data.photos import decode_photo
from veilkern.errors import BankError, OutputError
from veilkern.serving import history, intake
from veilkern.serving.crafting_job import pack
from veilkern.serving.intake import only, query
from veilkern.serving.jobs import Jobs
from veilkern.serving.problems import Problem
from veilkern.serving.served import Served
from veilkern.serving.state import State, state_of
from veilkern.veils.bank import VeilBank, update_bank

log = logging.getLogger("veilkern.serving")
WAIT = 10.0  # seconds for whoever else changes the bank
PAGE = 1000  # persons of a list


async def list_veils(request: Request) -> Response:
    """A page of persons, in the bank's order."""
    state = _admitted(request)
    only(request, "after", "limit")
    limit = query(request, "limit", functools.partial(intake.whole, least=1, most=PAGE), PAGE)
    bank = state.served.bank
    after = request.query_params.get("after")
    row = -1 if after is None else bank.row_of(after)
    if row is None:
        raise Problem("unknown_person", "after: nobody of that name has a veil")
    names = bank.names[row + 1 : row + 1 + limit]
    records = [bank.record(name) for name in names]
    people = [
        {"name": name, "status": record.get("status"), "generation": record["generation"]}
        for name, record in zip(names, records, strict=True)
    ]
    more = row + 1 + limit < len(bank)
    return JSONResponse({"veils": len(bank), "people": people, "next": names[-1] if more else None})


async def add_veils(request: Request) -> Response:
    """A job that crafts veils of persons who have none."""
    state = _admitted(request)
    return await _start(state, request, "add", None)


async def rotate_veil(request: Request) -> Response:
    """A job that gives a person another veil."""
    state = _admitted(request)
    name = request.path_params["name"]
    served = await state.with_everybody([name])
    if served.row_of(name) is None:
        raise Problem("unknown_person", "nobody of that name has a veil")
    return await _start(state, request, "rotate", name)


async def remove_veil(request: Request) -> Response:
    """Takes a person out of the bank's file."""
    state = _admitted(request)
    only(request, "confirm")
    name = request.path_params["name"]
    if request.query_params.get("confirm") != name:
        raise Problem(
            "malformed", "without the veil this person's photos are lost: ?confirm=NAME says that it is meant"
        )
    left = await state.aside(_removed, state, name)
    await state.bank_changed()
    return JSONResponse({"removed": name, "veils": left})


def _removed(state: State, name: str) -> int:
    path = state.settings.bank
    wanted = ""

    def without(bank: VeilBank | None) -> VeilBank:
        nonlocal wanted
        if bank is None or name not in bank:
            raise Problem("unknown_person", "nobody of that name has a veil")
        history.note(path, bank, name)
        wanted = history.keyed_as(bank, name)
        return bank.remove([name])

    try:
        left = update_bank(path, without, wait=min(WAIT, state.settings.deadline / 2))
        history.forget(path, wanted)
        return len(left)
    except (BankError, OutputError) as error:
        log.error("the bank is not changed: %s", str(error).replace(name, "NAME"))
        raise Problem("storage", "the bank's file cannot be changed now; the log says why") from error


async def list_jobs(request: Request) -> Response:
    """All jobs, the newest first."""
    _admitted(request)
    found = await state_of(request).aside(_jobs(request).all)
    return JSONResponse({"jobs": [dataclasses.asdict(job) for job in found]})


async def show_job(request: Request) -> Response:
    """One job; who finds it done finds its veils in use here."""
    state = _admitted(request)
    job = await state.aside(_jobs(request).get, request.path_params["job"])
    if job.status == "done":
        await state.aside(state.source.refresh)
    return JSONResponse(dataclasses.asdict(job))


async def cancel_job(request: Request) -> Response:
    """Asks a job to end."""
    state = _admitted(request)
    return JSONResponse(dataclasses.asdict(await state.aside(_jobs(request).cancel, request.path_params["job"])), 202)


def _admitted(request: Request) -> State:
    state = state_of(request)
    state.admit(request)
    return state


def _jobs(request: Request) -> Jobs:
    return state_of(request).jobs


async def _start(state: State, request: Request, kind: str, name: str | None) -> Response:
    if not state.settings.model:
        raise Problem("conflict", "started without --model: this service crafts nobody")
    served = state.served
    if intake.media_type(request) == "application/json":
        only(request)
        names, tensors = await state.aside(_templates, await request.body(), served, name)
    else:
        only(request, "resize", "convert")
        names, tensors = await _photos(state, request, served)
    people = list(dict.fromkeys(names))
    _check_people(served, kind, people, name)
    payload = await state.aside(pack, names, tensors)
    try:
        job = await state.aside(_jobs(request).begin, kind, people)
    except OutputError as error:
        log.error("a job cannot be begun: %s", error)
        raise Problem("storage", "the state of a job cannot be written; the log says why") from error
    _jobs(request).start(job, payload)
    return JSONResponse(dataclasses.asdict(job), 202, headers={"location": f"/v1/jobs/{job.job}"})


async def _photos(state: State, request: Request, served: Served) -> tuple[list[str], dict[str, torch.Tensor]]:
    resize, convert = (query(request, option, intake.truth, False) for option in ("resize", "convert"))
    sent = await intake.uploads(request, state.settings)
    size = served.bank.size
    decode = functools.partial(decode_photo, size=size, resize=resize, convert=convert, pixels=state.settings.pixels)
    images = await state.aside(intake.each, decode, sent, state.settings)
    return sent.people, {"photos": torch.stack([image for image, _ in images])}


def _templates(body: bytes, served: Served, name: str | None) -> tuple[list[str], dict[str, torch.Tensor]]:
    """Names and features float32 [n, d] of JSON {"names": [..], "features": [[..]]}; of a rotation names may be left
    out."""
    if served.bank.scheme != "sealed":
        raise Problem("conflict", "only sealed veils are crafted from features: send photos")
    try:
        given = json.loads(body)
        rows = given.pop("features")
        names = given.pop("names", None if name is None else [name] * len(rows))
        features = torch.tensor(rows, dtype=torch.float32)
        if (
            given
            or not isinstance(names, list)
            or features.ndim != 2
            or not 0 < len(features) == len(names)
            or not features.isfinite().all()
        ):
            raise ValueError("wanted features [n, d] and n names")
        if not all(isinstance(one, str) for one in names):
            raise ValueError("names must be text")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        wanted = '{"names": [NAME, ..], "features": [[NUMBER, ..], ..]}'
        raise Problem("malformed", f"wanted {wanted}: {error}") from error
    return names, {"features": features}


def _check_people(served: Served, kind: str, people: list[str], name: str | None) -> None:
    if kind == "rotate":
        if people != [name]:
            raise Problem("malformed", "the photos must be those of the person whose veil is rotated")
        return
    for person in people:
        if not is_plain_name(person):
            raise Problem("malformed", f"a name must be a plain folder name, got {person!r:.80}")
    if there := [person for person in people if person in served.bank]:
        raise Problem("conflict", f"{len(there)} of these have a veil already; rotate gives them another")
