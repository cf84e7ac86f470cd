"""Listening: a socket, uvicorn's server on it, and as many connections as the process may have files."""

import asyncio
import resource
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import uvicorn

from trace_dagster.errors import ConfigurationError
from trace_dagster.rpc.gateway.connections import Connections
from trace_dagster.rpc.gateway.protocol import GuardedProtocol

__all__ = ["Certificate", "Room", "Server", "bound"]

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


class Certificate:
    """A certificate and its key, which new connections use as they were read last.

    Args:
        chain: PEM file of the certificate and those that sign it.
        key: PEM file of its key; None: the other file holds it.

    Attributes:
        listening: for a listening socket.

    Raises:
        ConfigurationError: they cannot be read, or do not belong together.
    """

    def __init__(self, chain: Path, key: Path | None) -> None:
        self._chain, self._key = chain, key
        self.listening = self._present = self.read()
        self.listening.sni_callback = self._choose

    def read(self) -> ssl.SSLContext:
        """Return what the files hold now, to be given to ``use``.

        Raises:
            ConfigurationError: they cannot be read, or do not belong together.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self._chain, self._key)
        except (OSError, ssl.SSLError):
            raise ConfigurationError(
                f"the certificate {self._chain} or its key {self._key} cannot be read; "
                "give PEM files that belong together"
            ) from None
        return context

    def use(self, context: ssl.SSLContext) -> None:
        """Use what was read for new connections."""
        self._present = context

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._present


class Server(uvicorn.Server):
    """uvicorn's, with a bound on connections and on the time of a TLS handshake.

    It leaves signals to the gateway: uvicorn would end the process by them before all is closed.

    Args:
        config: uvicorn's.
        connections: all that there are.
        backlog: connections that wait to be taken in.
        certificate: None: no TLS.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        connections: Connections,
        backlog: int,
        certificate: Certificate | None,
    ) -> None:
        super().__init__(config)
        self._connections, self._backlog, self._certificate = connections, backlog, certificate

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
        context = None if self._certificate is None else self._certificate.listening
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
