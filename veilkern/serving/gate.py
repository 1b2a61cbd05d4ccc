"""Gate: what holds for every request around its route: sizes, deadlines, memory, headers, metrics, one log line.

A pure ASGI middleware: a slow client costs a connection and its own bytes, never a thread.
"""

from __future__ import annotations

import logging
import time
import traceback
from typing import Any

import anyio
from starlette.requests import ClientDisconnect

from veilkern.serving.metrics import METRICS
from veilkern.serving.problems import MEDIA_TYPE, Problem
from veilkern.serving.settings import Settings

log = logging.getLogger("veilkern.serving")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
_QUIET = ("/healthz", "/readyz", "/metrics")  # asked for every few seconds: no log line


class Gate:
    """Around `app`; see Settings for the limits."""

    def __init__(self, app: Any, settings: Settings):
        self._app, self._settings = app, settings
        self._held = 0  # bytes of bodies that came, of requests that are not answered
        self._inside = 0  # requests that are not answered

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        passage = _Passage(self, scope, receive, send)
        METRICS.in_flight.inc()
        self._inside += 1
        try:
            await passage.go()
        finally:
            self._inside -= 1
            METRICS.in_flight.dec()
            self._held -= passage.held
            passage.tell()

    def admit(self, path: str) -> None:
        """Problem `busy` where too many requests are inside; those that ask for the service's health always come in."""
        if self._inside > self._settings.connections and path not in _QUIET:
            raise Problem("busy", "too many requests at a time", retry_after="1", connection="close")

    def hold(self, count: int) -> None:
        """Take in `count` more bytes; Problem `busy` where all bodies together are too many."""
        if self._held + count > self._settings.memory_mib << 20:
            raise Problem("busy", "too many bodies are being taken in", retry_after="1", connection="close")
        self._held += count


class _Passage:
    """One request on its way. Three deadlines, one after another: its body comes, it is served, its answer goes."""

    def __init__(self, gate: Gate, scope: Any, receive: Any, send: Any):
        self.gate, self.scope, self._receive, self._send = gate, scope, receive, send
        self.settings = gate._settings
        self.begun = time.monotonic()
        self.status, self.held, self.whole, self.code = 0, 0, False, ""
        self.clock = anyio.CancelScope()

    async def go(self) -> None:
        self.whole = not any(name in (b"content-length", b"transfer-encoding") for name, _ in self.scope["headers"])
        settings = self.settings
        self.clock.deadline = anyio.current_time() + (settings.deadline if self.whole else settings.body_seconds)
        with self.clock:
            try:
                self.gate.admit(self.scope["path"])
                self._check_length()
                await self.gate._app(self.scope, self.receive, self.send)
            except Problem as problem:
                await self.answer(problem)
            except ClientDisconnect:
                self.code = "gone"
            except Exception as error:
                await self._failed(error)
        if self.clock.cancelled_caught:
            if self.status:  # half an answer went, and nobody takes the rest
                self.code = "slow"
                await self._abort()
                return
            whole = self.whole
            detail = (
                "not answered in time" if whole else f"the body did not come within {self.settings.body_seconds:g} s"
            )
            with anyio.move_on_after(self.settings.body_seconds):
                await self.answer(Problem("deadline" if whole else "slow", detail, connection="close"))

    async def _failed(self, error: Exception) -> None:
        """A fault of the service: where it is goes to the log, not its text, which may have names; the connection stays
        (the server would close it on an exception, whatever else is on its way)."""
        where = "".join(traceback.format_tb(error.__traceback__))
        log.error("%s in\n%s", type(error).__name__, where)
        if not self.status:
            await self.answer(Problem("failed", "a fault of the service; its log says where"))

    async def _abort(self) -> None:
        """End the connection at once, where the server lets us; another server is told by the exception."""
        abort = self.scope.get("veilkern.abort")
        if abort is None:
            raise ConnectionAbortedError("the answer was not taken in time")
        abort()
        for _ in range(3):  # until the server has seen it
            await anyio.sleep(0)

    async def receive(self) -> Any:
        message = await self._receive()
        if message["type"] == "http.request":
            count = len(message.get("body", b""))
            if self.held + count > self.settings.body_bytes:
                raise self._too_large()
            self.gate.hold(count)
            self.held += count
            if not message.get("more_body") and not self.whole:
                self.whole = True
                self.clock.deadline = anyio.current_time() + self.settings.deadline
        return message

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = {name.lower() for name, _ in message.get("headers", ())}
            message["headers"] = [*message.get("headers", ()), *(pair for pair in _HEADERS if pair[0] not in own)]
            self.clock.deadline = anyio.current_time() + self.settings.body_seconds
        await self._send(message)

    async def answer(self, problem: Problem) -> None:
        """The problem, where nothing was answered yet."""
        if self.status:
            raise problem
        self.code = problem.code
        body = problem.body()
        headers = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), **problem.headers}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": problem.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})

    def _check_length(self) -> None:
        """A body that says it is too large is refused before it comes."""
        for name, value in self.scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self.settings.body_bytes:
                raise self._too_large()

    def _too_large(self) -> Problem:
        return Problem("too_large", f"a body of at most {self.settings.body_mib} MiB is taken", connection="close")

    def tell(self) -> None:
        """Metrics, and a line of the log, by the route's template: a path has names."""
        route = getattr(self.scope.get("route"), "path", "other")
        seconds, status = time.monotonic() - self.begun, self.status or 499
        METRICS.requests.labels(route, str(status)).inc()
        METRICS.seconds.labels(route).observe(seconds)
        code = self.code or self.scope.get("veilkern.code", "")
        if code:
            METRICS.errors.labels(route, code).inc()
        if route not in _QUIET:
            log.info("%s %s %d %s%.1f ms", self.scope["method"], route, status, code and f"{code} ", 1000 * seconds)
