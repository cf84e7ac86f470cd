"""What a gateway runs on between two reloads."""

import asyncio
from collections.abc import Mapping
from math import inf
from typing import Any, Final

from trace_dagster.rpc.gateway.auth import Guard
from trace_dagster.rpc.gateway.config import GatewayConfig
from trace_dagster.rpc.gateway.endpoint import Endpoint, Key
from trace_dagster.rpc.gateway.metrics import Metrics
from trace_dagster.rpc.gateway.pool import Pool
from trace_dagster.rpc.gateway.replies import ReplyRoom
from trace_dagster.rpc.gateway.resolved import ResolvedConfig
from trace_dagster.rpc.gateway.shared_cache import SharedCache

__all__ = ["Running"]

_CHECK_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 120.0


class Running:
    """One configuration with its pools; requests that began with it end with it.

    Args:
        resolved: the configuration with its secrets.
        metrics: where it is counted.

    Attributes:
        config: as it was written.
        guard: who may ask.
        reply_room: for replies.
        pools: by name.
        users: HTTP requests under way.

    Raises:
        ConfigurationError: the cache's folder cannot be used.
    """

    def __init__(self, resolved: ResolvedConfig, metrics: Metrics) -> None:
        self.config: GatewayConfig = resolved.config
        self.guard = Guard(resolved.tokens)
        cache = self.config.cache
        self._cache = None if cache is None else SharedCache(cache.path, cache.max_bytes)
        self.reply_room = ReplyRoom(self.config.limits.max_reply_bytes_at_once)
        self.pools = {
            name: Pool(
                pool, self.config.limits, self.config.costs, metrics, self._cache, room=self.reply_room
            )
            for name, pool in resolved.pools.items()
        }
        self._share_limits()
        self.users = 0
        self._named_as_variables = resolved.named_as_variables

    @property
    def most_exchanges(self) -> int:
        """How many exchanges with endpoints may be under way."""
        endpoints = [one for pool in self.pools.values() for one in pool.endpoints]
        return sum(one.config.limits.concurrency * len(one.keys) for one in endpoints)

    def pool(self, name: str) -> Pool | None:
        """Return the pool that is asked for as ``name``."""
        return self.pools.get(name.replace("-", "_") if self._named_as_variables else name)

    def no_pool(self, name: str) -> str:
        """Return that there is no pool ``name``, and what to do."""
        if self._named_as_variables:
            variable = f"TRACE_RPC_POOL_{name.replace('-', '_').upper()}_URL"
            return f"there is no pool {name}; set {variable}, and start again what started the gateway"
        return f"there is no pool {name}; see pools of the gateway"

    def inherit(self, other: "Running") -> None:
        """Go on with what was known of keys before a reload, whatever the pools are called now."""
        accounts = _by_account(other.pools)
        same: dict[object, Key] = {key.access.identity: key for keys in accounts.values() for key in keys}
        for account, keys in _by_account(self.pools).items():
            for key in keys:
                if account in accounts:
                    key.inherit(accounts[account])
                if key.access.identity in same:
                    key.inherit_circuit(same[key.access.identity])
        for pool in self.pools.values():
            for endpoint in pool.endpoints:
                chain = _chain_before(endpoint, same)
                if chain is not None:
                    pool.heads.trust(endpoint, chain)
        self._share_limits()

    def _share_limits(self) -> None:
        """Give a key that stands in several pools one limit, the lowest: its provider counts all alike."""
        by_account = _by_account(self.pools)
        for keys in by_account.values():
            strictest = min(keys, key=lambda one: one.endpoint.config.limits.requests_per_second or inf)
            counted = [one for one in keys if one.credits is not None]
            narrowest = min(
                counted, key=lambda one: one.endpoint.config.limits.credits_per_second or inf, default=None
            )
            for one in keys:
                one.requests, one.pause = strictest.requests, strictest.pause
            for one in counted:
                one.credits = narrowest.credits if narrowest else None

    async def start(self) -> None:
        """Check the chains of all endpoints, for a few seconds at most, then in the background."""
        await asyncio.gather(*(pool.start(_CHECK_SECONDS) for pool in self.pools.values()))

    async def close(self) -> None:
        """Wait for the requests under way, then close all connections."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _CLOSE_SECONDS
        while self.users and loop.time() < until:
            await asyncio.sleep(0.05)
        await asyncio.gather(*(pool.close() for pool in self.pools.values()))
        if self._cache is not None:
            await self._cache.close()

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Return whether every pool has an endpoint to ask, and how all endpoints are."""
        now = asyncio.get_running_loop().time()
        pools = {name: _health(pool, now) for name, pool in self.pools.items()}
        states = [one["state"] for pool in pools.values() for one in pool["endpoints"]]
        is_usable = all(any(one.is_up(now) for one in pool.endpoints) for pool in self.pools.values())
        is_well = is_usable and set(states) == {"ok"} and not any(pool["alarms"] for pool in pools.values())
        status = "ok" if is_well else "degraded" if is_usable else "down"
        return is_usable, {"status": status, "pools": pools}

    def set_gauges(self, metrics: Metrics) -> None:
        """Set what is measured now."""
        now = asyncio.get_running_loop().time()
        metrics.forget_gauges()
        for name, pool in self.pools.items():
            metrics.gauge("waiting", pool.turns.waiting, name)
            for endpoint in pool.endpoints:
                metrics.gauge("up", endpoint.is_up(now), name, endpoint.name)
                if endpoint.head is not None:
                    metrics.gauge("head", endpoint.head, name, endpoint.name)


def _by_account(pools: Mapping[str, Pool]) -> dict[str, list[Key]]:
    """Return the keys of all pools, together where their provider counts them together."""
    by_account: dict[str, list[Key]] = {}
    for pool in pools.values():
        for endpoint in pool.endpoints:
            for key in endpoint.keys:
                by_account.setdefault(key.access.account, []).append(key)
    return by_account


def _chain_before(endpoint: Endpoint, same: Mapping[object, Key]) -> int | None:
    """Return the chain that the same URLs served before a reload; None where that is not known of all."""
    found = {
        before.endpoint.chain if before is not None and before.endpoint.chain_checked else None
        for before in (same.get(key.access.identity) for key in endpoint.keys)
    }
    return found.pop() if len(found) == 1 else None


def _health(pool: Pool, now: float) -> dict[str, Any]:
    head = pool.heads.head
    return {
        "head": head,
        "waiting": pool.turns.waiting,
        "alarms": list(pool.agreement.alarms.values()),
        "endpoints": [_endpoint_health(one, head, now) for one in pool.endpoints],
    }


def _endpoint_health(endpoint: Endpoint, head: int | None, now: float) -> dict[str, Any]:
    known = endpoint.head is not None and head is not None
    return {
        "name": endpoint.name,
        "state": "ok" if endpoint.is_up(now) else "down",
        "reason": endpoint.why_down(),
        "head": endpoint.head,
        "capabilities": endpoint.capabilities.model_dump(),
        "lag": max(0, (head or 0) - (endpoint.head or 0)) if known else None,
    }
