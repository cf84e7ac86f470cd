"""Limits of a key that stands in several pools."""

import asyncio
import json

from trace_dagster.rpc.gateway.config import GatewayConfig
from trace_dagster.rpc.gateway.endpoint import Key
from trace_dagster.rpc.gateway.faults import Fault, FaultKind
from trace_dagster.rpc.gateway.metrics import Metrics
from trace_dagster.rpc.gateway.resolved import resolve_config
from trace_dagster.rpc.gateway.running import Running

ENVIRONMENT = {
    "GW_A": "http://127.0.0.1:1/{key}",
    "GW_B": "http://127.0.0.1:2/{key}",
    "K": "k" * 20,
    "L": "l" * 20,
}


def running(*, second_key: str = "K", per_second: float = 20, names: tuple[str, str] = ("a", "b")) -> Running:
    """Two pools with one endpoint each, the first one of 20 requests a second."""
    pools = {
        name: {
            "chain_id": 1,
            "endpoints": [
                {
                    "name": "one",
                    "url": f"env:GW_{name.upper()}",
                    "keys": [f"env:{key}"],
                    "limits": {"requests_per_second": limit, "credits_per_second": limit * 10},
                }
            ],
        }
        for name, key, limit in (("a", "K", 20), ("b", second_key, per_second))
    }
    pools = dict(zip(names, pools.values(), strict=True))
    config = GatewayConfig.model_validate_json(json.dumps({"pools": pools}))
    return Running(resolve_config(config, ENVIRONMENT), Metrics())


def keys(of: Running) -> tuple[Key, Key]:
    """Return the key of each pool."""
    one, other = (pool.endpoints[0].keys[0] for pool in of.pools.values())
    return one, other


def test_a_key_in_two_pools_has_one_limit() -> None:
    """What goes out by one pool counts in the other, by the lower limit, and after a reload as well."""

    async def run() -> None:
        both = running(per_second=10)
        one, other = keys(both)
        assert one.requests is other.requests
        assert one.credits is other.credits
        assert one.requests.per_second == 10
        reloaded = running(per_second=10)
        reloaded.inherit(both)
        one, other = keys(reloaded)
        assert one.requests is other.requests
        assert one.credits is other.credits
        apart = running(second_key="L")
        one, other = keys(apart)
        assert one.requests is not other.requests
        await asyncio.gather(*(each.close() for each in (both, reloaded, apart)))

    asyncio.run(run())


def test_a_pause_is_of_the_account_in_all_pools() -> None:
    """A provider that says to wait is not asked by way of another pool, nor after a reload."""

    async def run() -> None:
        both = running()
        one, other = keys(both)
        one.failed(Fault(FaultKind.RATE_LIMITED, "HTTP 429", retry_after_seconds=20), now=100.0)
        renamed = running(names=("c", "d"))
        renamed.inherit(both)
        for key in (one, other, *keys(renamed)):
            assert key.ready_at("eth_call", now=119.0) >= 120.0
            assert key.ready_at("eth_call", now=121.0) < 130.0
        await asyncio.gather(both.close(), renamed.close())

    asyncio.run(run())


def test_a_renamed_pool_keeps_the_limit() -> None:
    """What was sent before a reload counts after it, by the account alone; so do cuts after 429s."""

    async def run() -> None:
        before = running()
        (one, _) = keys(before)
        for _ in range(20):
            one.begin(["eth_call"], now=100.0)
        renamed = running(names=("c", "d"))
        renamed.inherit(before)
        for key in keys(renamed):
            assert key.ready_at("eth_call", now=100.5) > 100.9
        await asyncio.gather(before.close(), renamed.close())

    asyncio.run(run())


def test_a_refused_key_stays_refused_over_a_reload() -> None:
    """It is not asked at once with the key that was refused just before; another key is."""

    async def run() -> None:
        before = running(second_key="L")
        (one, _) = keys(before)
        one.failed(Fault(FaultKind.REFUSED, "HTTP 401", is_of_key=True), now=100.0)
        renamed = running(second_key="L", names=("c", "d"))
        renamed.inherit(before)
        one, other = keys(renamed)
        assert not one.is_up(101.0)
        assert one.reason == "refused: HTTP 401"
        assert other.is_up(101.0)
        await asyncio.gather(before.close(), renamed.close())

    asyncio.run(run())


def test_a_chain_that_was_checked_is_trusted_over_a_reload() -> None:
    """While a key pauses nobody can check anew: its endpoint stays in, unless the pool's chain is another."""

    async def run() -> None:
        before = running(second_key="L")
        for key, chain in zip(keys(before), (1, 5), strict=True):
            key.endpoint.chain, key.endpoint.chain_checked = chain, True
        reloaded = running(second_key="L", names=("c", "d"))
        reloaded.inherit(before)
        assert [key.endpoint.chain_checked for key in keys(reloaded)] == [True, False]
        assert all(key.endpoint.is_doubted for key in keys(reloaded))
        await asyncio.gather(before.close(), reloaded.close())

    asyncio.run(run())
