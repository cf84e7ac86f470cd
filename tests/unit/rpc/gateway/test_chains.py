"""Endpoints that serve another chain than they did: they are found out, and leave the pool."""

import asyncio

import pytest

from tests.support.fault_proxy import FaultProxy, Reply
from tests.support.gateways import asked, running_pool
from trace_dagster.rpc.gateway import learning
from trace_dagster.rpc.gateway.endpoint import Endpoint
from trace_dagster.rpc.gateway.pool import Pool

OURS, OTHER = "0x7a69", "0x5"


def named(pool: Pool, name: str) -> Endpoint:
    """Return an endpoint of a pool."""
    (endpoint,) = (one for one in pool.endpoints if one.name == name)
    return endpoint


async def until_it_is(pool: Pool, name: str, *, used: bool) -> None:
    """Wait until an endpoint was asked for its chain, and is used, or is not."""
    async with asyncio.timeout(30):
        while (named(pool, name).chain, named(pool, name).chain_checked) != (31337 if used else 5, used):
            await asyncio.sleep(0.01)


def test_what_callers_are_told_is_compared(
    fronts: dict[str, FaultProxy], caplog: pytest.LogCaptureFixture
) -> None:
    """No caller gets another chain's id; the endpoint leaves, and comes back once it serves ours again."""

    async def run() -> None:
        others = {"two": {"tier": 1}, "three": {"tier": 1}}
        async with running_pool(fronts, others) as pool:
            fronts["one"].results["eth_chainId"] = OTHER
            async with asyncio.timeout(30):
                while named(pool, "one").chain_checked:
                    assert await asked(pool, ("eth_chainId", [])) == [OURS]
            await until_it_is(pool, "one", used=False)
            assert named(pool, "one").reason == "wrong_chain: serves chain 5, not 31337"
            for _ in range(10):
                assert (await asked(pool, ("web3_clientVersion", [])))[0] != "one"
            fronts["one"].results["eth_chainId"] = OURS
            await until_it_is(pool, "one", used=True)

    asyncio.run(run())
    assert "endpoint one of pool tested serves chain 5, not 31337; it is not used" in caplog.text


def test_the_only_endpoint(fronts: dict[str, FaultProxy]) -> None:
    """Its pool has none then, and says why; a batch with the chain's id in it tells, too."""

    async def run() -> None:
        async with running_pool({"one": fronts["one"]}) as pool:
            fronts["one"].results["eth_chainId"] = OTHER
            for error, status in await asked(
                pool, ("eth_getBalance", ["0x00", "latest"]), ("eth_chainId", [])
            ):
                assert status == 503
                assert "serves chain 5, not 31337" in error["message"]

    asyncio.run(run())


def test_after_an_outage(fronts: dict[str, FaultProxy]) -> None:
    """What answers after its circuit was open may be something else."""

    async def run() -> None:
        async with running_pool({"one": fronts["one"]}, limits={"deadline_seconds": 1}) as pool:
            endpoint = named(pool, "one")
            fronts["one"].intercept = lambda _: Reply(b"", 500)
            async with asyncio.timeout(30):
                while endpoint.is_up(asyncio.get_running_loop().time()):
                    await asked(pool, ("eth_getCode", ["0x00", "latest"]))
            fronts["one"].results["eth_chainId"] = OTHER
            fronts["one"].intercept = lambda _: None
            async with asyncio.timeout(30):
                while endpoint.chain_checked:
                    await asked(pool, ("eth_getCode", ["0x00", "latest"]))
            await until_it_is(pool, "one", used=False)

    asyncio.run(run())


def test_with_each_probe(fronts: dict[str, FaultProxy], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody needs to ask for it."""
    monkeypatch.setattr(learning, "_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(learning, "_SECONDS_BETWEEN_LOOKS", 0.05)

    async def run() -> None:
        async with running_pool({"one": fronts["one"]}) as pool:
            fronts["one"].results["eth_chainId"] = OTHER
            await until_it_is(pool, "one", used=False)

    asyncio.run(run())


def test_a_network_that_is_not_the_chain(fronts: dict[str, FaultProxy]) -> None:
    """Some chains have another network id: it is passed on, and the chain looked at once for each."""

    async def run() -> None:
        async with running_pool({"one": fronts["one"]}) as pool:
            endpoint, front = named(pool, "one"), fronts["one"]
            for network in ("1", "2"):
                checked = front.calls["eth_chainId"]
                front.results["net_version"] = network
                for _ in range(3):
                    assert await asked(pool, ("net_version", [])) == [network]
                    async with asyncio.timeout(30):
                        while endpoint.is_doubted:
                            await asyncio.sleep(0.01)
                assert front.calls["eth_chainId"] == checked + 1
            front.results |= {"net_version": "5", "eth_chainId": OTHER}
            await asked(pool, ("net_version", []))
            await until_it_is(pool, "one", used=False)

    asyncio.run(run())
