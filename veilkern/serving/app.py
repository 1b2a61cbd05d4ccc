"""The ASGI application of `veilkern serve`: routes, what they are called in OpenAPI, and the life of one worker."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from veilkern import __version__
from veilkern.serving import explore, openapi, photos, tracing, veils
from veilkern.serving.gate import Gate
from veilkern.serving.metrics import METRICS
from veilkern.serving.problems import MEDIA_TYPE, Problem
from veilkern.serving.settings import Settings, token
from veilkern.serving.state import State, state_of

PAGE = Path(__file__).parent / "page"
WATCH = 1.0  # seconds between two looks at the bank's file
Route = Callable[[Request], Awaitable[Response]]
_PROTECT: list[tuple[str, str, Route]] = [("POST", "/v1/protect", photos.protect)]
_RECOVER: list[tuple[str, str, Route]] = [
    ("POST", "/v1/recover", photos.recover),
    ("POST", "/v1/explore", explore.explore),
]
_VEILS: list[tuple[str, str, Route]] = [
    ("GET", "/v1/veils", veils.list_veils),
    ("POST", "/v1/veils", veils.add_veils),
    ("POST", "/v1/veils/{name}/rotate", veils.rotate_veil),
    ("DELETE", "/v1/veils/{name}", veils.remove_veil),
    ("GET", "/v1/jobs", veils.list_jobs),
    ("GET", "/v1/jobs/{job}", veils.show_job),
    ("DELETE", "/v1/jobs/{job}", veils.cancel_job),
]
ROUTES = {"protect": _PROTECT, "recover": _RECOVER, "veils": _VEILS}


def create_app(settings: Settings) -> Any:
    """An ASGI application over the bank of `settings`; the token is that of the environment now.

    The bank is read here, so that what is wrong with it is raised here: BankError, OSError, ValueError. The
    application's lifespan, where the server runs it, watches the file; SIGHUP, where that is the main thread, reads it
    anew. Metrics are those of the process: of two applications in one they are added up."""
    state = State(settings)
    app = FastAPI(
        title="veilkern",
        version=__version__,
        description=openapi.DESCRIPTION,
        docs_url=None,  # their pages come from a CDN
        redoc_url=None,
        lifespan=_life,
        redirect_slashes=False,  # to an address that the request itself has named
    )
    app.openapi = openapi.documented(app)  # type: ignore[method-assign]
    app.state.veilkern = state
    _routes_of_all(app)
    wanted: list[tuple[str, tuple[str, str, Route]]] = (
        [("recover", ("GET", "/v1/audit", _audit))] if settings.audit else []
    )
    wanted += [(role, route) for role in settings.roles for route in ROUTES[role]]
    for role, (method, path, function) in wanted:
        if role in settings.roles:
            app.add_api_route(
                path, function, methods=[method], **openapi.about(function, path, role, state.protect_wants_token)
            )
    app.add_exception_handler(Problem, _answer)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _answer_http)  # type: ignore[arg-type]
    app.add_exception_handler(404, _answer_http)  # type: ignore[arg-type]
    app.add_exception_handler(405, _answer_http)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, _answer_fault)
    if settings.otel:
        tracing.trace(app)
    gate = Gate(app, settings)
    gate.app = app  # type: ignore[attr-defined]
    return gate


def _routes_of_all(app: FastAPI) -> None:
    for path, function in (("/healthz", _alive), ("/readyz", _ready), ("/metrics", _metrics), ("/v1/about", _about)):
        app.add_api_route(path, function, methods=["GET"], tags=["service"])
        app.add_api_route(path, function, methods=["HEAD"], include_in_schema=False)
    app.add_api_route("/", _page, methods=["GET", "HEAD"], include_in_schema=False)
    app.add_api_route("/static/{name}", _static, methods=["GET"], include_in_schema=False)


@contextlib.asynccontextmanager
async def _life(app: FastAPI) -> AsyncIterator[None]:
    """Watches the bank's file while the worker serves; ends its jobs and threads afterwards."""
    state: State = app.state.veilkern
    loop = asyncio.get_running_loop()
    if state.closed:
        state.open()

    async def reload(force: bool = False) -> None:
        await loop.run_in_executor(None, lambda: state.source.refresh(force=force))

    if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGHUP"):
        loop.add_signal_handler(signal.SIGHUP, lambda: loop.create_task(reload(True)))
    watch = loop.create_task(_watch(reload))
    try:
        yield
    finally:
        watch.cancel()
        await state.close()


async def _watch(reload: Callable[[], Awaitable[None]]) -> None:
    """Read the bank's file again whenever it is another one. A worker whose supervisor is gone ends."""
    supervisor = multiprocessing.parent_process()
    while True:
        await asyncio.sleep(WATCH)
        if supervisor is not None and not supervisor.is_alive():
            signal.raise_signal(signal.SIGTERM)
            return
        await reload()


async def _alive(request: Request) -> Response:
    """200 while the process answers."""
    return JSONResponse({"alive": True})


async def _ready(request: Request) -> Response:
    """200 while photos are taken."""
    state = state_of(request)
    ready = state.batcher.alive and not state.closed
    return JSONResponse({"ready": ready}, 200 if ready else 503)


async def _metrics(request: Request) -> Response:
    """Metrics for Prometheus."""
    state = state_of(request)
    if state.settings.token_everywhere:
        state.admit(request)
    body, kind = METRICS.exposition()
    return Response(body, headers={"content-type": kind})


async def _about(request: Request) -> Response:
    """What this service does, and how much at a time; nothing about persons."""
    state = state_of(request)
    settings, bank = state.settings, state.served.bank
    return JSONResponse(
        {
            "version": __version__,
            "scheme": bank.scheme,
            "size": list(bank.size),
            "levels": bank.levels,
            "rounds": bank.rounds,
            "blend": bank.blend,
            "error_bound": bank.error_bound,
            "roles": list(settings.roles),
            "token": {"set": token() is not None, "everywhere": state.protect_wants_token},
            "limits": {"body_bytes": settings.body_bytes, "photos": settings.photos, "pixels": settings.pixels},
            "audit": settings.audit is not None and "recover" in settings.roles,
            "model": bank.model.get("name"),
            "crafts": bool(settings.model),
        }
    )


async def _audit(request: Request) -> Response:
    """The audit.json of `veilkern audit`."""
    state = state_of(request)
    state.admit(request)
    assert state.settings.audit is not None
    path = state.settings.audit / "audit.json"
    try:
        return Response(await state.aside(path.read_bytes), media_type="application/json")
    except OSError as error:
        raise Problem("not_found", "there is no audit.json in the folder of --audit") from error


async def _page(request: Request) -> Response:
    return FileResponse(PAGE / "index.html", media_type="text/html")


# Not guessed by the system's table: with nosniff, a script that is called anything else is not run.
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_FILES = frozenset(path.name for path in PAGE.iterdir() if path.suffix in _TYPES)


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _FILES:
        raise Problem("not_found", "no such file")
    return FileResponse(PAGE / name, media_type=_TYPES[Path(name).suffix])


async def _answer(request: Request, problem: Problem) -> Response:
    request.scope["veilkern.code"] = problem.code
    return Response(problem.body(), problem.status, {**problem.headers, "content-type": MEDIA_TYPE})


async def _answer_fault(request: Request, error: Exception) -> Response:
    """A fault of the service: the gate puts into the log where; the client is told that there was one."""
    return await _answer(request, Problem("failed", "a fault of the service; its log says where"))


async def _answer_http(request: Request, error: HTTPException) -> Response:
    if error.status_code == 405:
        return await _answer(request, Problem("method", "not this method here", None, **(error.headers or {})))
    return await _answer(request, Problem("not_found", "no such route, in this role"))
