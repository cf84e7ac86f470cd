"""Pools of the gateway find out what their endpoints can do, and do not ask for what is not there."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fault_proxy import Exchange, FaultProxy, Reply, RpcFailure
from tests.support.gateway_pools import AskedPool, with_pool
from trace_dagster.rpc.gateway.config import Capabilities
from trace_dagster.testing.anvil import Anvil, running_anvil

NOT_FOUND = -32601


@pytest.fixture(scope="module")
def anvil() -> Iterator[Anvil]:
    """A node with 300 blocks."""
    with running_anvil() as node:
        node.call("anvil_mine", hex(300))
        yield node


@pytest.fixture
def front(anvil: Anvil) -> Iterator[FaultProxy]:
    """A front of the node that can be told to lack something."""
    proxy = FaultProxy(anvil.url)
    yield proxy
    proxy.close()


def _lack(front: FaultProxy, *methods: str) -> None:
    def refuse(_params: list[Any]) -> Any:
        raise RpcFailure(NOT_FOUND, "Method not found")

    for method in methods:
        front.results[method] = refuse


async def _learned(pool: AskedPool) -> list[Capabilities]:
    """Wait until every endpoint was examined."""
    async with asyncio.timeout(30):
        while any(one.capabilities.receipts is None for one in pool.pool.endpoints):
            await asyncio.sleep(0.02)
    return [one.capabilities for one in pool.pool.endpoints]


def test_everything_is_found(front: FaultProxy) -> None:
    """A real node is found to have everything; what was found stands in the health."""

    async def use(pool: AskedPool) -> None:
        (found,) = await _learned(pool)
        assert found == Capabilities(archive=True, traces=True, debug=True, receipts=True)
        _, health = pool.running.health()
        assert health["pools"]["tested"]["endpoints"][0]["capabilities"]["archive"] is True

    with_pool(use, {"front": front.url()})


def test_what_it_asks_for_its_own_sake_is_counted(front: FaultProxy) -> None:
    """All that an endpoint was asked is counted: what callers caused as theirs, the rest as the gateway's."""

    async def use(pool: AskedPool) -> None:
        await _learned(pool)
        _, usage = await pool.ask(("eth_getBalance", ["0x" + "0" * 40, "0x5"]), ("eth_gasPrice", []))
        assert usage.requests == 2
        labels = {"pool": "tested", "token": "gateway", "job": ""}
        own = {
            name: pool.metrics.registry.get_sample_value(f"trace_gateway_{name}_total", labels)
            for name in ("upstream_requests", "credits")
        }
        asked = sum(front.calls.values()) - usage.requests
        assert own == {"upstream_requests": asked, "credits": 2.5 * asked}

    costs = {"provider": {"default": 2.5}}
    with_pool(use, {"front": front.url()}, endpoint={"costs": "provider"}, costs=costs)


def test_what_is_not_there_is_not_asked_for(front: FaultProxy, anvil: Anvil) -> None:
    """A method that one endpoint lacks goes to the other at once, without a failure."""
    _lack(front, "trace_block", "eth_getBlockReceipts")
    expected = anvil.call("trace_block", "0x5")

    async def use(pool: AskedPool) -> None:
        lacking, _ = await _learned(pool)
        assert (lacking.traces, lacking.receipts, lacking.debug) == (False, False, True)
        before = front.calls["trace_block"]
        for _ in range(20):
            found, usage = await pool.ask(("trace_block", ["0x5"]), ("eth_getBlockReceipts", ["0x5"]))
            assert found == [expected, []]
            assert usage.retries == 0
        assert front.calls["trace_block"] == before

    with_pool(use, {"front": front.url(), "node": anvil.url})


@pytest.mark.parametrize("endpoint", [{}, {"capabilities": {"traces": False}}])
def test_method_that_nobody_has(front: FaultProxy, endpoint: dict[str, Any]) -> None:
    """Every time it is answered as an endpoint would: clients that can do without it go on without it."""
    _lack(front, "trace_block")

    async def use(pool: AskedPool) -> None:
        for _ in range(3):
            (found,), _usage = await pool.ask(("trace_block", ["0x5"]))
            assert found["code"] == NOT_FOUND
        await _learned(pool)
        (found,), _usage = await pool.ask(("trace_block", ["0x5"]))
        assert found == {
            "code": NOT_FOUND,
            "message": "the method trace_block is not available: no endpoint of pool tested has it",
        }

    with_pool(use, {"front": front.url()}, endpoint=endpoint)


def test_log_range(front: FaultProxy) -> None:
    """A limit of logs is found out, and longer ranges are split from the first request on."""
    refused = []

    def limit(params: list[Any], result: Any) -> Any:
        if int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16) >= 10:
            refused.append(params)
            raise RpcFailure(-32000, "block range is too wide: at most 10 blocks")
        return result

    front.rewrite["eth_getLogs"] = limit

    async def use(pool: AskedPool) -> None:
        (found,) = await _learned(pool)
        async with asyncio.timeout(30):
            while found.log_range is None:
                await asyncio.sleep(0.02)
                found = pool.pool.endpoints[0].capabilities
        assert found.log_range == 10
        refused.clear()
        (logs,), usage = await pool.ask(("eth_getLogs", [{"fromBlock": "0x1", "toBlock": "0x1e"}]))
        assert (logs, usage.requests, refused) == ([], 3, [])

    with_pool(use, {"front": front.url()})


def test_what_the_configuration_says_stays(front: FaultProxy) -> None:
    """What is known is neither asked nor overruled."""
    said = {"archive": False, "traces": False, "debug": True, "receipts": True, "log_range": 7}

    async def use(pool: AskedPool) -> None:
        await asyncio.sleep(0.2)
        assert pool.pool.endpoints[0].capabilities == Capabilities.model_validate(said)

    with_pool(use, {"front": front.url()}, endpoint={"capabilities": said})
    assert set(front.calls) <= {"eth_chainId", "eth_blockNumber"}


def test_method_refused_by_status_costs_no_key(front: FaultProxy) -> None:
    """A provider that answers HTTP 403 to a method that is not in the plan is asked for all else at once."""
    body = b'{"error": {"code": -32600, "message": "trace_block is not available on the Free tier"}}'

    def refuse(exchange: Exchange) -> Reply | None:
        return Reply(body, 403) if exchange.calls[0]["method"] == "trace_block" else None

    front.intercept = refuse

    async def use(pool: AskedPool) -> None:
        (found,) = await _learned(pool)
        assert (found.traces, found.debug) == (False, True)
        (answer,), _ = await pool.ask(("trace_block", ["0x5"]))
        assert answer["code"] == NOT_FOUND
        (head,), usage = await pool.ask(("eth_blockNumber", []))
        assert (head, usage.retries) == ("0x12c", 0)

    with_pool(use, {"front": front.url()})
