"""Jobs: crafting beside the service, each in a process of its own, its state a file that every worker can read.

Photos go to that process by its standard input and are on no disk. What is written is the state: a job's persons, how
far it is, how it ended. The folder lasts as long as the service.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from veilkern.data.files import atomic_write, locked, make_folder
from veilkern.errors import OutputError
from veilkern.serving.metrics import METRICS
from veilkern.serving.problems import Problem
from veilkern.serving.settings import Settings

log = logging.getLogger("veilkern.serving")
SETTINGS = "VEILKERN_SERVING"  # the environment variable that hands settings to worker and job processes
ENDED = ("done", "failed", "cancelled")
MOST = 8  # jobs that are not ended
KEPT = 1000  # ended ones whose state is kept
_BIRTH = 30.0  # seconds until a job's process certainly holds its lock
_GRACE = 10.0  # seconds for a job to end when the service does
_ID = re.compile("[0-9a-f]{16}")
_COMMAND = (sys.executable, "-m", "veilkern.serving.job_process")


@dataclass
class Job:
    """kind: add or rotate. status: queued, running, done, failed, cancelled. done, total: persons x steps. people:
    {name, status} of each once it is known. detail: why it failed. created, ended: seconds since 1970."""

    job: str
    kind: str
    people: list[dict] = field(default_factory=list)
    status: str = "queued"
    done: int = 0
    total: int = 0
    detail: str = ""
    created: float = 0.0
    ended: float = 0.0


class Jobs:
    """The jobs of a service; every worker has one of these over the same folder."""

    def __init__(self, folder: Path, settings: Settings, after: Callable[[], Awaitable[None]]):
        """after: to be awaited when a job has changed the bank."""
        self._folder, self._settings, self._after = make_folder(folder), settings, after
        self._tasks: set[asyncio.Task] = set()
        self._processes: set[asyncio.subprocess.Process] = set()

    def all(self) -> list[Job]:
        """Every job that is known, the newest first."""
        found = [job for path in self._folder.glob("*.json") if (job := self._read(path.stem)) is not None]
        return sorted(found, key=lambda job: job.created, reverse=True)

    def get(self, job: str) -> Job:
        """Problem not_found where there is none."""
        found = self._read(job) if _ID.fullmatch(job) else None
        if found is None:
            raise Problem("not_found", "no such job")
        return found

    def begin(self, kind: str, people: list[str]) -> Job:
        """A job, queued; to be started. Problems busy, conflict (somebody is being crafted already). Whoever begins
        another at once, in another worker too, is seen after it."""
        make_folder(self._folder)  # somebody may have tidied up
        with locked(self._folder / "beginning", wait=10.0):
            return self._begun(kind, people)

    def _begun(self, kind: str, people: list[str]) -> Job:
        there = self.all()
        going = [job for job in there if job.status not in ENDED]
        if len(going) >= MOST:
            raise Problem("busy", f"{MOST} jobs are waiting already", retry_after="10")
        taken = {person["name"] for job in going for person in job.people} & set(people)
        if taken:
            raise Problem("conflict", "a job is at work on somebody of these already")
        for old in there[KEPT:]:
            for path in self._folder.glob(f"*{old.job}*"):
                path.unlink(missing_ok=True)
        job = Job(secrets.token_hex(8), kind, [{"name": name, "status": ""} for name in people], created=time.time())
        save(self._folder, job)
        return job

    def start(self, job: Job, payload: bytes) -> None:
        """Run a job that is queued; payload: what its process reads."""
        task = asyncio.get_running_loop().create_task(self._run(job, payload))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self, job: str) -> Job:
        """Ask a job to end; it ends between two steps. Problem conflict for one that has ended."""
        found = self.get(job)
        if found.status in ENDED:
            raise Problem("conflict", f"it has ended: {found.status}")
        cancel_path(self._folder, job).touch(mode=0o600)
        return found

    async def close(self) -> None:
        """End the jobs that this worker began: a veil is in the bank or it is not, and nothing else is lost."""
        for process in self._processes:
            process.terminate()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_GRACE)
        for process in self._processes:
            process.kill()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, job: Job, payload: bytes) -> None:
        process = await asyncio.create_subprocess_exec(
            *_COMMAND,
            str(self._folder),
            job.job,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=os.environ | {SETTINGS: self._settings.to_json()},
            start_new_session=True,  # a Ctrl-C in the terminal is the service's, which ends its jobs itself
        )
        self._processes.add(process)
        try:
            await process.communicate(payload)
        finally:
            self._processes.discard(process)
            ended = self._read(job.job) or job
            METRICS.jobs.labels(job.kind, ended.status).inc()
            log.info("job %s %s: %s", job.job, job.kind, ended.status)
        await self._after()

    def _read(self, job: str) -> Job | None:
        """A job's state; of a process that is gone without a word, that it failed."""
        found = load(self._folder, job)
        if found is None or found.status in ENDED or time.time() - found.created < _BIRTH:
            return found
        try:
            with locked(life_path(self._folder, job)):
                found = load(self._folder, job)  # it may have ended between the two
                if found is not None and found.status not in ENDED:
                    found.status, found.detail, found.ended = "failed", "its process ended before it did", time.time()
                    save(self._folder, found)
        except OutputError:
            pass  # held: it is alive
        return found


def save(folder: Path, job: Job) -> None:
    """Write a job's state, whole or not at all, readable by its owner alone."""
    atomic_write(folder / f"{job.job}.json", json.dumps(asdict(job)).encode(), mode=0o600)


def load(folder: Path, job: str) -> Job | None:
    """A job's state; None where there is none."""
    try:
        return Job(**json.loads((folder / f"{job}.json").read_bytes()))
    except FileNotFoundError:
        return None


def cancel_path(folder: Path, job: str) -> Path:
    """The file whose being there asks a job to end."""
    return folder / f"{job}.cancel"


def life_path(folder: Path, job: str) -> Path:
    """What a job's process holds the lock of while it lives."""
    return folder / f"{job}.alive"
