"""What a worker has in hand while it serves: the bank, the batcher, the threads, the token."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.requests import Request

from veilkern.serving.batcher import Batcher
from veilkern.serving.problems import Problem
from veilkern.serving.served import Served, Source
from veilkern.serving.settings import Settings, token


class State:
    """One a process, from `create_app` on; `close` at its end."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.source = Source(settings)
        self.batcher = Batcher(settings.window_ms / 1000, settings.most, settings.queue)
        self.threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="veilkern-photos")
        self._token = token()

    @property
    def served(self) -> Served:
        """The bank in use; a request takes it once and keeps to it."""
        return self.source.now

    def close(self) -> None:
        """After the last request."""
        self.batcher.close()
        self.threads.shutdown()

    async def aside(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """function(*arguments) in a thread: what takes longer than the event loop can spare."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, function, *arguments)

    async def with_everybody(self, people: list[str]) -> Served:
        """The bank in use; read again first where somebody has no veil in it and the file is another by now."""
        served = self.served
        if any(served.row_of(person) is None for person in people):
            await self.aside(self.source.refresh)
        return self.served

    def admit(self, request: Request) -> None:
        """Problem no_token unless the request has the token."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if self._token is None or scheme.lower() != "bearer":
            raise Problem("no_token", "wanted: Authorization: Bearer TOKEN")
        if not hmac.compare_digest(given.strip().encode(), self._token):
            raise Problem("no_token", "the token is another")


def state_of(request: Request) -> State:
    """The state of the app that serves this request."""
    state: State = request.app.state.veilkern
    return state
