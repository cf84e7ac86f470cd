"""How much of endpoints' replies is held at once."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fault_proxy import FaultProxy
from tests.support.gateways import CALLER, asked, running_pool
from trace_dagster.rpc.gateway.pool import Pool
from trace_dagster.rpc.gateway.records import Usage
from trace_dagster.rpc.gateway.replies import Held, ReplyRoom

CODE = "0x" + "ab" * 150_000
MOST = 700_000


@pytest.fixture
def front() -> Iterator[FaultProxy]:
    """An endpoint with answers of 300 KB, and short ones."""
    proxy = FaultProxy()
    proxy.results = {"eth_chainId": "0x7a69", "eth_blockNumber": "0x10", "eth_getBalance": "0x1"}
    proxy.results["eth_getCode"] = CODE
    yield proxy
    proxy.close()


def code(number: int) -> tuple[str, list[Any]]:
    """A request for a long answer, no two alike."""
    return "eth_getCode", [f"0x{number:040x}", "0x5"]


async def held(pool: Pool, room: ReplyRoom, *calls: tuple[str, list[Any]]) -> tuple[list[Any], Held]:
    """Return the answers to calls, and what is held for them."""
    holding = Held(room)
    return await asked(pool, *calls, caller=CALLER, usage=Usage(held=holding)), holding


def test_replies_are_held_until_callers_have_them(front: FaultProxy) -> None:
    """A third long answer does not fit beside two, which is told with the field; a short one does."""

    async def run() -> None:
        async with running_pool({"one": front}, limits={"max_reply_bytes_at_once": MOST}) as pool:
            room = pool.reply_room
            _, first = await held(pool, room, code(1))
            _, second = await held(pool, room, code(2))
            assert 600_000 < room.held_bytes < MOST
            [(error, status)], third = await held(pool, room, code(3))
            assert status == 503
            assert "limits.max_reply_bytes_at_once" in error["message"]
            assert await asked(pool, ("eth_getBalance", ["0x01", "0x5"])) == ["0x1"]
            second.give_back()
            [found], fourth = await held(pool, room, code(3))
            assert found == CODE
            for one in (first, third, fourth):
                one.give_back()
            assert room.held_bytes == 0
            assert pool.endpoints[0].keys[0].reason == ""

    asyncio.run(run())


def test_what_is_too_long_is_not_held(front: FaultProxy) -> None:
    """A reply that is refused while it is read takes no room, whoever asked."""
    limits = {"max_reply_bytes": 200_000, "max_reply_bytes_at_once": MOST}

    async def run() -> None:
        async with running_pool({"one": front}, limits=limits, hedge_after_seconds=0) as pool:
            front.gzip = True
            [(_, status)], _ = await held(pool, pool.reply_room, code(1))
            assert status == 503
            await asked(pool, code(2))
            assert pool.reply_room.held_bytes == 0

    asyncio.run(run())


def test_no_more_is_given_back_than_was_taken() -> None:
    """Whoever gives back what all was given back of before changes nothing."""
    room = ReplyRoom(1_000_000)
    held = Held(room)
    held.take(300_000)
    held.drop(bytes(100_000))
    assert room.held_bytes == 200_000
    held.give_back()
    held.give_back(100_000)
    held.drop(bytes(100_000))
    assert room.held_bytes == 0
