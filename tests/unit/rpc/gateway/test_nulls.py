"""Null and nothing, which an endpoint answers for what it does not have."""

import asyncio
import threading
from typing import Any

import pytest

from tests.support.fault_proxy import FaultProxy, FirstTimes, Reply, RpcFailure
from tests.support.gateway_fronts import HEAD, block, block_hash
from tests.support.gateways import asked, running_pool

HASH = block_hash(5)
TIERS = {"two": {"tier": 1}, "three": {"tier": 1}}
"""So that the first is always asked first."""


@pytest.mark.parametrize(
    ("method", "params", "result"),
    [
        ("eth_blockNumber", [], hex(HEAD)),
        ("eth_chainId", [], "0x7a69"),
        ("eth_gasPrice", [], "0x1"),
        ("net_version", [], "31337"),
        ("web3_clientVersion", [], "honest"),
        ("eth_getBlockByNumber", ["latest", False], block(["latest"])),
        ("eth_getBlockByNumber", ["0x" + "5".rjust(40, "0"), False], block(["0x5"])),
        ("eth_getBlockReceipts", ["latest"], []),
        ("eth_getTransactionByBlockNumberAndIndex", ["0x5", "0x0"], {"blockNumber": "0x5"}),
        ("eth_getTransactionByBlockHashAndIndex", [HASH, "0x0"], {"blockHash": HASH}),
        ("eth_getUncleCountByBlockNumber", ["0x5"], "0x0"),
        ("eth_getHeaderByNumber", ["0x5"], {"number": "0x5"}),
        ("eth_feeHistory", ["0x1", "0x5", []], {"oldestBlock": "0x5"}),
        ("eth_createAccessList", [{}, "0x5"], {"gasUsed": "0x0"}),
    ],
)
def test_null_is_not_believed_where_another_has_an_answer(
    fronts: dict[str, FaultProxy], method: str, params: list[Any], result: Any
) -> None:
    """Whatever was asked, at the head as well."""

    async def run() -> None:
        for one in fronts.values():
            one.results[method] = result
        async with running_pool(fronts, TIERS) as pool:
            fronts["one"].results[method] = None
            for _ in range(3):
                assert await asked(pool, (method, params)) == [result]

    asyncio.run(run())


def test_null_that_all_answer_is_the_answer(fronts: dict[str, FaultProxy]) -> None:
    """A transaction that is nowhere."""

    async def run() -> None:
        for one in fronts.values():
            one.results |= {"eth_getTransactionByBlockNumberAndIndex": None, "eth_getTransactionByHash": None}
        async with running_pool(fronts) as pool:
            assert await asked(pool, ("eth_getTransactionByBlockNumberAndIndex", ["0x5", "0x9"])) == [None]
            assert await asked(pool, ("eth_getTransactionByHash", [HASH])) == [None]

    asyncio.run(run())


@pytest.mark.parametrize("method", ["trace_filter", "erigon_getLogs", "eth_getLogs"])
@pytest.mark.parametrize("last", [hex(HEAD), "latest", None])
def test_a_range_is_not_asked_of_one_that_lags(
    fronts: dict[str, FaultProxy], method: str, last: str | None
) -> None:
    """It would answer with what it has of it."""
    of_range = {"fromBlock": hex(HEAD - 9)} | ({} if last is None else {"toBlock": last})

    async def run() -> None:
        for one in fronts.values():
            one.results[method] = [{"blockNumber": hex(HEAD), "blockHash": block_hash(HEAD)}]
        fronts["one"].results |= {"eth_blockNumber": hex(HEAD - 5), method: []}
        async with running_pool(fronts, TIERS) as pool:
            for _ in range(3):
                (found,) = await asked(pool, (method, [of_range]))
                assert len(found) == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "params"), [("eth_getLogs", [{"blockHash": block_hash(HEAD)}]), ("eth_getBlockReceipts", None)]
)
def test_nothing_of_a_block_by_its_hash(
    fronts: dict[str, FaultProxy], method: str, params: list[Any] | None
) -> None:
    """One that lags may not know the block; one that does not is believed."""
    asked_for = (method, params or [block_hash(HEAD)])
    whole = [{"blockNumber": hex(HEAD), "blockHash": block_hash(HEAD)}]

    async def run() -> None:
        for one in fronts.values():
            one.results[method] = whole
        fronts["one"].results |= {"eth_blockNumber": hex(HEAD - 1), method: []}
        async with running_pool(fronts, TIERS) as pool:
            assert await asked(pool, asked_for) == [whole]
        fronts["one"].results["eth_blockNumber"] = hex(HEAD)
        async with running_pool(fronts, TIERS) as pool:
            assert await asked(pool, asked_for) == [[]]

    asyncio.run(run())


def test_what_came_meanwhile_is_not_missed_by_sharing(fronts: dict[str, FaultProxy]) -> None:
    """Who asks for a block that another asked for before it was there does not get that one's null."""
    is_asked, may_answer = threading.Event(), threading.Event()

    def slow_null(_: list[Any]) -> None:
        fronts["one"].results["eth_getBlockByNumber"] = block([hex(HEAD)])
        is_asked.set()
        may_answer.wait(20)

    async def run() -> None:
        async with running_pool({"one": fronts["one"]}) as pool:
            fronts["one"].results["eth_getBlockByNumber"] = slow_null
            first = asyncio.create_task(asked(pool, ("eth_getBlockByNumber", [hex(HEAD), False])))
            await asyncio.to_thread(is_asked.wait, 20)
            second = asyncio.create_task(asked(pool, ("eth_getBlockByNumber", [hex(HEAD), False])))
            await asyncio.sleep(0)
            may_answer.set()
            assert await first == [None]
            assert await second == [block([hex(HEAD)])]

    asyncio.run(run())


def test_what_is_newest_is_not_shared(fronts: dict[str, FaultProxy]) -> None:
    """A nonce that is asked for after a transaction was sent is not the one from before."""
    is_asked, may_answer = threading.Event(), threading.Event()

    def slow(_: list[Any]) -> str:
        fronts["one"].results["eth_getTransactionCount"] = "0x2"
        is_asked.set()
        may_answer.wait(20)
        return "0x1"

    async def run() -> None:
        async with running_pool({"one": fronts["one"]}) as pool:
            fronts["one"].results["eth_getTransactionCount"] = slow
            nonce = ("eth_getTransactionCount", ["0x00", "pending"])
            first = asyncio.create_task(asked(pool, nonce))
            await asyncio.to_thread(is_asked.wait, 20)
            assert await asked(pool, nonce) == ["0x2"]
            may_answer.set()
            assert await first == ["0x1"]

    asyncio.run(run())


@pytest.mark.parametrize(
    "reply",
    [Reply(b"", 502), Reply(b"", 401), Reply(b"", 429, {"Retry-After": "600"})],
    ids=["502", "401", "429"],
)
@pytest.mark.parametrize("names", [("one", "two"), ("one", "two", "three")])
def test_null_where_an_endpoint_is_out_of_order(
    fronts: dict[str, FaultProxy], names: tuple[str, ...], reply: Reply
) -> None:
    """What is not there yet is not there, though one endpoint cannot be asked; a block below the head is."""

    async def run() -> None:
        for one in fronts.values():
            one.results["eth_getTransactionReceipt"] = None
        async with running_pool({name: fronts[name] for name in names}, finality_blocks=10) as pool:
            fronts["one"].intercept = lambda _: reply
            for number in range(8):
                assert await asked(pool, ("eth_getTransactionReceipt", [block_hash(number)])) == [None]
                assert await asked(pool, ("eth_getBlockByNumber", [hex(HEAD + 1), False])) == [None]
            for name in names:
                fronts[name].results["eth_getBlockReceipts"] = None
            ((_, status),) = await asked(pool, ("eth_getBlockReceipts", ["0x5"]))
            assert status in (429, 503)

    asyncio.run(run())


def test_null_of_two_beats_the_error_of_one(fronts: dict[str, FaultProxy]) -> None:
    """An endpoint that is still indexing does not know better."""

    def fail(_: list[Any]) -> Any:
        raise RpcFailure(-32000, "transaction indexing is in progress")

    async def run() -> None:
        for one in fronts.values():
            one.results["eth_getTransactionReceipt"] = None
        fronts["one"].results["eth_getTransactionReceipt"] = fail
        async with running_pool(fronts, TIERS) as pool:
            assert await asked(pool, ("eth_getTransactionReceipt", [HASH])) == [None]

    asyncio.run(run())


@pytest.mark.parametrize(
    "reply", [Reply(drop=True), Reply(b"", 429, {"Retry-After": "1"})], ids=["drop", "429"]
)
def test_null_is_not_believed_for_another_endpoints_moment_of_weakness(
    fronts: dict[str, FaultProxy], reply: Reply
) -> None:
    """One that failed, or wants a short pause, is asked again before null is handed out."""

    async def run() -> None:
        true = {"blockNumber": "0x5", "blockHash": HASH}
        fronts["one"].results["eth_getTransactionReceipt"] = None
        fronts["two"].results["eth_getTransactionReceipt"] = true
        chosen = {name: fronts[name] for name in ("one", "two")}
        async with running_pool(chosen, {"two": {"tier": 1}}) as pool:
            fronts["two"].intercept = FirstTimes(2, reply, "eth_getTransactionReceipt")
            assert await asked(pool, ("eth_getTransactionReceipt", [HASH])) == [true]

    asyncio.run(run())


def test_null_of_a_block_below_the_only_known_head(fronts: dict[str, FaultProxy]) -> None:
    """It is somewhere, though the other endpoint was never there."""

    async def run() -> None:
        fronts["two"].intercept = lambda _: Reply(b"", 502)
        fronts["one"].results["eth_getBlockReceipts"] = None
        async with running_pool({name: fronts[name] for name in ("one", "two")}) as pool:
            ((_, status),) = await asked(pool, ("eth_getBlockReceipts", ["0x5"]))
            assert status == 503

    asyncio.run(run())
