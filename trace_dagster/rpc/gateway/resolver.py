"""Names of hosts -> addresses, but for those that lead to a machine's own metadata."""

import asyncio
import socket
import time
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from trace_dagster.rpc.gateway.addresses import is_forbidden_address

__all__ = ["ForbiddenAddress", "GuardedResolver", "ProxiedNames"]

_CHECKED_SECONDS: Final = 60.0
# Where only the proxy can look names up, asking may take long, and says nothing.
_LOOK_UP_SECONDS: Final = 2.0


class ForbiddenAddress(OSError):
    """A name leads to a link-local, metadata or multicast address."""

    def __init__(self) -> None:
        super().__init__(None, "its name leads to a link-local, metadata or multicast address")


class GuardedResolver(AbstractResolver):
    """The system's resolver, which never gives a link-local or metadata address.

    So a provider's name that is made to lead to such an address is not asked.
    """

    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of ``host``.

        Raises:
            ForbiddenAddress: it has none that may be asked.
            OSError: it has none.
        """
        found = await self._resolver.resolve(host, port, family)
        allowed = [one for one in found if not is_forbidden_address(one["host"])]
        if not allowed:
            raise ForbiddenAddress
        return allowed

    async def close(self) -> None:
        """Close the resolver."""
        await self._resolver.close()


class ProxiedNames:
    """Names that a proxy looks up, which may lead it where no provider is.

    They are looked up here, too, for as far as that says what the proxy will find: a name that only the proxy
    knows is left to it.
    """

    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()
        self._until: dict[str, float] = {}

    async def check(self, host: str) -> None:
        """Look a name up, unless that was done just now.

        Raises:
            ForbiddenAddress: one of its addresses may not be asked.
        """
        if self._until.get(host, 0.0) > time.monotonic():
            return
        try:
            async with asyncio.timeout(_LOOK_UP_SECONDS):
                found = await self._resolver.resolve(host, family=socket.AF_UNSPEC)
        except (OSError, TimeoutError):
            found = []
        if any(is_forbidden_address(one["host"]) for one in found):
            raise ForbiddenAddress
        self._until[host] = time.monotonic() + _CHECKED_SECONDS
