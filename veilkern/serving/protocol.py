"""HTTP/1.1 connections as uvicorn serves them, with the bounds that it leaves open.

A head must come in time and be of a bounded size; a connection that is closed goes, whether the client takes what was
still to be sent or not; and there are no more connections than so many.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0  # for the head of a request to come; uvicorn waits for ever
HEAD_BYTES = 64 << 10  # of a head that comes in several pieces; uvicorn has no limit
GOODBYE_SECONDS = 5.0  # for the client to take what is left when the connection is closed
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class _Ending:
    """A transport whose close() ends it, too, where nobody takes what is still to be sent."""

    def __init__(self, transport: Any, loop: Any):
        self._transport, self._loop, self.timer = transport, loop, None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        self._transport.close()
        if self.timer is None:
            self.timer = self._loop.call_later(GOODBYE_SECONDS, self._transport.abort)


class BoundedProtocol(HttpToolsProtocol):
    """most: connections open at a time, in this process; the next one is dropped."""

    most = 1 << 30
    _timer: Any = None
    _in_head, _head, _head_bytes = True, 0, 0  # _head: the number of the head that comes, or came last

    def connection_made(self, transport: Any) -> None:
        super().connection_made(_Ending(transport, self.loop))  # type: ignore[arg-type]
        if len(self.connections) > self.most:
            self.transport.abort()
            return
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        if (ending := getattr(self.transport, "timer", None)) is not None:
            ending.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        was = self._head if self._in_head else -1
        super().data_received(data)
        # A piece that began in a head and ends in the same one is of this head alone.
        if self._in_head and self._head == was and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.transport.write(_TOO_LARGE)
                self.transport.close()

    def on_message_begin(self) -> None:
        self._head += 1
        self._begin()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._stop()
        self.scope["veilkern.abort"] = self.transport.abort  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head, self._head_bytes = True, 0  # of the next request, whenever it comes

    def _begin(self) -> None:
        self._stop()
        self._in_head, self._head_bytes = True, 0
        self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop(self) -> None:
        self._in_head = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
