"""Limits of a key that stands in several pools."""

import asyncio
import json

from trace_dagster.rpc.gateway.config import GatewayConfig
from trace_dagster.rpc.gateway.endpoint import Key
from trace_dagster.rpc.gateway.metrics import Metrics
from trace_dagster.rpc.gateway.resolved import resolve_config
from trace_dagster.rpc.gateway.running import Running

ENVIRONMENT = {
    "GW_A": "http://127.0.0.1:1/{key}",
    "GW_B": "http://127.0.0.1:2/{key}",
    "K": "k" * 20,
    "L": "l" * 20,
}


def running(*, second_key: str = "K", per_second: float = 20) -> Running:
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
    config = GatewayConfig.model_validate_json(json.dumps({"pools": pools}))
    return Running(resolve_config(config, ENVIRONMENT), Metrics())


def keys(of: Running) -> tuple[Key, Key]:
    """Return the key of each pool."""
    return of.pools["a"].endpoints[0].keys[0], of.pools["b"].endpoints[0].keys[0]


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
