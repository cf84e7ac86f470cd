"""uvicorn's HTTP protocol with bounds on what comes before a request is whole: slow or endless headers."""

import asyncio
from typing import Any, Final
from urllib.parse import urlsplit

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from trace_dagster.rpc.gateway.connections import Connection, Connections

__all__ = ["GuardedProtocol"]

_HEADER_SECONDS: Final = 10.0
_MAX_HEADER_BYTES: Final = 64 * 2**10
_MAX_HEADERS: Final = 100
# After its reply was sent, the rest of a body that nobody reads is taken for so long.
_REST_SECONDS: Final = 60.0
# Whoever takes nothing of a reply for so long is gone.
_UNREAD_SECONDS: Final = 60.0


class GuardedProtocol(HttpToolsProtocol):
    """Closes connections whose request does not become whole in time, and those that are too many.

    Args:
        connections: all that there are.
        options: uvicorn's own arguments.
    """

    _timer: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None
    _unread = 0
    _header_bytes = 0
    _in_headers = True

    def __init__(self, *, connections: Connections, **options: Any) -> None:
        super().__init__(**options)
        self._connections = connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._connection = Connection(transport.close)
        self._connections.came(self._connection)
        self._extensions = self._connection.extensions()
        self._wait(_HEADER_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting, and give up what is done for a caller that has gone."""
        self._connection.lost()
        self._connections.went(self._connection)
        self._stop()
        self._stop_watching()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read a part of a request, unless its headers are too long already."""
        if not self._in_headers:
            super().data_received(data)
            return
        if self._timer is None:
            self._wait(_HEADER_SECONDS)
        room = _MAX_HEADER_BYTES - self._header_bytes
        self._header_bytes += min(len(data), room)
        super().data_received(data if len(data) <= room else data[:room])
        if self._in_headers and self._header_bytes >= _MAX_HEADER_BYTES:
            self.transport.close()
        elif len(data) > room and not self.transport.is_closing():
            self.data_received(data[room:])

    def on_message_begin(self) -> None:
        """Let the application know the connection."""
        super().on_message_begin()
        self._connections.asks(self._connection)
        self.scope["extensions"] = self._extensions

    def on_header(self, name: bytes, value: bytes) -> None:
        """Read a header; what follows a body is none, and there is no end to it."""
        if self._in_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Wait for the body, which is bounded by whoever reads it, or by this where nobody does.

        Raises:
            ValueError: it has too many headers, or names two hosts.
        """
        if len(self.headers) > _MAX_HEADERS:
            raise ValueError("too many headers")
        if not self.url.startswith(b"/"):
            self._check_host()
        self._in_headers, self._header_bytes = False, 0
        self._wait(_REST_SECONDS)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Wait for nothing until the next request begins."""
        self._stop()
        self._in_headers = True
        super().on_message_complete()
        if not self.pipeline:  # a paused connection would not show that its caller goes
            self.flow.resume_reading()

    def on_response_complete(self) -> None:
        """Note that the connection may be idle now."""
        if not self.pipeline:
            self._connections.rests(self._connection)
        super().on_response_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: followers ask for a WebSocket, and poll where there is none."""

    def pause_writing(self) -> None:
        """Watch a client that does not read its reply."""
        super().pause_writing()
        self._unread = self.transport.get_write_buffer_size()
        self._writing = self.loop.call_later(_UNREAD_SECONDS, self._check_unread)

    def resume_writing(self) -> None:
        """The client reads."""
        self._stop_watching()
        super().resume_writing()

    def _check_host(self) -> None:
        """Refuse a target with a host that is not the header's, by which it is judged who may ask."""
        host = urlsplit(self.url).netloc
        if any(name == b"host" and value != host for name, value in self.headers):
            raise ValueError("two hosts")

    def _check_unread(self) -> None:
        unread = self.transport.get_write_buffer_size()
        if unread >= self._unread:
            self.transport.abort()
            return
        self._unread = unread
        self._writing = self.loop.call_later(_UNREAD_SECONDS, self._check_unread)

    def _stop_watching(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _wait(self, seconds: float) -> None:
        self._stop()
        self._timer = self.loop.call_later(seconds, self._close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
