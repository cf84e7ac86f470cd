"""Heads that are wrong: what one endpoint says alone makes no block final, nor honest answers fail."""

import asyncio
import threading
from typing import Any

import pytest

from tests.support.fault_proxy import FaultProxy, Reply
from tests.support.gateway_fronts import HEAD, block, block_hash
from tests.support.gateways import asked, running_pool
from trace_dagster.rpc.gateway.pool import Pool

FAR = HEAD + 1_000_000


def lie(front: FaultProxy, head: int) -> None:
    """Let a front claim that its newest block is ``head``, and make such a block up."""

    def made_up(params: list[Any]) -> Any:
        number = head if params[0] == "latest" else int(params[0], 16)
        return {"number": hex(number), "hash": block_hash(number, "f")} if number > HEAD else block(params)

    front.results |= {"eth_blockNumber": hex(head), "eth_getBlockByNumber": made_up}


async def _heard(pool: Pool, name: str, head: int) -> None:
    """Wait until the pool has heard of an endpoint's head."""
    (endpoint,) = (one for one in pool.endpoints if one.name == name)
    async with asyncio.timeout(30):
        while endpoint.head != head:
            pool.heads.asked()
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("honest", [("two", "three"), ("two",)])
def test_a_head_far_above_all_others(
    fronts: dict[str, FaultProxy], honest: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """Of three endpoints, or of two that agreed before, one leaps ahead: it is not asked for what is new."""

    async def run() -> None:
        chosen = {name: fronts[name] for name in ("one", *honest)}
        async with running_pool(chosen) as pool:
            assert (pool.heads.head, pool.heads.agreed) == (HEAD, HEAD)
            lie(fronts["one"], FAR)
            await _heard(pool, "one", FAR)
            assert (pool.heads.head, pool.heads.agreed) == (HEAD, HEAD)
            asked_before = fronts["one"].calls["eth_getCode"]
            for _ in range(10):
                assert await asked(pool, ("eth_blockNumber", [])) == [hex(HEAD)]
                assert await asked(pool, ("eth_getBlockByNumber", ["latest", False])) == [block(["latest"])]
                assert await asked(pool, ("eth_getBlockByNumber", [hex(HEAD + 1), False])) == [None]
                assert await asked(pool, ("eth_getCode", ["0x00", "latest"])) == ["0x00"]
                (old,) = await asked(pool, ("eth_getBlockByNumber", ["0x32", False]))
                assert old["hash"] == block_hash(50)
            assert fronts["one"].calls["eth_getCode"] == asked_before

    asyncio.run(run())
    assert f"endpoint one of pool tested says that its newest block is {FAR}" in caplog.text


def test_it_is_asked_again_once_it_tells_the_truth(fronts: dict[str, FaultProxy]) -> None:
    """An endpoint that was far ahead comes back by itself."""

    async def run() -> None:
        truth = dict(fronts["one"].results)
        lie(fronts["one"], FAR)
        async with running_pool(fronts) as pool:
            await _heard(pool, "one", FAR)
            fronts["one"].results |= truth
            await _heard(pool, "one", HEAD)
            for name in ("two", "three"):
                fronts[name].results["eth_blockNumber"] = hex(HEAD - 1)
                await _heard(pool, name, HEAD - 1)
            assert await asked(pool, ("web3_clientVersion", [])) in (["one"], ["two"], ["three"])
            assert await asked(pool, ("eth_getBlockByNumber", [hex(HEAD), False])) == [block([hex(HEAD)])]

    asyncio.run(run())


def test_two_that_never_agreed_make_nothing_final(fronts: dict[str, FaultProxy]) -> None:
    """Of two, nobody can say which is wrong: both are asked, and the lower one says what is final."""

    async def run() -> None:
        lie(fronts["one"], FAR)
        async with running_pool({name: fronts[name] for name in ("one", "two")}) as pool:
            assert (pool.heads.head, pool.heads.agreed) == (FAR, HEAD)
            assert not pool.agreement.is_final(HEAD)
            (found,) = await asked(pool, ("eth_getBlockByNumber", ["0x32", False]))
            assert found["hash"] == block_hash(50)

    asyncio.run(run())


def test_finality_needs_two_endpoints(fronts: dict[str, FaultProxy]) -> None:
    """A head a little ahead is believed for what is new, not for what is final; nor is the only one left."""

    async def run() -> None:
        async with running_pool(fronts, finality_blocks=10) as pool:
            lie(fronts["one"], HEAD + 200)
            await _heard(pool, "one", HEAD + 200)
            assert (pool.heads.head, pool.heads.agreed) == (HEAD + 200, HEAD)
            assert not pool.agreement.is_final(HEAD)
            assert pool.agreement.is_final(HEAD - 10)
            for name in ("two", "three"):
                fronts[name].intercept = lambda _: Reply(b"", 403)
            async with asyncio.timeout(30):
                while sum(one.is_up(asyncio.get_running_loop().time()) for one in pool.endpoints) > 1:
                    pool.heads.asked()
                    await asyncio.sleep(0.02)
            assert pool.heads.agreed == HEAD

    asyncio.run(run())


def test_others_that_stand_still_do_not_hold_the_head_back(fronts: dict[str, FaultProxy]) -> None:
    """An endpoint that goes on block by block is believed, however far behind all others stay."""

    async def run() -> None:
        async with running_pool(fronts) as pool:
            for head in range(HEAD + 100, HEAD + 1001, 100):
                lie(fronts["one"], head)
                await _heard(pool, "one", head)
                assert (pool.heads.head, pool.heads.agreed) == (head, HEAD)

    asyncio.run(run())


def test_a_lie_is_not_handed_out_once_the_first_who_asked_has_gone(fronts: dict[str, FaultProxy]) -> None:
    """Who waited for another's comparison makes it for itself."""
    is_asked, may_answer = threading.Event(), threading.Event()

    def lying(params: list[Any]) -> Any:
        true = block(params)
        return {**true, "hash": block_hash(5, "f")} if params[0] == "0x5" else true

    def slow(params: list[Any]) -> Any:
        if params[0] == "0x5":
            is_asked.set()
            may_answer.wait(20)
        return block(params)

    async def run() -> None:
        tiers = {"two": {"tier": 1}, "three": {"tier": 1}}
        fronts["one"].results |= {
            "eth_getBlockByNumber": lying,
            "eth_getBlockReceipts": [{"blockNumber": "0x5", "blockHash": block_hash(5, "f")}],
        }
        for name in ("two", "three"):
            true = [{"blockNumber": "0x5", "blockHash": block_hash(5)}]
            fronts[name].results |= {"eth_getBlockByNumber": slow, "eth_getBlockReceipts": true}
        async with running_pool(fronts, tiers, finality_blocks=10, hedge_after_seconds=0) as pool:
            first = asyncio.create_task(asked(pool, ("eth_getBlockByNumber", ["0x5", False])))
            await asyncio.to_thread(is_asked.wait, 20)
            second = asyncio.create_task(asked(pool, ("eth_getBlockReceipts", ["0x5"])))
            before = fronts["one"].calls["eth_getBlockReceipts"]
            async with asyncio.timeout(20):
                while fronts["one"].calls["eth_getBlockReceipts"] == before:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            may_answer.set()
            ((found,),) = await second
            assert found["blockHash"] == block_hash(5)

    asyncio.run(run())
