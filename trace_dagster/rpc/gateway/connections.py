"""Callers' connections: what is known of each, and which are closed where there are too many."""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Self

from trace_dagster.rpc.gateway.bodies import Scope

__all__ = ["Connection", "Connections"]

_EXTENSION: Final = "trace_dagster.connection"


def _nothing() -> None:
    """Close nothing."""


class Connection:
    """One connection of a caller.

    Args:
        close: closes it at once.

    Attributes:
        close: likewise.
        is_known: whether a request that came by it showed that it may ask.
        is_gone: whether it is closed.
        answering: what is cancelled where the caller goes; None: nothing that may be given up.
    """

    __slots__ = ("answering", "close", "is_gone", "is_known")

    def __init__(self, close: Callable[[], None] = _nothing) -> None:
        self.close = close
        self.is_known = self.is_gone = False
        self.answering: asyncio.Task[Any] | None = None

    @classmethod
    def of(cls, scope: Scope) -> Self:
        """Return the connection that a request came by; one that nobody watches where that is not known."""
        found = scope.get("extensions", {}).get(_EXTENSION)
        return found if isinstance(found, cls) else cls()

    def extensions(self) -> dict[str, Any]:
        """Return what tells the application of it, for the scope of each request."""
        return {_EXTENSION: self}

    def lost(self) -> None:
        """Give up what is done for the caller."""
        self.is_gone = True
        if self.answering is not None:
            self.answering.cancel()
            self.answering = None


class Connections:
    """All connections of callers, of which there are only so many.

    One more takes the place of the stranger that came first, a stranger being a connection by which nothing
    was asked yet that may be asked; where there are none, of the caller that has asked nothing for longest.

    Args:
        most: connections at a time.

    Attributes:
        most: likewise; it may change.
        count: how many there are.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.count = 0
        self._strangers: dict[Connection, None] = {}
        self._idle: dict[Connection, None] = {}

    def came(self, connection: Connection) -> None:
        """Take a connection in, and close another, or this one, where there is no room."""
        self.count += 1
        if self.count > self.most:
            (self._dispensable() or connection).close()
        self._strangers[connection] = None

    def asks(self, connection: Connection) -> None:
        """Keep a connection by which a request has come."""
        self._idle.pop(connection, None)

    def rests(self, connection: Connection) -> None:
        """Note that what came by a connection is answered."""
        if connection.is_known:
            self._strangers.pop(connection, None)
            self._idle[connection] = None

    def went(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self.count -= 1
        self._strangers.pop(connection, None)
        self._idle.pop(connection, None)

    def _dispensable(self) -> Connection | None:
        """Return a connection that others go before, and forget it."""
        while self._strangers:
            stranger = next(iter(self._strangers))
            del self._strangers[stranger]
            if not stranger.is_known:
                return stranger
        found = next(iter(self._idle), None)
        if found is not None:
            del self._idle[found]
        return found
