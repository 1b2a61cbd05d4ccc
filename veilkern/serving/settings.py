"""Settings of a service: what `veilkern serve` was told, checked once, and handed to its worker processes."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROLES = ("protect", "recover", "veils")
TOKEN = "VEILKERN_TOKEN"  # the environment variable; never an option, which other users of the machine could read
LEAST_TOKEN = 16  # characters


@dataclass(frozen=True)
class Settings:
    """Everything but the token, which stays in the environment, and the keys, which stay in their files.

    bank: the veil bank. key_files: of a sealed bank's master keys. roles: which routes there are. token_everywhere:
    protect wants the token too. open_protect: protect wants none even where the bank blends, whose veils are then
    anybody's. model, weights, model_input: the network to craft with, or several, as `FaceModel.load`
    takes them; none: the service crafts nobody. audit: a folder of `veilkern audit`, or None. device, max_batch: of
    `Protector`.

    window_ms: how long the first photo of a batch waits for others, milliseconds. most: photos of a batch at most.
    queue: photos that may wait for a batch. connections: open at a time, of one worker. workers: processes.
    threads: that read and write PNG, of one worker. body_mib, photos: the largest request. memory_mib: of all bodies
    that one worker holds. pixels: of the largest photo that is decoded. body_seconds: for the request to come, and for
    the answer to be taken. deadline: seconds for all between. stop_seconds: for what is in flight when the service is
    told to stop. otel: trace by OpenTelemetry. run_folder: where the workers keep metrics and the state of jobs.
    """

    bank: Path
    key_files: tuple[Path, ...] = ()
    roles: tuple[str, ...] = ("protect",)
    token_everywhere: bool = False
    open_protect: bool = False
    model: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    model_input: dict[str, Any] = field(default_factory=dict)
    audit: Path | None = None
    device: str = "cpu"
    max_batch: int = 256
    window_ms: float = 0.0
    most: int = 64
    queue: int = 4096
    connections: int = 1024
    workers: int = 1
    threads: int = 4
    body_mib: int = 32
    photos: int = 64
    memory_mib: int = 1024
    pixels: int = 4 << 20
    body_seconds: float = 20.0
    deadline: float = 30.0
    stop_seconds: int = 30
    otel: bool = False
    run_folder: Path | None = None

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "bank", Path(self.bank))
        set_(self, "key_files", tuple(Path(file) for file in self.key_files))
        set_(self, "model", tuple(self.model))
        set_(self, "weights", tuple(self.weights))
        set_(self, "roles", tuple(role for role in ROLES if role in self.roles) if _known(self.roles) else ())
        for name in ("audit", "run_folder"):
            if getattr(self, name) is not None:
                set_(self, name, Path(getattr(self, name)))
        if not self.roles:
            raise ValueError(f"Settings: roles must be some of {', '.join(ROLES)}, got {self.roles!r}")
        for name, (kind, least, largest) in _LIMITS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= largest:
                raise ValueError(f"Settings: {name} must be in {least:g}..{largest:g}, got {value!r}")
        if self.memory_mib < self.body_mib:
            raise ValueError(
                f"Settings: memory_mib must hold one body of body_mib, {self.body_mib}, got {self.memory_mib}"
            )
        if self.open_protect and self.token_everywhere:
            raise ValueError("Settings: open_protect and token_everywhere exclude each other")
        if self.needs_token and token() is None:
            raise ValueError(
                "Settings: the roles recover and veils, and token_everywhere, need a token in the environment variable "
                f"{TOKEN}: {LEAST_TOKEN} characters or more"
            )

    @property
    def needs_token(self) -> bool:
        """Whether any route wants the token."""
        return self.token_everywhere or self.roles != ("protect",)

    @property
    def body_bytes(self) -> int:
        """The largest body of a request, bytes."""
        return self.body_mib << 20

    def to_json(self) -> str:
        """For the environment of a worker process; nothing secret is in it."""
        return json.dumps(dataclasses.asdict(self), default=os.fspath)

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """The opposite of `to_json`."""
        return cls(**json.loads(text))


def token() -> bytes | None:
    """The token of the environment; None where there is none. ValueError for one too short to be a secret."""
    text = os.environ.get(TOKEN, "")
    if not text:
        return None
    if len(text) < LEAST_TOKEN or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"{TOKEN}: must be {LEAST_TOKEN} or more printable ASCII characters without blanks")
    return text.encode()


def _known(roles: tuple[str, ...]) -> bool:
    if unknown := [role for role in roles if role not in ROLES]:
        raise ValueError(f"Settings: roles must be some of {', '.join(ROLES)}, got {unknown[0]!r}")
    return True


_REAL = (int, float)
_LIMITS: dict[str, tuple[Any, float, float]] = {
    "max_batch": (int, 1, 1 << 20),
    "window_ms": (_REAL, 0, 1000),
    "most": (int, 1, 1 << 16),
    "queue": (int, 1, 1 << 24),
    "connections": (int, 1, 1 << 20),
    "workers": (int, 1, 1024),
    "threads": (int, 1, 1024),
    "body_mib": (int, 1, 1024),
    "photos": (int, 1, 1 << 16),
    "memory_mib": (int, 1, 1 << 20),
    "pixels": (int, 1, 8192**2),
    "body_seconds": (_REAL, 0.01, 3600),
    "deadline": (_REAL, 0.01, 3600),
    "stop_seconds": (int, 0, 3600),
}
