"""A load generator: so many connections on loopback, each asking again as soon as it is answered, from one process.

HTTP/1.1 written and read by hand: a client library costs more than the service under test. `Reply` is what came;
`Load` drives the connections and takes the time of each answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Reply:
    """status, body of an answer; None: the connection ended without one."""

    status: int
    body: bytes


@dataclass
class Load:
    """Of one run: seconds of each answer, answers by status, when (time.monotonic) requests were lost."""

    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    lost: list[float] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """Milliseconds that this share of the answers took at most."""
        ordered = sorted(self.seconds)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def request(path: str, body: bytes, kind: str, headers: dict[str, str] | None = None) -> bytes:
    """The bytes of a POST."""
    lines = [f"POST {path} HTTP/1.1", "Host: load", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> Reply | None:
    """One request and its answer; None where the connection ends before it is whole."""
    try:
        writer.write(data)
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.lower().startswith(b"content-length:"))
        return Reply(int(lines[0].split()[1]), await reader.readexactly(length))
    except (ConnectionError, asyncio.IncompleteReadError):
        return None


async def drive(
    address: tuple[str, int],
    connections: int,
    next_request: Callable[[], tuple[object, bytes] | None],
    judge: Callable[[object, Reply | None], None],
) -> Load:
    """Ask what next_request gives, until it gives None; judge(what was asked, the reply) looks at each answer."""
    load = Load()

    async def one() -> None:
        reader = writer = None
        while (asked := next_request()) is not None:
            what, data = asked
            for _ in range(200):  # a service whose workers all start anew is not there for a moment
                if writer is not None and not writer.is_closing():
                    break
                try:
                    reader, writer = await asyncio.open_connection(*address, limit=1 << 26)
                except OSError:
                    await asyncio.sleep(0.1)
            assert reader is not None and writer is not None, "the service is gone"
            begun = time.perf_counter()
            reply = await ask(reader, writer, data)
            if reply is None:
                load.lost.append(time.monotonic())
                writer.close()
            else:
                load.seconds.append(time.perf_counter() - begun)
                load.statuses[reply.status] = load.statuses.get(reply.status, 0) + 1
            judge(what, reply)
        if writer is not None:
            writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return load
