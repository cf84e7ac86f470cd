"""A chain that moves behind a gateway: its head, and reorganisations of it."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fault_proxy import FaultProxy
from tests.support.gateways import one_pool, running_gateway
from trace_dagster.testing.anvil import Anvil, running_anvil


@pytest.fixture
def anvil() -> Iterator[Anvil]:
    """A node with a few blocks."""
    with running_anvil() as node:
        node.call("anvil_mine", hex(10))
        yield node


def lagging(anvil: Anvil, blocks: int) -> FaultProxy:
    """A front that is some blocks behind."""
    front = FaultProxy(anvil.url)

    def head() -> int:
        return int(anvil.call("eth_blockNumber"), 16) - blocks

    front.results["eth_blockNumber"] = lambda _: hex(head())
    front.rewrite["eth_getBlockByNumber"] = lambda params, found: (
        found if params[0].startswith("0x") and int(params[0], 16) <= head() else None
    )
    return front


def test_the_head_grows_and_is_never_missing(anvil: Anvil, tmp_path: Path) -> None:
    """While blocks are mined, the head that the gateway tells never falls, and its block is always there."""
    fronts = [FaultProxy(anvil.url), lagging(anvil, 3)]
    environment = {"GW_ONE": fronts[0].url(), "GW_TWO": fronts[1].url(), "GW_NODE": anvil.url}
    config = one_pool(one={}, two={}, node={})
    with running_gateway(tmp_path, config, environment) as gateway, gateway.client("tested") as client:
        seen = []
        for _ in range(40):
            anvil.call("evm_mine")
            seen.append(client.block_number())
            block = client.call("eth_getBlockByNumber", [hex(seen[-1]), False])
            assert int(block["number"], 16) == seen[-1]
        assert seen == sorted(seen)
        until = time.monotonic() + 20
        while client.block_number() < 50:
            assert time.monotonic() < until
    for front in fronts:
        front.close()


@pytest.mark.parametrize("endpoints", [1, 2])
def test_a_reorganisation_passes_through(anvil: Anvil, tmp_path: Path, endpoints: int) -> None:
    """After a rollback the shorter head and the new branch come through, whatever was known before."""
    front = FaultProxy(anvil.url)
    environment = {"GW_ONE": anvil.url, "GW_TWO": front.url()}
    config = one_pool(**{name: {} for name in ("one", "two")[:endpoints]})
    with running_gateway(tmp_path, config, environment) as gateway, gateway.client("tested") as client:
        before = client.call("eth_getBlockByNumber", [hex(10), False])
        anvil.call("anvil_rollback", 3)
        until = time.monotonic() + 20
        while client.block_number() != 7:
            assert time.monotonic() < until
            time.sleep(0.05)
        anvil.call("evm_setNextBlockTimestamp", int(before["timestamp"], 16) + 1000)
        anvil.call("anvil_mine", hex(5))
        while client.block_number() != 12:
            assert time.monotonic() < until
            time.sleep(0.05)
        for number in range(13):
            found = client.call("eth_getBlockByNumber", [hex(number), False])
            assert found == anvil.call("eth_getBlockByNumber", hex(number), False), number  # noqa: FBT003
        assert client.call("eth_getBlockByHash", [before["hash"], False]) is None
    front.close()
