"""Names of hosts -> addresses, but for those that lead to a machine's own metadata."""

import socket

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from trace_dagster.rpc.gateway.addresses import is_forbidden_address

__all__ = ["GuardedResolver"]


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
            OSError: it has none that may be asked.
        """
        found = await self._resolver.resolve(host, port, family)
        allowed = [one for one in found if not is_forbidden_address(one["host"])]
        if not allowed:
            raise OSError(None, "its name leads to a link-local, metadata or multicast address")
        return allowed

    async def close(self) -> None:
        """Close the resolver."""
        await self._resolver.close()
