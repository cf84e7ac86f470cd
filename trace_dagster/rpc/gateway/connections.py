"""Callers' connections: what the application knows of the one that a request came by."""

import asyncio
from typing import Any, Final, Self

from trace_dagster.rpc.gateway.bodies import Scope

__all__ = ["Connection"]

_EXTENSION: Final = "trace_dagster.connection"


class Connection:
    """One connection of a caller.

    Attributes:
        is_gone: whether it is closed.
        answering: what is cancelled where the caller goes; None: nothing that may be given up.
    """

    __slots__ = ("answering", "is_gone")

    def __init__(self) -> None:
        self.is_gone = False
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
