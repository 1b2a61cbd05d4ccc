"""Running the application: one process, or a few under a supervisor, on one socket; uvicorn does the rest."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from veilkern.errors import VeilkernError
from veilkern.serving.jobs import SETTINGS
from veilkern.serving.protocol import BoundedProtocol
from veilkern.serving.settings import Settings
from veilkern.threads import available_cores

_BACKLOG = 2048
_PAUSE = 10.0  # seconds between two starts of a worker that has died too often
_METRICS = "PROMETHEUS_MULTIPROC_DIR"


class Supervisor(Multiprocess):
    """uvicorn's, which starts a worker anew that has died. On SIGHUP the workers read the bank again and go on."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]):
        super().__init__(config, sockets)
        self.deaths: list[float] = []

    def handle_hup(self) -> None:
        for process in self.processes:
            # One that is still starting has no handler yet, and would end; it looks at the file by itself.
            if process.pid is not None and process.is_ready(timeout=1):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGHUP)

    def keep_subprocess_alive(self) -> None:
        """Start anew who has died, but not without pause whoever dies at once each time."""
        now = time.monotonic()
        self.deaths = [death for death in self.deaths if now - death < 60]
        if len(self.deaths) >= 3 * self.processes_num and now - self.deaths[-1] < _PAUSE:
            return
        before = [process.pid for process in self.processes]
        super().keep_subprocess_alive()
        for pid in set(before) - {process.pid for process in self.processes}:
            self.deaths.append(time.monotonic())
            from prometheus_client import multiprocess

            multiprocess.mark_process_dead(pid)


def worker_app() -> Any:
    """The application of a worker process, by the settings in its environment."""
    import torch

    from veilkern.serving import tracing
    from veilkern.serving.app import create_app

    logging.getLogger("veilkern").setLevel(logging.INFO)
    settings = Settings.from_json(os.environ[SETTINGS])
    # Requests are counted by the gate, which can say so; connections that ask nothing have some room beside them.
    BoundedProtocol.most = 2 * settings.connections + 64
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, available_cores() // settings.workers))
    if settings.otel:
        tracing.export()
    try:
        return create_app(settings)
    except (VeilkernError, OSError, ValueError) as error:
        logging.getLogger("veilkern.serving").error("cannot start: %s", error)
        sys.exit(1)


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there. OSError where that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(_BACKLOG)  # here, where a port that is taken is told
        found.set_inheritable(True)
    except OSError:
        found.close()
        raise
    return found


def serve(settings: Settings, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM, then finish what is in flight and return. SystemExit where nothing can start."""
    # uvicorn raises the signal again once it has stopped, which must not end the process before its folder is gone.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    with tempfile.TemporaryDirectory(prefix="veilkern-") as folder, _environment() as environment:
        settings = dataclasses.replace(settings, run_folder=Path(folder))
        environment[SETTINGS] = settings.to_json()
        if settings.workers > 1:
            metrics = Path(folder) / "metrics"
            metrics.mkdir()
            environment[_METRICS] = str(metrics)
        config = _config(settings)
        if settings.workers > 1:
            supervisor = Supervisor(config, sockets=[listener])
            supervisor.run()
            if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
                sys.exit(1)
        else:
            server = uvicorn.Server(config)
            server.run(sockets=[listener])
            if not server.started:
                sys.exit(1)


def _config(settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        "veilkern.serving.server:worker_app",
        factory=True,
        http=BoundedProtocol,
        ws="none",
        workers=settings.workers,
        timeout_graceful_shutdown=settings.stop_seconds,
        timeout_keep_alive=30,
        timeout_worker_healthcheck=15,  # a worker that imports torch beside others answers late
        access_log=False,  # it has paths, and paths have names
        server_header=False,
        log_config=_LOGGING,
    )


@contextlib.contextmanager
def _environment():
    """os.environ, as it was before afterwards: workers and jobs inherit what is set in it."""
    before = dict(os.environ)
    try:
        yield os.environ
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


_LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s[%(process)d] %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}},
    "loggers": {
        "uvicorn": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        "veilkern": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
    },
}
