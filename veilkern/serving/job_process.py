"""The process of one job: python -m veilkern.serving.job_process FOLDER JOB, its input on stdin.

Its settings are in the environment. While it waits for its turn it has imported nothing large.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from veilkern.data.files import locked
from veilkern.errors import VeilkernError
from veilkern.serving.jobs import ENDED, SETTINGS, Job, cancel_path, life_path, load, save
from veilkern.serving.settings import Settings


class Cancelled(KeyboardInterrupt):
    """The job is asked to end."""


class Process:
    """A job in this process, and its state's file."""

    def __init__(self, folder: Path, job: Job):
        self.folder, self.job, self.parent = folder, job, os.getppid()

    def run(self, data: bytes) -> None:
        """Wait for the other jobs, then do it; its end is in its file, whatever it is."""
        try:
            with self._alone():
                from veilkern.serving.crafting_job import Work

                self.tell(status="running")
                Work(self.job, Settings.from_json(os.environ[SETTINGS]), self.tell, self.heed).run(data)
        except KeyboardInterrupt:  # Cancelled, or craft's own about it
            self.tell(status="cancelled")
        except (VeilkernError, ValueError, TypeError, KeyError, OSError, MemoryError) as error:
            self.tell(status="failed", detail=self._told(error))
        except Exception as error:
            self.tell(status="failed", detail=f"{type(error).__name__}: {error}")
            raise
        finally:
            cancel_path(self.folder, self.job.job).unlink(missing_ok=True)

    def _told(self, error: BaseException) -> str:
        """An error's text, without the folders of this machine."""
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        bank = Settings.from_json(os.environ[SETTINGS]).bank
        return text.replace(f"{bank.parent}{os.sep}", "") or type(error).__name__

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One job of the service at a time."""
        lock = FileLock(self.folder / "one.lock", mode=0o600)
        while True:
            self.heed()
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=0.5)
                break
        try:
            yield
        finally:
            lock.release()

    def heed(self) -> None:
        """Cancelled where the job is asked to end, or whoever asked for it is gone: nobody would be told of its end."""
        if cancel_path(self.folder, self.job.job).exists() or os.getppid() != self.parent:
            raise Cancelled

    def tell(self, **changes: Any) -> None:
        """Write how the job stands."""
        for name, value in changes.items():
            setattr(self.job, name, value)
        if self.job.status in ENDED:
            self.job.ended = time.time()
        save(self.folder, self.job)


def main(folder: Path, job_id: str) -> int:
    """Do the job."""
    job = load(folder, job_id)
    if job is None:
        return 2

    def stop(*_: object) -> None:
        raise Cancelled

    signal.signal(signal.SIGTERM, stop)
    with contextlib.suppress(OSError):
        os.nice(10)  # requests come first
    with locked(life_path(folder, job_id)):
        Process(folder, job).run(sys.stdin.buffer.read())
    return 0


if __name__ == "__main__":
    from veilkern.threads import wait_asleep

    wait_asleep()
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
