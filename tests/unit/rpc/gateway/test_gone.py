"""Callers that go while their requests wait or are under way: nobody else notices."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.support.fault_proxy import FaultProxy
from tests.support.gates import Gate
from tests.support.gateways import asked, running_pool
from trace_dagster.rpc.gateway.pool import Pool
from trace_dagster.rpc.gateway.records import Usage

WHO = ("web3_clientVersion", [])


@pytest.fixture
def front() -> Iterator[FaultProxy]:
    """An endpoint that answers balances, and who it is."""
    proxy = FaultProxy()
    proxy.results = {
        "eth_chainId": "0x7a69",
        "eth_blockNumber": "0x10",
        "eth_getBalance": "0x1",
        "web3_clientVersion": "one",
    }
    yield proxy
    proxy.close()


def balance(number: int) -> tuple[str, list[Any]]:
    """A request, no two alike."""
    return "eth_getBalance", [f"0x{number:040x}", "0x5"]


def with_held(
    front: FaultProxy, use: Callable[[Pool, Gate], Awaitable[None]], concurrency: int, batch: int = 100
) -> None:
    """Run ``use`` with a pool of one endpoint, whose answers to requests about block 0x5 are held."""

    async def run() -> None:
        endpoint = {"limits": {"concurrency": concurrency}, "capabilities": {"batch": batch}}
        async with running_pool({"one": front}, {"one": endpoint}) as pool:
            await pool._learning.close()
            gate = Gate(5)
            front.intercept = gate
            try:
                await asyncio.wait_for(use(pool, gate), 30)
            finally:
                gate.open()

    asyncio.run(run())


async def gone(task: "asyncio.Task[Any]") -> None:
    """Cancel a caller's task, and wait until it has ended."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def in_flight(pool: Pool) -> int:
    """Return how many exchanges the endpoint's key counts."""
    return pool.endpoints[0].keys[0].in_flight


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition."""
    while not holds():
        await asyncio.sleep(0.005)


def test_those_who_asked_for_the_same_are_answered(front: FaultProxy) -> None:
    """Twenty callers wait for one request of a caller that goes: one request more answers them all."""

    async def use(pool: Pool, gate: Gate) -> None:
        first = asyncio.create_task(asked(pool, balance(1)))
        await asyncio.to_thread(gate.reached.wait)
        others = [asyncio.create_task(asked(pool, balance(1), WHO)) for _ in range(20)]
        await until(lambda: front.calls["web3_clientVersion"] == 1)
        await gone(first)
        gate.open()
        assert await asyncio.gather(*others) == [["0x1", "one"]] * 20
        await until(lambda: front.calls["eth_getBalance"] == 2)
        assert (in_flight(pool), pool.turns.waiting) == (0, 0)

    with_held(front, use, concurrency=4)


def test_a_follower_that_goes_takes_nothing_along(front: FaultProxy) -> None:
    """The caller that asked first is answered, by one request."""

    async def use(pool: Pool, gate: Gate) -> None:
        first = asyncio.create_task(asked(pool, balance(1)))
        await asyncio.to_thread(gate.reached.wait)
        follower = asyncio.create_task(asked(pool, balance(1)))
        await asyncio.sleep(0)
        await gone(follower)
        gate.open()
        assert await first == ["0x1"]
        assert front.calls["eth_getBalance"] == 1

    with_held(front, use, concurrency=4)


def test_what_waits_is_not_sent(front: FaultProxy) -> None:
    """A request whose caller goes before its turn is never sent, and its place is free."""

    async def use(pool: Pool, gate: Gate) -> None:
        first = asyncio.create_task(asked(pool, balance(1)))
        await asyncio.to_thread(gate.reached.wait)
        usage = Usage()
        waiting = asyncio.create_task(asked(pool, WHO, usage=usage))
        await until(lambda: pool.turns.waiting == 1)
        await gone(waiting)
        assert pool.turns.waiting == 0
        gate.open()
        assert await first == ["0x1"]
        assert await asked(pool, balance(2)) == ["0x1"]
        assert front.calls["web3_clientVersion"] == usage.requests == 0

    with_held(front, use, concurrency=1)


@pytest.mark.parametrize("pauses", [0, 1, 2, 5])
def test_every_exchange_of_a_batch_is_given_up(front: FaultProxy, pauses: int) -> None:
    """However far a batch of several exchanges is when its caller goes, no key stays in use."""

    async def use(pool: Pool, gate: Gate) -> None:
        usage = Usage()
        task = asyncio.create_task(asked(pool, *map(balance, range(10)), usage=usage))
        for _ in range(pauses):
            await asyncio.sleep(0)
        await gone(task)
        assert (in_flight(pool), pool.turns.waiting) == (0, 0)
        assert usage.requests in (0, 4)
        gate.open()
        assert await asked(pool, balance(11)) == ["0x1"]

    with_held(front, use, concurrency=4, batch=1)
