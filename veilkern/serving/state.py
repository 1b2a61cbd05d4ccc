"""What a worker has in hand while it serves: the bank, the batcher, the threads, the token."""

from __future__ import annotations

import asyncio
import functools
import hmac
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from starlette.requests import Request

from veilkern.serving.batcher import Batcher
from veilkern.serving.jobs import Jobs
from veilkern.serving.problems import Problem
from veilkern.serving.served import Served, Source
from veilkern.serving.settings import TOKEN, Settings, token
from veilkern.veils.bank import VeilBank


class State:
    """One an application, from `create_app` on: it serves until `close`, and again after `open`."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.source = Source(settings)
        self._token = token()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        refuse_open_keys(settings, self.served.bank)
        self.open()

    def open(self) -> None:
        """Begin to take photos."""
        settings = self.settings
        self.batcher = Batcher(settings.window_ms / 1000, settings.most, settings.queue)
        self.threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="veilkern-photos")
        self.closed = False

    @property
    def protect_wants_token(self) -> bool:
        """Whether protect wants the token, of the bank that is in use now."""
        return protect_wants_token(self.settings, self.served.bank)

    @functools.cached_property
    def jobs(self) -> Jobs:
        """The jobs of the service. Their folder is that of all workers, or one of this application's own."""
        folder = self.settings.run_folder
        if folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="veilkern-")
            folder = Path(self._folder.name)
        return Jobs(folder / "jobs", self.settings, self.bank_changed)

    async def bank_changed(self) -> None:
        """The bank is another: it is read here before anything goes on; other workers are told by their supervisor."""
        await self.aside(self.source.refresh)
        supervisor = multiprocessing.parent_process()
        ours = self.settings.run_folder is not None and self.settings.workers > 1  # as serve() sets them
        if ours and supervisor is not None and supervisor.is_alive() and supervisor.pid is not None:
            os.kill(supervisor.pid, signal.SIGHUP)

    @property
    def served(self) -> Served:
        """The bank in use; a request takes it once and keeps to it."""
        return self.source.now

    async def close(self) -> None:
        """After the last request: jobs end, what is being decoded for nobody is not waited for."""
        self.closed = True
        if "jobs" in self.__dict__:
            await self.jobs.close()
            del self.__dict__["jobs"]
        await asyncio.get_running_loop().run_in_executor(None, self.batcher.close)
        self.threads.shutdown(wait=False, cancel_futures=True)
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

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


def protect_wants_token(settings: Settings, bank: VeilBank) -> bool:
    """Of a bank that blends, a protected photo of one's own gives the veil away, and the veil opens all others."""
    return settings.token_everywhere or (bank.scheme == "blend" and not settings.open_protect)


def refuse_open_keys(settings: Settings, bank: VeilBank) -> None:
    """ValueError where nobody could protect, for want of a token."""
    if protect_wants_token(settings, bank) and "protect" in settings.roles and token() is None:
        raise ValueError(
            f"{settings.bank} blends: whoever may protect can compute its veils, and so recover. Set {TOKEN}, or say "
            "--open-protect (open_protect=True) if all who reach the service may do that"
        )


def state_of(request: Request) -> State:
    """The state of the app that serves this request."""
    state: State = request.app.state.veilkern
    return state
