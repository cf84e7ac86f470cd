"""Listening: a socket, uvicorn's server on it, and as many connections as the process may have files."""

import asyncio
import resource
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

import uvicorn

from trace_dagster.errors import ConfigurationError
from trace_dagster.rpc.gateway.connections import Connections
from trace_dagster.rpc.gateway.protocol import GuardedProtocol

__all__ = ["Room", "Server", "bound"]

_MOST_CONNECTIONS: Final = 5_000
_MOST_FILES: Final = 32_768
_BACKLOG: Final = 2048
# That come at once, before one of them can be closed: at most this part of all files.
_BACKLOG_PART: Final = 8
# The cache, the resolver, the log, and what libraries open for a moment.
_OTHER_FILES: Final = 64
# While a reload changes over, there are two connections for each exchange.
_FILES_OF_AN_EXCHANGE: Final = 2
_HANDSHAKE_SECONDS: Final = 10.0


class Room:
    """How many files the process may have open; its soft limit is raised as far as that is allowed.

    Attributes:
        files: so many.
        backlog: connections that wait to be taken in.
    """

    def __init__(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        self.files = _MOST_FILES if soft == resource.RLIM_INFINITY else soft
        self.backlog = max(1, min(_BACKLOG, self.files // _BACKLOG_PART))

    def most_connections(self, exchanges: int) -> int:
        """Return how many callers' connections leave files for so many exchanges with endpoints."""
        others = _OTHER_FILES + self.backlog + _FILES_OF_AN_EXCHANGE * exchanges
        return min(_MOST_CONNECTIONS, self.files - min(others, self.files // 2))


class Server(uvicorn.Server):
    """uvicorn's, with a bound on connections and on the time of a TLS handshake.

    It leaves signals to the gateway: uvicorn would end the process by them before all is closed.

    Args:
        config: uvicorn's.
        connections: all that there are.
        backlog: connections that wait to be taken in.
    """

    def __init__(self, config: uvicorn.Config, connections: Connections, backlog: int) -> None:
        super().__init__(config)
        self._connections, self._backlog = connections, backlog

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    async def startup(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """Listen on ``sockets``."""
        made = partial(
            GuardedProtocol,
            connections=self._connections,
            config=self.config,
            server_state=self.server_state,
            app_state={},
        )
        context = self.config.ssl
        handshake_seconds = None if context is None else _HANDSHAKE_SECONDS
        self.servers = [
            await asyncio.get_running_loop().create_server(
                made, sock=one, ssl=context, backlog=self._backlog, ssl_handshake_timeout=handshake_seconds
            )
            for one in sockets or ()
        ]
        self.started = True


def bound(host: str, port: int, backlog: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ConfigurationError: nothing can listen there.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(backlog)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; choose another with --host and "
            "--port"
        ) from None
    listener.setblocking(False)  # noqa: FBT003
    return listener
