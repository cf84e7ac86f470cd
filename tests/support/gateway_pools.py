"""Pools of the gateway in the test's own process, in front of a server."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tests.support.gateways import CALLER
from trace_dagster.rpc.gateway.config import GatewayConfig
from trace_dagster.rpc.gateway.jsonrpc import Call
from trace_dagster.rpc.gateway.metrics import Metrics
from trace_dagster.rpc.gateway.pool import Pool
from trace_dagster.rpc.gateway.records import Usage
from trace_dagster.rpc.gateway.resolved import resolve_config
from trace_dagster.rpc.gateway.running import Running


class AskedPool:
    """A running pool that can be asked.

    Attributes:
        running: what it belongs to.
        pool: the pool itself.
        metrics: where it counts.
    """

    def __init__(self, running: Running, metrics: Metrics) -> None:
        self.running, self.metrics = running, metrics
        self.pool: Pool = running.pools["tested"]

    async def ask(self, *calls: tuple[str, list[Any]]) -> tuple[list[Any], Usage]:
        """Return the results of ``calls``, JSON-RPC errors as they are, and what they took."""
        usage = Usage()
        asked = [Call(method, json.dumps(params).encode()) for method, params in calls]
        answers = await self.pool.answer(asked, CALLER, usage)
        return [json.loads(bytes(one.error or one.result or b"null")) for one in answers], usage


def with_pool(
    use: Callable[[AskedPool], Awaitable[None]],
    urls: Mapping[str, str],
    *,
    endpoint: Mapping[str, Any] | None = None,
    **config: Any,
) -> None:
    """Run ``use`` with a pool of anvil's chain.

    Args:
        use: asks it.
        urls: by the endpoints' names.
        endpoint: more fields of every endpoint.
        config: more fields of the whole configuration.
    """
    endpoints = [{"name": name, "url": f"env:{name.upper()}", **(endpoint or {})} for name in urls]
    pools = {"tested": {"chain_id": 31337, "endpoints": endpoints}}
    parsed = GatewayConfig.model_validate_json(json.dumps({"pools": pools, **config}))
    environment = {name.upper(): url for name, url in urls.items()}

    async def run() -> None:
        metrics = Metrics()
        running = Running(resolve_config(parsed, environment), metrics)
        await running.start()
        try:
            await use(AskedPool(running, metrics))
        finally:
            await running.close()

    asyncio.run(run())
