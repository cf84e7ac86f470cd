"""Pools of the gateway that keep answers on disk, in front of a real node."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fault_proxy import FaultProxy
from trace_dagster.errors import ConfigurationError
from trace_dagster.rpc.gateway.config import GatewayConfig
from trace_dagster.rpc.gateway.jsonrpc import Call
from trace_dagster.rpc.gateway.metrics import Metrics
from trace_dagster.rpc.gateway.records import Caller, Usage
from trace_dagster.rpc.gateway.resolved import resolve_config
from trace_dagster.rpc.gateway.running import Running
from trace_dagster.testing.anvil import Anvil, running_anvil

CALLER = Caller("test")
Ask = Callable[..., Awaitable[tuple[list[Any], Usage]]]


@pytest.fixture(scope="module")
def anvil() -> Iterator[Anvil]:
    """A node with 200 blocks, a transaction in block 201, and a hundred more."""
    with running_anvil() as node:
        node.call("anvil_mine", hex(200))
        account = node.call("eth_accounts")[0]
        node.call("eth_sendTransaction", {"from": account, "to": account, "value": "0x1"})
        node.call("anvil_mine", hex(100))
        yield node


@pytest.fixture
def front(anvil: Anvil) -> Iterator[FaultProxy]:
    """A front that counts what is asked."""
    proxy = FaultProxy(anvil.url)
    yield proxy
    proxy.close()


def _with_pool(front: FaultProxy, folder: Path, use: Callable[[Ask], Awaitable[None]]) -> None:
    """Let ``use`` ask a pool whose answers are kept in ``folder``."""
    config = GatewayConfig.model_validate_json(
        json.dumps(
            {
                "cache": {"path": str(folder), "max_bytes": 2**22},
                "pools": {"tested": {"chain_id": 31337, "endpoints": [{"name": "front", "url": "env:URL"}]}},
            }
        )
    )

    async def run() -> None:
        running = Running(resolve_config(config, {"URL": front.url()}), Metrics())
        await running.start()

        async def ask(*calls: tuple[str, list[Any]]) -> tuple[list[Any], Usage]:
            usage = Usage()
            asked = [Call(method, json.dumps(params).encode()) for method, params in calls]
            answers = await running.pools["tested"].answer(asked, CALLER, usage)
            return [
                json.loads(bytes(one.result)) if one.result is not None else one.error for one in answers
            ], usage

        try:
            await use(ask)
        finally:
            await running.close()

    asyncio.run(run())


def test_final_blocks_are_asked_for_once(anvil: Anvil, front: FaultProxy, tmp_path: Path) -> None:
    """Blocks far enough below the head come from disk the second time, those near it do not."""
    calls = [("eth_getBlockByNumber", [hex(number), False]) for number in (5, 100, 290)]
    expected = anvil.batch(calls)

    async def use(ask: Ask) -> None:
        first, usage = await ask(*calls)
        assert (first, usage.cache_hits, usage.requests) == (expected, 0, 3)
        second, usage = await ask(*calls)
        assert (second, usage.cache_hits, usage.requests) == (expected, 2, 1)

    _with_pool(front, tmp_path, use)
    assert front.calls["eth_getBlockByNumber"] == 4

    async def after_a_restart(ask: Ask) -> None:
        again, usage = await ask(*calls[:2])
        assert (again, usage.cache_hits, usage.requests) == (expected[:2], 2, 0)

    _with_pool(front, tmp_path, after_a_restart)
    assert front.calls["eth_getBlockByNumber"] == 4


def test_by_hash_and_by_transaction(anvil: Anvil, front: FaultProxy, tmp_path: Path) -> None:
    """A block by its hash, and a receipt of a final block, are kept; errors, null and the tip are not."""
    block = anvil.call("eth_getBlockByNumber", *("0xc9", False))
    receipt = anvil.call("eth_getTransactionReceipt", block["transactions"][0])
    kept = [
        ("eth_getBlockByHash", [block["hash"], False]),
        ("eth_getTransactionReceipt", [block["transactions"][0]]),
    ]
    other = [
        ("eth_getTransactionReceipt", ["0x" + "1" * 64]),
        ("eth_blockNumber", []),
        ("eth_getBlockByNumber", ["latest", False]),
        ("eth_call", [{"to": "0x" + "0" * 40}, "0xffffff"]),
    ]

    async def use(ask: Ask) -> None:
        first, _ = await ask(*kept, *other)
        assert first[:3] == [block, receipt, None]
        again, usage = await ask(*other, *kept)
        assert (again[-2:], usage.cache_hits) == ([block, receipt], 2)

    _with_pool(front, tmp_path, use)
    assert front.calls["eth_getBlockByHash"] == 1
    assert front.calls["eth_getTransactionReceipt"] == 3


def test_folder_that_cannot_be_used(front: FaultProxy, tmp_path: Path) -> None:
    """The gateway does not start with a cache that it cannot write."""
    (tmp_path / "file").write_text("")

    async def use(_ask: Ask) -> None:
        raise AssertionError

    with pytest.raises(ConfigurationError, match=r"cache\.path"):
        _with_pool(front, tmp_path / "file", use)
